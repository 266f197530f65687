package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// counted counts its runs and does what f says.
func counted(runs *atomic.Int64, f Handler) Handler {
	return func(ctx context.Context, call *Call) (any, error) {
		runs.Add(1)
		return f(ctx, call)
	}
}

func fails(err error) Handler {
	return func(context.Context, *Call) (any, error) { return nil, err }
}

// untilEnded returns when its context ends, as a task should.
func untilEnded(ctx context.Context, _ *Call) (any, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestSuccess(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.start(Registry{"greet": func(_ context.Context, call *Call) (any, error) {
		var in struct {
			Name string `json:"name"`
		}
		err := call.Bind(&in)
		return map[string]string{"hello": in.Name}, err
	}})
	s.send(celery.Signature{ID: "a", Task: "greet", Args: []any{"world"}, ResultTTL: time.Hour})
	r := s.waitResult("a", celery.Success)
	if string(r.Value) != `{"hello":"world"}` {
		t.Errorf("the result is %s", r.Value)
	}
	if ttl := s.redis.TTL(t.Context(), "celery-task-meta-a").Val(); ttl <= 59*time.Minute || ttl > time.Hour {
		t.Errorf("the result is kept for %v, want the hour that the message says", ttl)
	}
	s.waitNothingHeld()
}

func TestRetriesUntilItSucceeds(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	var runs atomic.Int64
	s.start(Registry{"flaky": counted(&runs, func(_ context.Context, call *Call) (any, error) {
		if call.Retries < 2 {
			return nil, errors.New("not yet")
		}
		return call.Retries, nil
	})})
	s.send(celery.Signature{ID: "a", Task: "flaky"})
	s.waitResult("a", celery.Retry)
	if r := s.waitResult("a", celery.Success); string(r.Value) != "2" || runs.Load() != 3 {
		t.Errorf("the result is %s after %d runs, want 2 after 3", r.Value, runs.Load())
	}
	s.waitNothingHeld()
}

func TestWhatFailsForGoodIsADeadLetter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason  string
		handler Handler
		call    celery.Signature
		runs    int64
		letter  string
		says    string
	}{
		{"retries are exhausted", fails(errors.New("boom")), celery.Signature{}, 3, "exhausted", "boom"},
		{"the message allows none", fails(errors.New("boom")), celery.Signature{Retry: &celery.RetryPolicy{}}, 1, "exhausted", "boom"},
		{"a retry is of no use", fails(Permanent(errors.New("boom"))), celery.Signature{}, 1, "failed", "boom"},
		{"a panic", func(context.Context, *Call) (any, error) { panic("ouch") }, celery.Signature{}, 3, "exhausted", "panic: ouch"},
		{"a result that is no JSON", func(context.Context, *Call) (any, error) { return func() {}, nil }, celery.Signature{}, 1, "failed", "encoding the result"},
		{"an argument that is missing", func(_ context.Context, call *Call) (any, error) {
			return nil, call.Bind(&struct {
				UserID string `json:"user_id"`
			}{})
		}, celery.Signature{}, 1, "failed", `missing the argument "user_id"`},
		{"the soft time limit, each time", untilEnded, celery.Signature{SoftTimeLimit: time.Millisecond, TimeLimit: time.Minute}, 3, "exhausted", "soft time limit"},
		{"the hard time limit, for good", untilEnded, celery.Signature{TimeLimit: time.Millisecond}, 1, "exhausted", "time limit is exceeded (1ms)"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			var runs atomic.Int64
			s.start(Registry{"task": counted(&runs, c.handler)})
			c.call.ID, c.call.Task = "a", "task"
			s.send(c.call)
			r := s.waitResult("a", celery.Failure)
			letter := s.letter()
			if letter.Reason != c.letter || letter.ID != "a" || !strings.Contains(letter.Error, c.says) || !strings.Contains(r.Error, c.says) {
				t.Errorf("the dead letter is %+v and the result says %q, want %s: %s", letter, r.Error, c.letter, c.says)
			}
			if runs.Load() != c.runs {
				t.Errorf("it ran %d times, want %d", runs.Load(), c.runs)
			}
			s.waitNothingHeld()
		})
	}
}

func TestWhatIsNotRun(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	var runs atomic.Int64
	if err := s.broker.Revoke(t.Context(), "revoked", false); err != nil {
		t.Fatal(err)
	}
	for _, call := range []celery.Signature{
		{ID: "revoked", Task: "task"},
		{ID: "expired", Task: "task", Expires: time.Now().Add(-time.Second)},
	} {
		s.send(call)
	}
	s.redis.LPush(t.Context(), "q", "no JSON at all")
	w := s.start(Registry{"task": counted(&runs, fails(nil))})
	for _, id := range []string{"revoked", "expired"} {
		if r := s.waitResult(id, celery.Revoked); r.Error != "TaskRevokedError: "+id {
			t.Errorf("%s: the result says %q", id, r.Error)
		}
	}
	if letter := s.letter(); letter.Reason != "unreadable" || letter.Message != "no JSON at all" {
		t.Errorf("the dead letter is %+v", letter)
	}
	s.waitNothingHeld()
	if runs.Load() != 0 {
		t.Errorf("%d calls ran", runs.Load())
	}
	if err := w.end(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
}

func TestETAIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	ran := make(chan time.Time, 1)
	s.start(Registry{"task": func(context.Context, *Call) (any, error) { ran <- time.Now(); return nil, nil }})
	eta := time.Now().Add(1500 * time.Millisecond)
	s.send(celery.Signature{ID: "a", Task: "task", ETA: eta})
	select {
	case at := <-ran:
		if at.Before(eta) {
			t.Errorf("it ran %v too early", eta.Sub(at))
		}
	case <-time.After(waitTime):
		t.Error("it did not run")
	}
}

