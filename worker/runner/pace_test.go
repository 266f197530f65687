package runner

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

func TestAhead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		runs   []time.Duration
		want   int
	}{
		{"nothing is known", nil, 0},
		{"empty runs, many of them", repeated(0, 300), 8 * 4},
		{"most of a millisecond", repeated(900*time.Microsecond, 300), 2 * 4},
		{"longer than what is taken ahead", repeated(5*time.Millisecond, 300), 0},
		{"a long one among short ones", append(repeated(0, 300), time.Second), 0},
	} {
		var p pace
		p.slow()
		for _, run := range c.runs {
			p.saw(run)
		}
		if got := p.ahead(4); got != c.want {
			t.Errorf("%s: %d ahead of 4 slots, want %d", c.reason, got, c.want)
		}
	}
}

func repeated(d time.Duration, n int) []time.Duration {
	all := make([]time.Duration, n)
	for i := range all {
		all[i] = d
	}
	return all
}

// What was taken ahead and then met long runs must not wait for them.
func TestWhatWasTakenAheadIsGivenBack(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	release := make(chan struct{})
	defer close(release)
	var holding atomic.Int64
	registry := Registry{
		"short": fails(nil),
		"hold": func(ctx context.Context, _ *Call) (any, error) {
			holding.Add(1)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return nil, nil
		},
	}
	first := s.start(registry, func(c *Config) { c.Grace = time.Millisecond })
	var batch []celery.Signature
	for range 600 { // until its pace is known
		batch = append(batch, celery.Signature{Task: "short", Queue: "q"})
	}
	for range 4 {
		batch = append(batch, celery.Signature{Task: "hold", Queue: "q"})
	}
	for i := range 20 {
		batch = append(batch, celery.Signature{ID: fmt.Sprint(i), Task: "short", Queue: "q"})
	}
	if err := s.broker.Enqueue(t.Context(), batch...); err != nil {
		t.Fatal(err)
	}
	s.wait("all slots to be held", func() bool { return holding.Load() == 4 })
	s.start(registry)
	for i := range 20 {
		s.waitResult(fmt.Sprint(i), celery.Success)
	}
	if err := first.end(); err != nil {
		t.Error(err)
	}
}
