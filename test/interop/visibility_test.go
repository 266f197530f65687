package interop

import (
	"fmt"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

// A call that takes longer than the visibility timeout runs once, though a
// Celery worker with that timeout takes from the same queue.
func TestLongCallRunsOnce(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	counting(t, redis.URL(), "", "--visibility-timeout", "3s", "--lease", "2s")
	id := value[string](python, `send("hold", 1, 8)`)
	eventually(t, patience, "the call runs", func() bool { return ran(t, redis.Client(), "interop:begun").byWho["go"] == 1 })
	// Celery looks for what to put back each tenth time that it polls: 10 s
	// apart when nothing happens. Calls that it runs meanwhile make it poll.
	celeryWorker(t, redis.URL(), []string{"INTEROP_VISIBILITY=3"}, "--concurrency", "1")
	polled := 0
	eventually(t, patience, "the call has ended", func() bool {
		polled++
		python.ask(fmt.Sprintf(`send("py_only", %d)`, polled))
		return value[string](python, fmt.Sprintf(`state(%q)`, id)) == "SUCCESS"
	})
	if n := ran(t, redis.Client(), "interop:begun").runs; n != 1 {
		t.Errorf("want it run once, it began %d times", n)
	}
}

// What a dead Celery worker held is put back by ours.
func TestDeadPythonWorkersCallIsPutBack(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	counting(t, redis.URL(), "", "--queues", "other", "--visibility-timeout", "3s", "--lease", "2s")
	id := value[string](python, `send("hold", 1, 2)`)
	celery := celeryWorker(t, redis.URL(), []string{"INTEROP_VISIBILITY=3", "INTEROP_ACKS_LATE=1"})
	eventually(t, patience, "the call runs in Python", func() bool { return ran(t, redis.Client(), "interop:begun").byWho["python"] == 1 })
	celery.Kill()
	eventually(t, patience, "our worker of another queue has put the call back", func() bool {
		return redis.Client().LLen(t.Context(), "celery").Val() == 1
	})
	counting(t, redis.URL(), "heir")
	start := time.Now()
	if got := value[int](python, fmt.Sprintf(`get(%q)`, id)); got != 1 {
		t.Errorf("got the result %d after %v", got, time.Since(start))
	}
	if got := fmt.Sprint(ran(t, redis.Client(), "interop:runs").byWho); got != "map[heir:1]" {
		t.Errorf("want it run to its end once, by the heir, got %s", got)
	}
	settled(t, redis.Client())
}

// A queue of Celery's may be bound to an exchange under keys that are not its
// name: what is put back goes where the bindings say, and says that it is
// delivered again, as Celery's own does.
func TestPutBackThroughTopicExchange(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	env := []string{"INTEROP_VISIBILITY=3", "INTEROP_ACKS_LATE=1", "INTEROP_TOPIC=1"}
	python := newCaller(t, redis.URL(), env...)
	victim := celeryWorker(t, redis.URL(), env, "--queues", "mail")
	id := value[string](python, `app.send_task("again", queue="mail", routing_key="post.high").id`)
	eventually(t, patience, "the call runs", func() bool { return ran(t, redis.Client(), "interop:begun").runs == 1 })
	victim.Kill()
	counting(t, redis.URL(), "", "--queues", "other", "--visibility-timeout", "3s", "--lease", "2s")
	eventually(t, patience, "the call is in its queue again", func() bool {
		return redis.Client().LLen(t.Context(), "mail").Val() == 1
	})
	celeryWorker(t, redis.URL(), env, "--queues", "mail")
	if got := value[map[string]any](python, fmt.Sprintf(`get(%q)`, id)); got["redelivered"] != true {
		t.Errorf("want it run as redelivered, got %v", got)
	}
}

// What our worker laid aside until its eta is put back by Celery's, when ours
// is gone.
func TestParkedCallNeedsNoneOfOurs(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	ours := counting(t, redis.URL(), "")
	id := value[string](python, `app.send_task("record", [1], countdown=2).id`)
	// A score of its eta less the visibility timeout of an hour.
	due := func(ago time.Duration) func() bool {
		return func() bool {
			index := redis.Client().ZRangeWithScores(t.Context(), "unacked_index", 0, -1).Val()
			return len(index) == 1 && index[0].Score < float64(time.Now().Add(-ago).Unix())
		}
	}
	eventually(t, patience, "the call is parked", due(time.Minute))
	ours.Kill()
	eventually(t, patience, "the call is due", due(time.Hour))
	celeryWorker(t, redis.URL(), nil)
	if got := value[int](python, fmt.Sprintf(`get(%q)`, id)); got != 1 {
		t.Errorf("got the result %d", got)
	}
	if got := fmt.Sprint(ran(t, redis.Client(), "interop:runs").byWho); got != "map[python:1]" {
		t.Errorf("want it run once, by Python, got %s", got)
	}
}