func TestUnknownTasksPassToOtherWorkers(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	var runs atomic.Int64
	s.start(Registry{"mine": fails(nil)})
	s.send(celery.Signature{ID: "a", Task: "theirs"})
	s.wait("the message to be passed on", func() bool { return s.redis.HLen(t.Context(), "unacked").Val() == 1 })
	s.start(Registry{"theirs": counted(&runs, fails(nil))})
	s.waitResult("a", celery.Success)
	if runs.Load() != 1 {
		t.Errorf("it ran %d times", runs.Load())
	}
}

func TestChildrenAreEnqueuedOnce(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	var childRuns atomic.Int64
	s.start(Registry{
		"parent": func(ctx context.Context, call *Call) (any, error) {
			ids, err := call.Enqueue(ctx,
				Child{Key: "u1", Signature: celery.Signature{Task: "child", Args: []any{"u1"}}},
				Child{Key: "u2", Signature: celery.Signature{Task: "child", Args: []any{"u2"}}})
			if err == nil && call.Retries == 0 {
				err = errors.New("fails after it has enqueued")
			}
			return ids, err
		},
		"child": counted(&childRuns, func(_ context.Context, call *Call) (any, error) { return call.Queue, nil }),
	})
	s.send(celery.Signature{ID: "a", Task: "parent", PeriodicTask: "ns/name"})
	var ids []string
	if err := json.Unmarshal(s.waitResult("a", celery.Success).Value, &ids); err != nil || len(ids) != 2 {
		t.Fatalf("the children are %v, error %v", ids, err)
	}
	for _, id := range ids {
		if r := s.waitResult(id, celery.Success); string(r.Value) != `"q"` {
			t.Errorf("child %s ran on %s", id, r.Value)
		}
	}
	s.waitNothingHeld()
	if childRuns.Load() != 2 {
		t.Errorf("the children ran %d times, want once each", childRuns.Load())
	}
	meta := s.redis.Get(t.Context(), "celery-task-meta-a").Val()
	if want := fmt.Sprintf(`"children":[[[%q,null],null],[[%q,null],null]]`, ids[0], ids[1]); !strings.Contains(meta, want) {
		t.Errorf("Celery's record does not name the children: %s", meta)
	}
}

func TestEndGivesBackWhatIsLeft(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	running := make(chan string, 8)
	w := s.start(Registry{"task": func(ctx context.Context, call *Call) (any, error) {
		running <- call.ID
		return untilEnded(ctx, call)
	}}, func(c *Config) { c.Grace = 10 * time.Millisecond })
	for i := range 4 {
		s.send(celery.Signature{ID: fmt.Sprint(i), Task: "task"})
	}
	for range 4 {
		<-running
	}
	if err := w.end(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	s.waitNothingHeld()
	if waiting := s.redis.LLen(t.Context(), "q").Val(); waiting != 4 {
		t.Errorf("%d messages wait again, want 4", waiting)
	}
	var runs atomic.Int64
	s.start(Registry{"task": counted(&runs, func(_ context.Context, call *Call) (any, error) { return call.Retries, nil })})
	for i := range 4 {
		if r := s.waitResult(fmt.Sprint(i), celery.Success); string(r.Value) != "0" {
			t.Errorf("call %d was given back as retry %s", i, r.Value)
		}
	}
}

// A call that heeds nothing is given back too: the process ends right after.
func TestEndGivesBackWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	running, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	w := s.start(Registry{"deaf": func(context.Context, *Call) (any, error) { close(running); <-release; return nil, nil }},
		func(c *Config) { c.Grace = 10 * time.Millisecond })
	s.send(celery.Signature{ID: "a", Task: "deaf"})
	<-running
	if err := w.end(); err != nil {
		t.Errorf("the worker ended with %v", err)
	}
	if waiting := s.redis.LLen(t.Context(), "q").Val(); waiting != 1 {
		t.Errorf("%d messages wait again, want 1", waiting)
	}
}

func TestEndsWhenAllSlotsAreStuck(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	release := make(chan struct{})
	defer close(release)
	w := s.start(Registry{"deaf": func(context.Context, *Call) (any, error) { <-release; return nil, nil }},
		func(c *Config) { c.Concurrency, c.TimeLimit = 2, time.Millisecond })
	s.send(celery.Signature{ID: "a", Task: "deaf"})
	s.send(celery.Signature{ID: "b", Task: "deaf"})
	s.waitResult("a", celery.Failure)
	s.waitResult("b", celery.Failure)
	select {
	case err := <-w.done:
		w.done <- err
		if !errors.Is(err, ErrStuck) {
			t.Errorf("the worker ended with %v, want ErrStuck", err)
		}
	case <-time.After(waitTime):
		t.Error("a worker without a usable slot goes on")
	}
}

func TestTerminateEndsARunningCall(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	running := make(chan struct{})
	s.start(Registry{"long": func(ctx context.Context, call *Call) (any, error) { close(running); return untilEnded(ctx, call) }})
	s.send(celery.Signature{ID: "a", Task: "long"})
	<-running
	s.wait("the call to be terminated", func() bool {
		// The subscription may come later than the call.
		if err := s.broker.Revoke(t.Context(), "a", true); err != nil {
			t.Fatal(err)
		}
		r, err := s.broker.ReadResult(t.Context(), "a")
		return err == nil && r.State == celery.Revoked
	})
	s.waitNothingHeld()
}

func TestLongCallsSayThatTheyHaveStarted(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	release := make(chan struct{})
	s.start(Registry{"long": func(context.Context, *Call) (any, error) { <-release; return nil, nil }})
	s.send(celery.Signature{ID: "a", Task: "long"})
	s.waitResult("a", celery.Started)
	close(release)
	s.waitResult("a", celery.Success)
}
