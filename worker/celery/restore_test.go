package celery

import (
	"strings"
	"testing"
	"time"
)

func TestRestorePutsBackWhatADeadWorkerHeld(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{Lease: 30 * time.Second})
	f.send(Signature{ID: "a", Task: "t", Queue: "q", Priority: 6})
	d := f.takeOne(c)
	if r := f.restore(c); r != (Restored{}) {
		t.Errorf("put %+v back while the worker lives", r)
	}
	f.age(31 * time.Second)
	lost, err := c.Refresh(t.Context(), []string{d.Tag})
	if err != nil || len(lost) != 0 {
		t.Fatalf("the heartbeat lost %v, error %v", lost, err)
	}
	if r := f.restore(c); r != (Restored{}) {
		t.Errorf("put %+v back after a heartbeat", r)
	}
	f.age(31 * time.Second)
	if r := f.restore(c); r != (Restored{Overdue: 1}) {
		t.Errorf("after the lease put %+v back, want one overdue", r)
	}
	f.held("after it was put back", 0, 0, 0)
	if waiting := f.redis.LLen(t.Context(), "q\x06\x166").Val(); waiting != 1 {
		t.Errorf("%d messages wait with their priority, want 1", waiting)
	}
	if lost, _ = c.Refresh(t.Context(), []string{d.Tag}); len(lost) != 1 {
		t.Errorf("a late heartbeat is told of %v lost, want one", lost)
	}
	f.held("after a late heartbeat", 0, 0, 0)
	again := f.takeOne(c)
	if !again.ETA.IsZero() {
		t.Errorf("the first death delays it until %v", again.ETA)
	}
	if again.Crashes != 1 || !strings.Contains(again.Raw, `"redelivered":true`) {
		t.Errorf("the message does not say that a worker died with it: %s", again.Raw)
	}
}

func TestRestoreBuriesWhatKillsItsWorkers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{})
	f.enqueue("poison")
	for range 2 {
		f.takeOne(c)
		f.age(time.Minute)
		if r := f.restore(c); r.Overdue != 1 {
			t.Fatalf("put %+v back", r)
		}
	}
	if d := f.takeOne(c); d.ETA.IsZero() {
		t.Error("what has ended two workers comes back at once, together with what it was held with")
	}
	f.age(time.Minute)
	if r := f.restore(c); r != (Restored{Dead: 1}) {
		t.Errorf("the third worker died: put %+v back, want a dead letter", r)
	}
	letters, _, err := f.DeadLetters(t.Context(), "q", 1)
	if err != nil || len(letters) != 1 || letters[0].Reason != "crashed" {
		t.Errorf("the dead letters are %+v, error %v", letters, err)
	}
	f.held("afterwards", 0, 0, 0)
}

func TestParkedMessagesComeBackWhenTheyAreDue(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{VisibilityTimeout: time.Hour})
	c := f.consumer(ConsumerOptions{})
	f.enqueue("a")
	d := f.takeOne(c)
	f.finish(c, c.Park(d, time.Now().Add(time.Minute)))
	if r := f.restore(c); r != (Restored{}) {
		t.Errorf("put %+v back before its time", r)
	}
	f.age(time.Minute)
	if r := f.restore(c); r != (Restored{Due: 1}) {
		t.Errorf("put %+v back, want one that is due", r)
	}
	if again := f.takeOne(c); again.Raw != d.Raw {
		t.Errorf("the message has changed:\n%s\n%s", d.Raw, again.Raw)
	}
}

// What a Celery worker took is its own until the visibility timeout.
func TestRestoreLeavesCelerysMessagesTheirTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{VisibilityTimeout: time.Hour})
	c := f.consumer(ConsumerOptions{})
	ctx := t.Context()
	now := float64(time.Now().Unix())
	entries := map[string]string{
		"direct": `[` + pythonMessage + `, "", "q"]`,
		"bound":  `[` + pythonMessage + `, "chats", "key"]`,
		"broken": `no JSON`,
	}
	f.redis.SAdd(ctx, "_kombu.binding.chats", "key\x06\x16\x06\x16bound-queue", "other\x06\x16\x06\x16other-queue")
	for tag, entry := range entries {
		f.redis.HSet(ctx, "unacked", tag, entry)
		f.redis.ZAdd(ctx, "unacked_index", zed(now-3500, tag))
	}
	f.redis.ZAdd(ctx, "unacked_index", zed(now-4000, "without an entry"))
	if r := f.restore(c); r != (Restored{}) {
		t.Errorf("put %+v back before the visibility timeout", r)
	}
	f.held("the index without an entry is gone", 3, 3, 0)
	f.age(200 * time.Second)
	if r := f.restore(c); r != (Restored{Overdue: 2, Dead: 1}) {
		t.Errorf("put %+v back, want two overdue and one unreadable", r)
	}
	f.held("afterwards", 0, 0, 0)
	for _, list := range []string{"q\x06\x166", "bound-queue\x06\x166", "weir.dead.q"} {
		if n := f.redis.LLen(ctx, list).Val(); n != 1 {
			t.Errorf("%q holds %d messages, want 1", list, n)
		}
	}
}
