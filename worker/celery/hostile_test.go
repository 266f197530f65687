package celery

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Scripts are not rolled back: a key of another type must cost no message.
func TestAListOfAnotherTypeLosesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	f.enqueue("a", "b")
	f.redis.Set(ctx, "q"+separator+"3", "no list", 0)
	c := f.consumer(ConsumerOptions{})
	taken := f.take(c, 10)
	f.expectIDs("beside a list of another type", taken, "a", "b")
	if _, err := c.Take(ctx, 10); !IsRefusal(err) {
		t.Errorf("with nothing else to take the error is %v, want Redis's refusal", err)
	}

	f.redis.Set(ctx, "weir.dead.q", "no list", 0)
	dead := c.Dead(&taken[0], Outcome{State: Failure}, "failed", time.Now(), time.Hour)
	if _, err := c.Finish(ctx, []Ending{dead}); !IsRefusal(err) {
		t.Errorf("finishing gave %v, want Redis's refusal", err)
	}
	f.held("after the refusal", 2, 2, 2)

	f.age(2 * time.Hour)
	if _, err := c.Restore(ctx, 1); !IsRefusal(err) { // crashed, both of them
		t.Errorf("restoring gave %v, want Redis's refusal", err)
	}
	f.held("after another refusal", 2, 2, 2)
	f.redis.Del(ctx, "weir.dead.q")
	if restored, err := c.Restore(ctx, 1); err != nil || restored.Dead != 2 {
		t.Errorf("Restore() = %+v, %v, want two dead letters", restored, err)
	}

	f.enqueue("c")
	f.redis.Set(ctx, "weir.revoked", "no set", 0)
	if _, err := c.Take(ctx, 10); !IsRefusal(err) {
		t.Errorf("taking gave %v, want Redis's refusal", err)
	}
	if n := f.redis.LLen(ctx, "q").Val(); n != 1 {
		t.Errorf("%d messages are left in q, want 1", n)
	}
}

// What failed is not remembered as done.
func TestAFailedEnqueueIsTriedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	f.redis.Set(ctx, "q", "no list", 0)
	call := Signature{ID: "a", Task: "t", Queue: "q", PeriodicTask: "n/t"}
	if _, _, err := f.EnqueueOccurrence(ctx, call, "job", Replace); err == nil {
		t.Error("an occurrence was enqueued into no list")
	}
	if err := f.EnqueueOnce(ctx, "scope", time.Hour, call); err == nil {
		t.Error("a call was enqueued into no list")
	}
	f.redis.Del(ctx, "q")
	if became, _, err := f.EnqueueOccurrence(ctx, call, "job", Replace); became != New || err != nil {
		t.Errorf("the second try is %q, %v, want %q", became, err, New)
	}
	if err := f.EnqueueOnce(ctx, "scope", time.Hour, call); err != nil {
		t.Error(err)
	}
	if n := f.redis.LLen(ctx, "q").Val(); n != 2 {
		t.Errorf("%d messages are in q, want 2", n)
	}
	for _, key := range []string{"weir.once.a", "weir.once.scope"} {
		if ttl := f.redis.TTL(ctx, key).Val(); ttl <= 0 || ttl > onceTTL {
			t.Errorf("%s is kept for %v", key, ttl)
		}
	}
}

func TestMessagesOfOthersGoBackToTheirQueues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	c := f.consumer(ConsumerOptions{})
	f.redis.HSet(ctx, "unacked",
		"space", `[{"body":"e30=","headers":{"id":"1","task":"t"},"properties":{"priority":0}},"","my queue"]`,
		"kombu", `[{"body":"e30=","headers":{"id":7},"properties":{}},"","other"]`,
		"evil", `[{"body":"e30=","headers":{"id":"1","task":"t"},"properties":{}},"","weir.running"]`,
		"bound", `[{"body":"e30=","headers":{"id":"1","task":"t"},"properties":{}},"exchange","key"]`)
	f.redis.Set(ctx, "_kombu.binding.exchange", "no set", 0)
	f.redis.ZAdd(ctx, "unacked_index", zed(1, "space"), zed(1, "kombu"), zed(1, "evil"), zed(1, "bound"))
	if restored := f.restore(c); restored.Overdue != 2 || restored.Dead != 2 {
		t.Errorf("Restore() = %+v, want 2 overdue and 2 dead", restored)
	}
	for list, want := range map[string]int64{"my queue": 1, "other": 1, "weir.dead.q": 2} {
		if n := f.redis.LLen(ctx, list).Val(); n != want {
			t.Errorf("%s holds %d messages, want %d", list, n, want)
		}
	}
}

