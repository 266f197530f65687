package celery

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func occurrence(job string, change ...func(*Signature)) Signature {
	call := Signature{
		ID: OccurrenceID("uid", job, ""), Task: "t", Queue: "q", PeriodicTask: "ns/task", ResultTTL: time.Hour,
	}
	for _, c := range change {
		c(&call)
	}
	return call
}

func (f *fixture) enqueueOccurrence(job string, policy Concurrency, change ...func(*Signature)) Enqueued {
	f.t.Helper()
	became, _, err := f.EnqueueOccurrence(f.t.Context(), occurrence(job, change...), job, policy)
	if err != nil {
		f.t.Fatal(err)
	}
	return became
}

func (f *fixture) look() Look {
	f.t.Helper()
	look, err := f.Look(f.t.Context(), "ns/task", "q")
	if err != nil {
		f.t.Fatal(err)
	}
	return look
}

func TestAnOccurrenceIsEnqueuedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	if slices.Contains([]string{OccurrenceID("another uid", "job-1", "1"), OccurrenceID("uid", "job-2", "1"), OccurrenceID("uid", "job-1", "2")}, OccurrenceID("uid", "job-1", "1")) {
		t.Error("different occurrences have the same id")
	}
	if look := f.look(); look.Last.ID != "" || look.Waiting != 0 {
		t.Errorf("before the first run: %+v", look)
	}
	if became := f.enqueueOccurrence("job-1", Allow); became != New {
		t.Errorf("the first pod: %s", became)
	}
	if became := f.enqueueOccurrence("job-1", Allow); became != Repeated {
		t.Errorf("the pod that was retried: %s", became)
	}
	look := f.look()
	if look.Waiting != 1 || look.Last.ID != OccurrenceID("uid", "job-1", "") || look.Last.Job != "job-1" || time.Since(look.Last.At) > time.Minute {
		t.Errorf("the status is %+v, want one message of job-1", look)
	}
	if look.Result.State != Pending {
		t.Errorf("the result is %+v, want PENDING", look.Result)
	}
	c := f.consumer(ConsumerOptions{})
	d := f.takeOne(c)
	if look = f.look(); look.Waiting != 0 || look.Running != 1 {
		t.Errorf("while it runs the status is %+v", look)
	}
	f.finish(c, c.Park(d, time.Now().Add(time.Hour)))
	if look = f.look(); look.Delayed != 1 || look.Running != 0 {
		t.Errorf("while it is parked the status is %+v", look)
	}
	if became := f.enqueueOccurrence("job-1", Allow); became != Repeated {
		t.Errorf("a pod retried after it was taken: %s", became)
	}
}

func TestConcurrencyPolicies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		policy Concurrency
		// before is the state of the run before; empty: forgotten.
		before State
		want   Enqueued
	}{
		{"Allow does not look", Allow, Started, New},
		{"Forbid, waiting", Forbid, Pending, Skipped},
		{"Forbid, running", Forbid, Started, Skipped},
		{"Forbid, to be retried", Forbid, Retry, Skipped},
		{"Forbid, finished", Forbid, Success, New},
		{"Forbid, failed", Forbid, Failure, New},
		{"Forbid, forgotten", Forbid, "", New},
		{"Replace, running", Replace, Started, Replaced},
		{"Replace, finished", Replace, Revoked, New},
	} {
		f := newFixture(t, Options{})
		f.enqueueOccurrence("job-1", c.policy)
		consumer := f.consumer(ConsumerOptions{})
		d := f.takeOne(consumer)
		first := f.redis.Get(t.Context(), "celery-task-meta-"+d.ID)
		switch c.before {
		case Pending:
		case "":
			f.redis.Del(t.Context(), "celery-task-meta-"+d.ID)
		default:
			f.redis.Set(t.Context(), "celery-task-meta-"+d.ID, Outcome{State: c.before}.encode(of{call: &Message{ID: d.ID}}, time.Now()), 0)
		}
		if first.Err() != nil {
			t.Fatal(first.Err())
		}
		if became := f.enqueueOccurrence("job-2", c.policy); became != c.want {
			t.Errorf("%s: %s, want %s", c.reason, became, c.want)
		}
		look := f.look()
		if c.want == Skipped && (look.Skipped.Job != "job-2" || look.Last.Job != "job-1" || look.Waiting != 0) {
			t.Errorf("%s: the status is %+v", c.reason, look)
		}
		if c.want == Replaced && (look.Replaced.ID != d.ID || look.Last.Job != "job-2" || look.Waiting != 1) {
			t.Errorf("%s: the status is %+v", c.reason, look)
		}
		if c.want == Replaced {
			f.finish(consumer, consumer.GiveBack(d))
			if again := f.take(consumer, 2); len(again) != 2 || !again[0].Revoked || again[1].Revoked {
				t.Errorf("%s: taken again, the run before is not revoked: %+v", c.reason, again)
			}
		}
	}
}

