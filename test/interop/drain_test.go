package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

func TestSIGTERMDrains(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	client := redis.Client()
	first := counting(t, redis.URL(), "first", "--grace", "3s")
	// Two end within the grace period, two do not, one waits in the queue.
	ids := value[[]string](python, `[send("hold", n, s) for n, s in enumerate([1.5, 2, 60, 60, 0])]`)
	eventually(t, patience, "four calls run", func() bool { return ran(t, client, "interop:begun").runs == 4 })
	start := time.Now()
	first.terminate()
	if code := first.ends(); code != 0 {
		t.Errorf("want exit code 0, got %d", code)
	}
	if took := time.Since(start); took < 2500*time.Millisecond || took > 8*time.Second {
		t.Errorf("want it to end after the grace period of 3s, and soon; it took %v", took)
	}
	if got := fmt.Sprint(ran(t, client, "interop:runs").byN); got != "map[0:1 1:1]" {
		t.Errorf("want calls 0 and 1 ended, got %s", got)
	}
	if n := client.LLen(t.Context(), "celery").Val(); n != 3 {
		t.Errorf("want three calls in the queue, given back at once, got %d", n)
	}
	settled(t, client)

	counting(t, redis.URL(), "second")
	eventually(t, patience, "the rest has begun", func() bool { return ran(t, client, "interop:begun").runs == 7 })
	got := ran(t, client, "interop:begun")
	if fmt.Sprint(got.byN, got.byWho) != "map[0:1 1:1 2:2 3:2 4:1] map[first:4 second:3]" {
		t.Errorf("want calls 2 and 3 begun once more, and 4 for the first time, got %v by %v", got.byN, got.byWho)
	}
	for _, id := range ids[:2] {
		if state := value[string](python, fmt.Sprintf(`state(%q)`, id)); state != "SUCCESS" {
			t.Errorf("want SUCCESS of what ended, got %s", state)
		}
	}
}

// A worker that is told to end when it has nothing to do ends at once.
func TestSIGTERMIdle(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	p := worker(t, redis.URL())
	start := time.Now()
	p.terminate()
	if code := p.ends(); code != 0 || time.Since(start) > 3*time.Second {
		t.Errorf("want exit code 0 at once, got %d after %v", code, time.Since(start))
	}
	if !strings.Contains(p.out.String(), `"msg":"ended"`) {
		t.Errorf("want it to say so:\n%s", p.out.String())
	}
}