// A Redis that is full, with noeviction, must not have calls run again and again.
func TestAcknowledgesWithoutMemory(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	f.enqueue(numbered(3)...)
	c := f.consumer(ConsumerOptions{})
	taken := f.take(c, 10)
	f.redis.ConfigSet(ctx, "maxmemory", "1")
	t.Cleanup(func() { f.redis.ConfigSet(ctx, "maxmemory", "0") })
	if lost, err := c.Refresh(ctx, []string{taken[0].Tag}); err != nil || len(lost) > 0 {
		t.Errorf("a heartbeat gave %v, %v", lost, err)
	}
	f.finish(c, c.End(&taken[0], Outcome{State: Success}, nil, time.Hour),
		c.Dead(&taken[1], Outcome{State: Failure}, "failed", time.Now(), time.Hour), c.GiveBack(&taken[2]))
	f.held("after acknowledging", 0, 0, 0)
	if state := f.result("id-0").State; state != Success {
		t.Errorf("the result is %q, want %q", state, Success)
	}
}

func TestAResultThatCannotBeReadHidesNothingElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	if _, _, err := f.EnqueueOccurrence(ctx, Signature{ID: "a", Task: "t", Queue: "q", PeriodicTask: "n/t"}, "job", Allow); err != nil {
		t.Fatal(err)
	}
	f.redis.Set(ctx, "celery-task-meta-a", "\x80\x04pickle", 0)
	if look, err := f.Look(ctx, "n/t", "q"); err != nil || look.Waiting != 1 || look.Result.Error == "" {
		t.Errorf("Look() = %+v, %v", look, err)
	}
}

func TestAStateOfATasksOwnIsUnfinished(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	for i, want := range []Enqueued{New, Skipped} {
		call := Signature{ID: fmt.Sprint(i), Task: "t", Queue: "q", PeriodicTask: "n/t"}
		if became, _, err := f.EnqueueOccurrence(ctx, call, call.ID, Forbid); became != want || err != nil {
			t.Errorf("occurrence %d is %q, %v, want %q", i, became, err, want)
		}
		f.redis.Set(ctx, "celery-task-meta-0", `{"status":"PROGRESS","result":null,"task_id":"0"}`, 0)
	}
}

// The pod that replaced a run may have died before it told the workers.
func TestARepeatedReplacementTellsTheWorkersAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	for _, step := range []struct {
		id   string
		want Enqueued
	}{{"1", New}, {"2", Replaced}, {"2", Replaced}, {"1", Repeated}} {
		call := Signature{ID: step.id, Task: "t", Queue: "q", PeriodicTask: "n/t"}
		if became, _, err := f.EnqueueOccurrence(ctx, call, "job-"+step.id, Replace); became != step.want || err != nil {
			t.Errorf("occurrence %s is %q, %v, want %q", step.id, became, err, step.want)
		}
	}
	if n := f.redis.LLen(ctx, "q").Val(); n != 2 {
		t.Errorf("%d messages are in q, want 2", n)
	}
}

func TestPurgesAQueueThatOthersTakeFrom(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	for i := range 1200 {
		task := "n/other"
		if i >= 700 {
			task = "n/t"
		}
		f.send(Signature{ID: fmt.Sprint(i), Task: "t", Queue: "q", PeriodicTask: task})
	}
	c := f.consumer(ConsumerOptions{})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for range 100 {
			select {
			case <-stop:
				return
			default:
				_, _ = c.Take(ctx, 5)
			}
		}
	}()
	if _, err := f.Purge(ctx, "n/t", "q"); err != nil {
		t.Error(err)
	}
	close(stop)
	<-stopped
	for _, text := range f.redis.LRange(ctx, "q", 0, -1).Val() {
		if goesBackTo(text, "n/t") {
			t.Fatal("a message of the task is left in the queue")
		}
	}
}

// What does not come over within a timeout would never be put back.
func TestRestoresLargeMessagesAFewAtATime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	ctx := t.Context()
	c := f.consumer(ConsumerOptions{})
	entry := `[{"body":"` + strings.Repeat("x", 3<<20) + `","headers":{"id":"1","task":"t"},"properties":{}},"","other"]`
	for i := range 8 {
		f.redis.HSet(ctx, "unacked", fmt.Sprint(i), entry)
		f.redis.ZAdd(ctx, "unacked_index", zed(1, fmt.Sprint(i)))
	}
	for _, want := range []int{3, 3, 2} {
		if restored := f.restore(c); restored.Overdue != want {
			t.Errorf("Restore() = %+v, want %d", restored, want)
		}
	}
}
