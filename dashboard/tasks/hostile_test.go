package tasks

import (
	"fmt"
	"testing"
	"time"

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