// A message that was lost must not hold later ones back for ever.
func TestForbidForgetsARunThatCannotBeUnfinishedAnyMore(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	soon := func(s *Signature) {
		s.Expires, s.TimeLimit = time.Now().Add(time.Millisecond), time.Millisecond
	}
	f.enqueueOccurrence("job-1", Forbid, soon)
	deadline := time.Now().Add(10 * time.Second)
	for job := 2; f.enqueueOccurrence("job-"+string(rune('0'+job)), Forbid, soon) != New; job++ {
		if time.Now().After(deadline) {
			t.Fatal("the lost run still holds others back")
		}
	}
}

func TestUnfinishedFor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, c := range []struct {
		reason string
		call   Signature
		want   time.Duration
	}{
		{"no expiry: as long as the result is kept", Signature{}, 24 * time.Hour},
		{"an expiry: that, and one run", Signature{Expires: now.Add(time.Hour), TimeLimit: time.Minute}, 61 * time.Minute},
		{"retries: their runs and pauses", Signature{Expires: now.Add(time.Hour), TimeLimit: time.Minute, Retry: &RetryPolicy{MaxRetries: 2, MaxBackoff: 5 * time.Minute}}, 73 * time.Minute},
		{"never longer than the result", Signature{Expires: now.Add(100 * time.Hour)}, 24 * time.Hour},
	} {
		if got := unfinishedFor(&c.call, now, 24*time.Hour); got != c.want {
			t.Errorf("%s: %v, want %v", c.reason, got, c.want)
		}
	}
}

func TestPurgeRemovesOnlyWhatGoesBackToTheTask(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{})
	mine := func(id string, priority int) Signature {
		return Signature{ID: id, Task: "t", Queue: "q", Priority: priority, PeriodicTask: "ns/task"}
	}
	f.send(mine("taken", 0))
	taken := f.takeOne(c)
	f.send(mine("dead", 0))
	f.finish(c, c.Dead(f.takeOne(c), Outcome{State: Failure, Err: errors.New("boom")}, "exhausted", time.Now(), time.Minute))
	f.send(mine("parked", 0))
	f.finish(c, c.Park(f.takeOne(c), time.Now().Add(time.Hour)))
	for i := range 1200 {
		call := mine("", 3*(i%4))
		if i%2 == 0 {
			call.PeriodicTask = "ns/another"
		}
		f.send(call)
	}
	f.enqueueOccurrence("job-1", Allow)

	removed, err := f.Purge(t.Context(), "ns/task", "q")
	if err != nil || removed != 600+4 {
		t.Errorf("removed %d, error %v, want 604", removed, err)
	}
	look := f.look()
	if look.Waiting != 600 || look.Last.ID != "" || look.Running+look.Delayed != 0 {
		t.Errorf("left are %+v", look)
	}
	if lost := f.finish(c, c.GiveBack(taken)); lost != 1 {
		t.Error("what a worker held was given back after the purge")
	}
	if n, err := f.Purge(t.Context(), "ns/task", "q"); n != 0 || err != nil {
		t.Errorf("a second purge removed %d, error %v", n, err)
	}
}

func TestEnqueueOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	calls := []Signature{{ID: "a", Task: "t", Queue: "q"}, {ID: "b", Task: "t", Queue: "q"}}
	for range 2 {
		if err := f.EnqueueOnce(t.Context(), "parent", time.Hour, calls...); err != nil {
			t.Fatal(err)
		}
	}
	c := f.consumer(ConsumerOptions{})
	f.expectIDs("enqueued twice", f.take(c, 10), "a", "b")
	if err := f.EnqueueOnce(t.Context(), "parent", time.Hour, Signature{ID: "c", Task: "t", Queue: "weir.dead.q"}); err == nil {
		t.Error("a call went to one of Weir's own keys")
	}
}

func TestRevokedIsRememberedForWorkersThatTakeLater(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	f.enqueue("a", "b")
	if err := f.Revoke(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	taken := f.take(f.consumer(ConsumerOptions{}), 2)
	if !taken[0].Revoked || taken[1].Revoked {
		t.Errorf("revoked are %v and %v, want the first alone", taken[0].Revoked, taken[1].Revoked)
	}
}
