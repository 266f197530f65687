package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

const patience = 20 * time.Second

// watched is a broker and a Watcher of it.
type watched struct {
	*Watcher
	t        *testing.T
	redis    *redistest.Server
	broker   *celery.Broker
	consumer *celery.Consumer
}

func watch(t *testing.T) *watched {
	t.Helper()
	w := &watched{t: t, redis: redistest.Start(t)}
	var err error
	if w.broker, err = celery.Open(w.redis.URL(), celery.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.broker.Close() })
	if w.consumer, err = w.broker.NewConsumer(celery.ConsumerOptions{Queues: []string{"q"}, Hostname: "weir@one"}); err != nil {
		t.Fatal(err)
	}
	w.Watcher = w.start()
	return w
}

// start another Watcher of the same broker, as after a restart.
func (w *watched) start() *Watcher {
	again := NewWatcher(Options{Broker: func() (*celery.Broker, error) { return w.broker, nil }, Queues: func() []string { return []string{"q"} }, Logger: logr.Discard()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = again.Start(ctx) }()
	w.t.Cleanup(func() { cancel(); <-ended })
	return again
}

func (w *watched) send(call celery.Signature) {
	w.t.Helper()
	call.Queue = "q"
	if err := w.broker.Enqueue(w.t.Context(), call); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) take() *celery.Delivery {
	w.t.Helper()
	taken, err := w.consumer.Take(w.t.Context(), 1)
	if err != nil || len(taken) != 1 {
		w.t.Fatalf("took %d, error %v", len(taken), err)
	}
	taken[0].BeganAt = time.Now()
	return &taken[0]
}

func (w *watched) finish(e celery.Ending) {
	w.t.Helper()
	if _, err := w.consumer.Finish(w.t.Context(), []celery.Ending{e}); err != nil {
		w.t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func (w *watched) becomes(of *Watcher, id string, state State) Task {
	w.t.Helper()
	var found Task
	eventually(w.t, id+" is "+string(state), func() bool { found, _ = of.Get(id); return found.State == state })
	return found
}

func TestATaskIsFollowedWithoutEvents(t *testing.T) {
	t.Parallel()
	w := watch(t)
	w.send(celery.Signature{ID: "good", Task: "tasks.add", Args: []any{1, 2}, PeriodicTask: "ns/hourly"})
	got := w.becomes(w.Watcher, "good", Waiting)
	if got.Name != "tasks.add" || got.Args != "[1,2]" || got.Queue != "q" || got.PeriodicTask != "ns/hourly" || got.EnqueuedAt.IsZero() {
		t.Errorf("want all that the message says, got %+v", got)
	}
	d := w.take()
	w.becomes(w.Watcher, "good", Running)
	w.finish(w.consumer.End(d, celery.Outcome{State: celery.Success, Value: json.RawMessage("3")}, []string{"child"}, time.Hour))
	got = w.becomes(w.Watcher, "good", Succeeded)
	if got.Result != "3" || got.Worker != "weir@one" || got.Runtime(time.Now()) <= 0 {
		t.Errorf("want all that the result says, got %+v", got)
	}

	w.send(celery.Signature{ID: "bad", Task: "tasks.add", ParentID: "good"})
	d = w.take()
	retry, err := w.consumer.Retry(d, celery.Outcome{State: celery.Retry, Err: errors.New("not yet")}, time.Now().Add(-time.Second), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.finish(retry)
	if got = w.becomes(w.Watcher, "bad", Delayed); got.Error != "Exception: not yet" {
		t.Errorf("want the reason of the retry, got %+v", got)
	}
	if _, err := w.consumer.Restore(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	w.becomes(w.Watcher, "bad", Waiting)
	w.finish(w.consumer.Dead(w.take(), celery.Outcome{State: celery.Failure, Err: errors.New("broken")}, "exhausted", time.Now(), time.Hour))
	if got = w.becomes(w.Watcher, "bad", Failed); got.Error != "Exception: broken" || got.Retries != 1 {
		t.Errorf("want the failure, got %+v", got)
	}
	if children, counts := w.Children("good", all, 10); len(children) != 1 || children[0].ID != "bad" || counts[Failed] != 1 {
		t.Errorf("want one child, got %+v, %v", children, counts)
	}

	if n, err := w.broker.Revive(t.Context(), "q", "bad"); err != nil || n != 1 {
		t.Fatalf("revived %d, error %v", n, err)
	}
	w.becomes(w.Watcher, "bad", Waiting)

	again := w.start()
	w.becomes(again, "good", Succeeded)
	w.becomes(again, "bad", Waiting)
	if first, second := w.Count(all), again.Count(all); fmt.Sprint(first[Succeeded], first[Waiting]) != fmt.Sprint(second[Succeeded], second[Waiting]) {
		t.Errorf("after a restart: %v, before %v", second, first)
	}
	if err := w.redis.Client().Del(t.Context(), "q", "celery-task-meta-bad").Err(); err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(2 * unseenFor)
	again.gone(again.unconfirmed(func(*Task) time.Time { return soon }), soon)
	if _, is := again.Get("bad"); is {
		t.Error("a message that is nowhere is still listed")
	}
}

func TestQueuesAreSampled(t *testing.T) {
	t.Parallel()
	w := watch(t)
	w.send(celery.Signature{ID: "a", Task: "t"})
	w.send(celery.Signature{ID: "b", Task: "t"})
	eventually(t, "two samples of two messages", func() bool {
		queues := w.Queues()
		return len(queues) == 1 && queues[0].Waiting == 2 && len(queues[0].Samples) >= 2 && queues[0].Age > time.Second
	})
	w.redis.Kill()
	eventually(t, "Redis is missed", func() bool { down, since, _ := w.Health(); return down != nil && !since.IsZero() })
	w.redis.Restart()
	eventually(t, "Redis is back", func() bool { down, _, _ := w.Health(); return down == nil })
}

func all(Scope) bool { return true }

// filled is an index of tasks that have ended, and some that wait.
func filled(n, limit int) *Index {
	x := NewIndex(limit)
	now := time.Now()
	var results []celery.Result
	for i := range n {
		r := celery.Result{
			ID: fmt.Sprintf("id-%06d", i), State: celery.Success, Task: fmt.Sprintf("tasks.of_%d", i%7), Queue: fmt.Sprintf("q%d", i%3),
			DoneAt: now.Add(time.Duration(i-n) * time.Second), Args: json.RawMessage(fmt.Sprintf(`["user-%d"]`, i)), Kwargs: json.RawMessage("{}"),
		}
		if i%10 == 0 {
			r.State, r.Error = celery.Failure, "ValueError: no"
		}
		results = append(results, r)
	}
	x.Results(results, now)
	return x
}

func TestListsArePagedAndOfWhatMayBeSeen(t *testing.T) {
	t.Parallel()
	x := filled(1000, 1001)
	var ids []string
	for cursor, pages := "", 0; ; pages++ {
		page := x.List(Filter{Queue: "q1", State: Succeeded}, all, cursor, 100)
		for _, task := range page.Tasks {
			ids = append(ids, task.ID)
		}
		if pages == 0 {
			if page.Total != 300 || page.ByState[Failed] != 33 {
				t.Errorf("want 300 and 33 that failed, got %d, %v", page.Total, page.ByState)
			}
			// What comes meanwhile moves no page.
			x.Results([]celery.Result{{ID: "new", State: celery.Success, Queue: "q1", DoneAt: time.Now().Add(time.Minute)}}, time.Now())
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	if len(ids) != 300 || !slices.IsSortedFunc(ids, func(a, b string) int { return -cmpString(a, b) }) {
		t.Errorf("want each of 300 once, newest first, got %d", len(ids))
	}
	if page := x.List(Filter{Text: "USER-77\""}, all, "", 10); page.Total != 1 || page.Tasks[0].ID != "id-000077" {
		t.Errorf("want the task of user-77, got %+v", page)
	}
	mine := func(s Scope) bool { return s.Queue == "q2" }
	if page := x.List(Filter{}, mine, "", 10); page.Total != 333 {
		t.Errorf("want those of one queue, got %d", page.Total)
	}
	if counts := x.Count(mine); counts[Succeeded]+counts[Failed] != 333 {
		t.Errorf("want those of one queue, got %v", counts)
	}
}

func cmpString(a, b string) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

func TestTheOldestThatHaveEndedAreForgotten(t *testing.T) {
	t.Parallel()
	x := filled(1000, 1000)
	old := time.Now().Add(-time.Hour)
	x.messages("q0", []*celery.Message{{ID: "waits", Task: "t", EnqueuedAt: old}}, time.Now())
	if n := x.Len(); n > 1000 {
		t.Errorf("holds %d", n)
	}
	if _, is := x.Get("waits"); !is {
		t.Error("a task that waits was forgotten before those that ended")
	}
	if _, is := x.Get("id-000000"); is {
		t.Error("the oldest is still there")
	}
	if _, is := x.Get("id-000999"); !is {
		t.Error("the newest is not there")
	}
	if page := x.List(Filter{}, all, "", 1); page.Total != x.Len() {
		t.Errorf("lists %d of %d", page.Total, x.Len())
	}
}

func BenchmarkList100000(b *testing.B) {
	x := filled(100_000, 200_000)
	for b.Loop() {
		x.List(Filter{Text: "user-99999"}, all, "", 100)
	}
}

func BenchmarkResults100000(b *testing.B) {
	for b.Loop() {
		x := NewIndex(200_000)
		now := time.Now()
		for page := range 200 {
			var results []celery.Result
			for i := range 500 {
				n := (i*200 + page) * 7919 % 100_000 // in no order
				results = append(results, celery.Result{ID: fmt.Sprintf("id-%06d", n), State: celery.Success, Task: "t", Queue: "q", DoneAt: now.Add(-time.Duration(n) * time.Second)})
			}
			x.Results(results, now)
		}
		if x.Len() != 100_000 {
			b.Fatalf("holds %d", x.Len())
		}
	}
}

// Celery tells of a task's end when the backend has its result, or before, or after.
func TestTheBackendsWordOutlastsAnEvents(t *testing.T) {
	t.Parallel()
	done := time.Now().Add(-time.Minute)
	results := []celery.Result{
		{ID: "good", State: celery.Success, Value: []byte(`{"sum": 42}`), DoneAt: done},
		{ID: "bad", State: celery.Failure, Error: "TypeError: no", DoneAt: done},
	}
	at := float64(done.Add(time.Second).Unix())
	events := []celery.Heard{
		{Type: "task-succeeded", UUID: "good", Name: "add", Result: "{'sum': 42}", Timestamp: at},
		{Type: "task-failed", UUID: "bad", Name: "add", Exception: "TypeError('no')", Timestamp: at},
	}
	for _, first := range []string{"results", "events"} {
		x := NewIndex(1000)
		if first == "events" {
			x.events(events, time.Now())
		}
		x.Results(results, time.Now())
		if first == "results" {
			x.events(events, time.Now())
		}
		good, _ := x.Get("good")
		bad, _ := x.Get("bad")
		if good.State != Succeeded || good.Result != `{"sum": 42}` || good.Name != "add" || bad.State != Failed || bad.Error != "TypeError: no" || bad.Name != "add" {
			t.Errorf("with %s first the index has %+v and %+v", first, good, bad)
		}
	}
}
