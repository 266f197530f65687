package runner

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

func TestSurvivesARedisThatIsAway(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	release := make(chan struct{})
	var runs atomic.Int64
	w := s.start(Registry{
		"long":  counted(&runs, func(context.Context, *Call) (any, error) { <-release; return "kept", nil }),
		"short": fails(nil),
	}, func(c *Config) { c.Lease = 30 * time.Second })
	s.send(celery.Signature{ID: "a", Task: "long"})
	s.waitResult("a", celery.Started)

	s.server.Pause()
	s.wait("the worker to notice", func() bool { return !w.Ready() })
	close(release) // ends while Redis is away: its result is kept until it is back
	s.server.Resume()
	if r := s.waitResult("a", celery.Success); string(r.Value) != `"kept"` {
		t.Errorf("the result is %s", r.Value)
	}
	s.wait("the worker to be ready again", w.Ready)
	s.waitNothingHeld()
	if runs.Load() != 1 {
		t.Errorf("the call ran %d times, want once", runs.Load())
	}

	s.server.Restart() // empty: scripts are gone, connections too
	s.send(celery.Signature{ID: "b", Task: "short"})
	s.waitResult("b", celery.Success)
	if text := w.logs.String(); strings.Count(text, "Redis does not answer") > 3 || !strings.Contains(text, "Redis answers again") {
		t.Errorf("the outage is not said once: %s", text)
	}
}

func TestEndsWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	running := make(chan struct{})
	w := s.start(Registry{"long": func(ctx context.Context, call *Call) (any, error) { close(running); return untilEnded(ctx, call) }},
		func(c *Config) { c.Grace = 10 * time.Millisecond })
	s.send(celery.Signature{ID: "a", Task: "long"})
	<-running
	s.server.Pause()
	began := time.Now()
	if err := w.end(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the end took %v", took)
	}
	// What could not be given back is put back after the lease.
	s.server.Resume()
	s.start(Registry{"long": fails(nil)})
	s.waitResult("a", celery.Success)
	s.waitNothingHeld()
}

// A key of another type must not keep other calls from ending.
func TestARefusedEndingHoldsNothingElseUp(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	ctx := t.Context()
	s.redis.HSet(ctx, "weir.dead.q", "not", "a list")
	s.start(Registry{"bad": fails(Permanent(errBoom)), "good": fails(nil)})
	s.send(celery.Signature{ID: "bad", Task: "bad"})
	for _, id := range []string{"a", "b", "c"} {
		s.send(celery.Signature{ID: id, Task: "good"})
	}
	for _, id := range []string{"a", "b", "c"} {
		s.waitResult(id, celery.Success)
	}
	s.redis.Del(ctx, "weir.dead.q")
	s.send(celery.Signature{ID: "again", Task: "bad"})
	s.waitResult("again", celery.Failure)
}
