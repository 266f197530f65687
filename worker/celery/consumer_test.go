package celery

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestTakeGoesByPriorityThenAge(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	for id, priority := range map[string]int{"last": 9, "middle": 4, "first": 0} {
		f.send(Signature{ID: id, Task: "t", Queue: "q", Priority: priority})
	}
	f.enqueue("first-too")
	c := f.consumer(ConsumerOptions{})
	f.expectIDs("the first", f.take(c, 1), "first")
	f.expectIDs("the others", f.take(c, 10), "first-too", "middle", "last")
	f.expectIDs("nothing is left", f.take(c, 10))
	f.held("after all were taken", 4, 4, 4)
}

func TestTakeIsFairToQueues(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	for _, queue := range []string{"a", "b"} {
		for range 4 {
			f.send(Signature{Task: "t", Queue: queue})
		}
	}
	c := f.consumer(ConsumerOptions{Queues: []string{"a", "b"}})
	first, second := f.takeOne(c), f.takeOne(c)
	if first.Queue == second.Queue {
		t.Errorf("both messages were taken from %s", first.Queue)
	}
}

func TestTakenOnceByManyAtTheSameTime(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	const messages = 300
	f.enqueue(numbered(messages)...)
	var mu sync.Mutex
	seen := map[string]int{}
	var group sync.WaitGroup
	for range 8 {
		c := f.consumer(ConsumerOptions{})
		group.Go(func() {
			for {
				taken, err := c.Take(t.Context(), 7)
				if err != nil || len(taken) == 0 {
					return
				}
				mu.Lock()
				for i := range taken {
					seen[taken[i].ID]++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	for id, times := range seen {
		if times != 1 {
			t.Errorf("%s was taken %d times", id, times)
		}
	}
	if len(seen) != messages {
		t.Errorf("%d messages were taken, want %d", len(seen), messages)
	}
}

func TestEndings(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{})
	boom := Outcome{State: Failure, Err: errors.New("boom")}

	f.enqueue("success")
	d := f.takeOne(c)
	f.finish(c, c.End(d, Outcome{State: Success, Value: []byte(`{"n":1}`)}, []string{"child"}, time.Minute))
	f.held("after a success", 0, 0, 0)
	if r := f.result("success"); r.State != Success || string(r.Value) != `{"n":1}` || r.DoneAt.IsZero() {
		t.Errorf("after a success the result is %+v", r)
	}
	if ttl := f.redis.TTL(t.Context(), "celery-task-meta-success").Val(); ttl <= 0 || ttl > time.Minute {
		t.Errorf("the result is kept for %v, want a minute", ttl)
	}

	f.enqueue("again")
	d = f.takeOne(c)
	f.finish(c, c.GiveBack(d))
	f.enqueue("later")
	d = f.takeOne(c)
	if d.ID != "again" || d.Crashes != 0 {
		t.Errorf("what was given back is not taken next, as it was: %+v", d.Message)
	}

	ending, err := c.Retry(d, Outcome{State: Retry, Err: errors.New("boom")}, time.Now().Add(time.Hour), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	f.finish(c, ending)
	if r := f.result("again"); r.State != Retry || r.Error != "Exception: boom" {
		t.Errorf("after a retry the result is %+v", r)
	}
	f.held("with a parked message", 1, 1, 0)

	d = f.takeOne(c) // later
	f.finish(c, c.Dead(d, boom, "exhausted", time.Now(), time.Minute))
	letters, total, err := f.DeadLetters(t.Context(), "q", 10)
	if err != nil || total != 1 || letters[0].ID != "later" || letters[0].Reason != "exhausted" || letters[0].Error != "boom" {
		t.Errorf("the dead letters are %+v of %d, error %v", letters, total, err)
	}
	if r := f.result("later"); r.State != Failure {
		t.Errorf("a dead letter's result is %+v", r)
	}
}

func TestIgnoredResultsAreNotWritten(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{})
	f.redis.LPush(t.Context(), "q", strings.Replace(pythonMessage, `"eta": "2026-01-31T12:00:00.123456+00:00"`, `"eta": null`, 1))
	d := f.takeOne(c)
	f.finish(c, c.End(d, Outcome{State: Success}, nil, time.Minute))
	if r := f.result("id-1"); r.State != "" {
		t.Errorf("the result is %+v, though the message asked for none", r)
	}
}

// Somebody put the message back meanwhile: it must not be put anywhere again.
func TestEndingOfWhatIsNotHeldAnyMore(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{})
	f.enqueue("a", "b")
	taken := f.take(c, 2)
	for i := range taken {
		f.redis.HDel(t.Context(), "unacked", taken[i].Tag)
	}
	lost := f.finish(c, c.GiveBack(&taken[0]), c.End(&taken[1], Outcome{State: Success}, nil, time.Minute))
	if lost != 2 {
		t.Errorf("%d were lost, want 2", lost)
	}
	f.expectIDs("afterwards", f.take(c, 10))
	if r := f.result("b"); r.State != Success {
		t.Errorf("the call did end, but its result is %+v", r)
	}
}

func TestDeadLettersAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{DeadLetters: 3})
	f.enqueue(numbered(5)...)
	for range 5 {
		f.finish(c, c.Dead(f.takeOne(c), Outcome{State: Failure, Err: errors.New("boom")}, "exhausted", time.Now(), time.Minute))
	}
	letters, total, err := f.DeadLetters(t.Context(), "q", 10)
	if err != nil || total != 3 || letters[0].ID != "id-4" || letters[2].ID != "id-2" {
		t.Errorf("kept %d: %+v, error %v; want the newest three, newest first", total, letters, err)
	}

	revived, err := f.Revive(t.Context(), "q", "id-3")
	if err != nil || revived != 1 {
		t.Fatalf("put %d back, error %v", revived, err)
	}
	f.expectIDs("put back by its id", f.take(c, 10), "id-3")
	if r := f.result("id-3"); r.State != Pending {
		t.Errorf("its result is still %+v", r)
	}
	if revived, err = f.Revive(t.Context(), "q"); err != nil || revived != 2 {
		t.Fatalf("put %d back, error %v", revived, err)
	}
	f.expectIDs("put back, oldest first", f.take(c, 10), "id-2", "id-4")
}

func TestRevivedMessagesAreAsNew(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{})
	f.send(Signature{ID: "old", Task: "t", Queue: "q", Priority: 3, Expires: time.Now().Add(-time.Hour), Retry: &RetryPolicy{MaxRetries: 1}})
	d := f.takeOne(c)
	ending, err := c.Retry(d, Outcome{State: Retry, Err: errors.New("boom")}, time.Now().Add(-2*time.Hour), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	f.finish(c, ending)
	f.age(2 * time.Hour)
	f.restore(c)
	d = f.takeOne(c)
	if d.Retries != 1 {
		t.Fatalf("the retried message has %d retries", d.Retries)
	}
	f.finish(c, c.Dead(d, Outcome{State: Failure, Err: errors.New("boom")}, "exhausted", time.Now(), time.Minute))
	if n, err := f.Revive(t.Context(), "q"); n != 1 || err != nil {
		t.Fatalf("put %d back, error %v", n, err)
	}
	d = f.takeOne(c)
	if d.Retries != 0 || !d.Expires.IsZero() || !d.ETA.IsZero() || d.Priority != 3 || d.Retry.MaxRetries != 1 {
		t.Errorf("the message is %+v, want it without its history and as it was otherwise", d.Message)
	}
}

func TestWaiterWakesForAnyList(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{})
	c := f.consumer(ConsumerOptions{Queues: []string{"a", "b"}})
	waiter := c.NewWaiter(t.Context())
	for _, call := range []Signature{{Task: "t", Queue: "a"}, {Task: "t", Queue: "b", Priority: 9}} {
		wake := waiter.Idle()
		f.send(call)
		select {
		case <-wake:
		case <-time.After(10 * time.Second):
			t.Fatalf("nobody woke for %+v", call)
		}
		f.takeOne(c)
	}
	f.held("waiting takes nothing", 2, 2, 2)
}
