package tasks

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestRunsAtOnce is what a redelivery makes of a slow call: both run, and leave
// what one leaves.
func TestRunsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 500 {
		ago := time.Duration(500-i) * time.Hour
		w.push("chat:messages:u1", chat(fmt.Sprint(i), []string{"great", "bad", "a door"}[i%3], ago))
		w.push("activity:games:u1", played([]string{"party", "racing"}[i%2], ago))
	}
	week := map[string]any{"window": "7d"}
	w.mustCall(AnalyzeChatSentiment, week, "u1")
	w.mustCall(UpdatePersonality, nil, "u1")
	want := w.dump()
	if err := w.redis.Del(t.Context(), "personality:profile:u1", "personality:trend:u1").Err(); err != nil {
		t.Fatalf("deleting: %v", err)
	}
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			if _, err := w.call(AnalyzeChatSentiment, week, "u1"); err != nil {
				t.Errorf("analyzing: %v", err)
			}
			if _, err := w.call(UpdatePersonality, nil, "u1"); err != nil {
				t.Errorf("updating: %v", err)
			}
		})
	}
	wait.Wait()
	if got := w.dump(); got != want {
		t.Errorf("four at once left\n%s\none leaves\n%s", got, want)
	}
}
