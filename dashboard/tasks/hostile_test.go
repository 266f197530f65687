package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// A worker may say of a task that it is another's child, each time of another.
func TestATaskIsTheChildOfOne(t *testing.T) {
	t.Parallel()
	x := NewIndex(1000)
	for i := range 100 {
		x.events([]celery.Heard{{Type: "task-received", UUID: "child", ParentID: fmt.Sprint("parent-", i%2)}}, time.Now())
	}
	for parent, want := range map[string]int{"parent-0": 0, "parent-1": 1} {
		if children, _ := x.Children(parent, all, 1000); len(children) != want {
			t.Errorf("%s has %d children, want %d", parent, len(children), want)
		}
	}
	x.gone([]string{"child"}, time.Now().Add(time.Hour))
	if len(x.children) != 0 {
		t.Errorf("%d parents of nothing are kept", len(x.children))
	}
}

// Queues that somebody makes up take nobody's own away.
func TestScopesThatAreKnownStayKnown(t *testing.T) {
	t.Parallel()
	x := NewIndex(3 * maxScopes)
	x.Results([]celery.Result{{ID: "before", State: celery.Success, Queue: "mine"}}, time.Now())
	flood := make([]celery.Result, maxScopes)
	for i := range flood {
		flood[i] = celery.Result{ID: fmt.Sprint("made-up-", i), State: celery.Success, Queue: fmt.Sprint("made-up-", i)}
	}
	x.Results(flood, time.Now())
	x.Results([]celery.Result{{ID: "after", State: celery.Success, Queue: "mine"}}, time.Now())
	if page := x.List(Filter{}, func(s Scope) bool { return s.Queue == "mine" }, "", 10); page.Total != 2 {
		t.Errorf("%d tasks of the queue are listed, want 2", page.Total)
	}
}

// Whatever is said of a task, little of it is kept.
func TestTextsOfTasksAreBounded(t *testing.T) {
	t.Parallel()
	x := NewIndex(1000)
	long := strings.Repeat("x", 1<<20)
	arguments := json.RawMessage(`["` + long + `"]`)
	for i, state := range []celery.State{celery.Started, celery.Retry, celery.Success, celery.Failure} {
		x.Results([]celery.Result{{
			ID: fmt.Sprint(i), State: state, Task: long, Queue: long, Worker: long, PeriodicTask: long, ParentID: long, Error: long, Value: arguments, Args: arguments, Kwargs: arguments,
		}}, time.Now())
	}
	x.events([]celery.Heard{{Type: "task-retried", UUID: "heard", Name: long, Hostname: long, ParentID: long, Queue: long, PeriodicTask: long, Args: "x", Exception: "x"}}, time.Now())
	x.messages(long, []*celery.Message{{ID: "message", Task: long, ParentID: long, PeriodicTask: long}}, time.Now())
	for _, task := range x.List(Filter{}, all, "", 10).Tasks {
		for _, text := range []string{task.Name, task.Queue, task.Worker, task.PeriodicTask, task.ParentID, task.Error, task.Result, task.Args, task.Kwargs} {
			if len(text) > maxUnfinished+10 {
				t.Errorf("of task %s, which is %s, a text of %d bytes is kept", task.ID, task.State, len(text))
			}
		}
		if kept := len(task.Result) + len(task.Error); kept > 2*maxEnded {
			t.Errorf("of task %s, which is %s, %d bytes of result and error are kept", task.ID, task.State, kept)
		}
	}
}

// A queue of large calls does not fill the memory.
func TestArgumentsAreBoundedTogether(t *testing.T) {
	t.Parallel()
	x := NewIndex(DefaultLimit)
	argument := json.RawMessage(`"` + strings.Repeat("x", maxUnfinished-10) + `"`)
	messages := make([]*celery.Message, 2*maxArgumentBytes/maxUnfinished)
	for i := range messages {
		messages[i] = &celery.Message{ID: fmt.Sprint(i), Task: "t", Args: []json.RawMessage{argument}}
	}
	kept := func() (sum int) {
		for _, t := range x.byID {
			sum += len(t.Args) + len(t.Kwargs)
		}
		return sum
	}
	for range 2 { // again they are no other
		x.messages("q", messages, time.Now())
		if kept() != x.argumentBytes || kept() > maxArgumentBytes+len(messages)*(2*maxEnded+10) {
			t.Fatalf("%d bytes of arguments are kept, and %d counted", kept(), x.argumentBytes)
		}
	}
	ids := make([]string, len(messages))
	for i := range messages {
		ids[i] = messages[i].ID
	}
	x.gone(ids, time.Now().Add(time.Hour))
	if x.argumentBytes != 0 {
		t.Errorf("%d bytes of nothing are counted", x.argumentBytes)
	}
}

// Queues that somebody makes up keep no PeriodicTask's out.
func TestQueuesOfPeriodicTasksAreKnown(t *testing.T) {
	t.Parallel()
	q := queues{byName: map[string]*queue{}}
	var madeUp []string
	for i := range 2 * maxQueues {
		madeUp = append(madeUp, fmt.Sprint("made-up-", i))
	}
	q.know(madeUp, maxQueues)
	if got := len(q.names()); got != maxQueues {
		t.Errorf("%d queues are known, want %d", got, maxQueues)
	}
	q.know([]string{"tasks"}, maxNamed)
	if q.byName["tasks"] == nil {
		t.Error("the PeriodicTask's is not")
	}
}

// A queue that could not be read is read again, though nothing comes to it.
func TestAQueueThatCouldNotBeReadIsReadAgain(t *testing.T) {
	t.Parallel()
	w := &watched{t: t, redis: redistest.Start(t)}
	var err error
	if w.broker, err = celery.Open(w.redis.URL(), celery.Options{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.broker.Close() })
	for i := range newestListed + 1 { // the first is not among those that came last
		w.send(celery.Signature{ID: fmt.Sprint("call-", i), Task: "t"})
	}
	w.Watcher = NewWatcher(Options{Queues: func() []string { return []string{"q"} }})
	if err := w.look(t.Context(), w.broker); err != nil {
		t.Fatal(err)
	}
	away, cancel := context.WithCancel(t.Context())
	cancel()
	w.reread(away, w.broker)
	if _, is := w.Get("call-0"); is {
		t.Fatal("it was read")
	}
	w.reread(t.Context(), w.broker)
	if _, is := w.Get("call-0"); !is {
		t.Error("what waits longest is not listed")
	}
}
