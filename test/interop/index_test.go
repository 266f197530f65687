package interop

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/go-logr/logr"

	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// watch has the page's index of a broker made, as at the page's start.
func watch(t *testing.T, broker *celery.Broker) *tasks.Watcher {
	t.Helper()
	watcher := tasks.NewWatcher(tasks.Options{
		Broker: func() (*celery.Broker, error) { return broker, nil }, Queues: func() []string { return []string{"celery"} }, Logger: logr.Discard(),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = watcher.Start(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	eventually(t, patience, "what Redis has is known", func() bool { _, _, reading := watcher.Health(); return !reading })
	return watcher
}

// The page shows of a Python worker's task what Flower does.
func TestPythonsTasksInTheIndex(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		env  []string
		args []string
		// heard: the page was there when it happened. named: the task's name and
		// arguments are known.
		heard, named bool
	}{
		{"heard, of a worker with -E", nil, []string{"-E"}, true, true},
		{"after a restart, with result_extended", []string{"INTEROP_EXTENDED=1"}, nil, false, true},
		{"after a restart, without", nil, nil, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			broker, err := celery.Open(redis.URL(), celery.Options{})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = broker.Close() })
			var watcher *tasks.Watcher
			if c.heard {
				watcher = watch(t, broker)
			}
			python := newCaller(t, redis.URL(), c.env...)
			celeryWorker(t, redis.URL(), c.env, c.args...)
			good, bad := value[string](python, `send("py_only", 20, y=22)`), value[string](python, `send("py_only", "twenty", y=22)`)
			python.ask(fmt.Sprintf(`get(%q)`, good))
			if class, _ := python.raises(fmt.Sprintf(`get(%q)`, bad)); class != "TypeError" {
				t.Fatalf("Python raised %s", class)
			}
			if !c.heard {
				watcher = watch(t, broker)
			}
			for id, want := range map[string]struct {
				state             tasks.State
				args, said, trace string
			}{
				good: {tasks.Succeeded, "20", `{"sum": 42, "by": "python"}`, ""},
				bad:  {tasks.Failed, "twenty", "TypeError: can only concatenate str", "in py_only"},
			} {
				var task tasks.Task
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("the index has %+v", task)
					}
				})
				called := func() bool { // events come when Celery sends them, after the result perhaps
					return task.Name == "py_only" && strings.Contains(task.Args, want.args) && strings.Contains(task.Kwargs, "22") && task.Worker == "py@test"
				}
				eventually(t, patience, "the index has the task's end, and its call where that can be known", func() bool {
					task, _ = watcher.Get(id)
					return task.State == want.state && strings.Contains(task.Result+task.Error, want.said) && (called() || !c.named)
				})
				if called() && !c.named {
					t.Errorf("the index has %+v, which nobody told", task)
				}
				if page := watcher.List(tasks.Filter{State: want.state, Text: id}, func(tasks.Scope) bool { return true }, "", 10); page.Total != 1 {
					t.Errorf("%d tasks are listed as %s with this id, want 1", page.Total, want.state)
				}
				// The page asks for the whole of it.
				result, err := broker.ReadResult(t.Context(), id)
				if err != nil || !strings.Contains(result.Traceback, want.trace) || (result.Traceback == "") != (want.trace == "") {
					t.Errorf("the traceback is %q, error %v, want one with %q", result.Traceback, err, want.trace)
				}
			}
		})
	}
}
