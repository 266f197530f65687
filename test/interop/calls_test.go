package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

// echo is what debug_task returns.
type echo struct {
	ID      string         `json:"id"`
	Queue   string         `json:"queue"`
	Retries int            `json:"retries"`
	Args    []any          `json:"args"`
	Kwargs  map[string]any `json:"kwargs"`
}

func TestPythonCallsGo(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	worker(t, redis.URL(), "--queues", "celery,other", "--max-retries", "1", "--initial-backoff", "300ms")

	t.Run("with its arguments, and returns their result", func(t *testing.T) {
		got := value[echo](python, `get(send("debug_task", 1, "zwei", None, [3.5], colour="grün"))`)
		if want := `[1 zwei <nil> [3.5]] map[colour:grün]`; fmt.Sprint(got.Args, got.Kwargs) != want {
			t.Errorf("want %s, got %v %v", want, got.Args, got.Kwargs)
		}
		if got.Queue != "celery" || got.Retries != 0 {
			t.Errorf("want the first try on the queue celery, got try %d on %s", got.Retries+1, got.Queue)
		}
	})

	t.Run("through another queue, with an id of its own", func(t *testing.T) {
		got := value[echo](python, `get(app.send_task("debug_task", queue="other", task_id="my-own").id)`)
		if got.Queue != "other" || got.ID != "my-own" {
			t.Errorf("got call %s from queue %s", got.ID, got.Queue)
		}
	})

	for option, code := range map[string]string{
		"countdown": `app.send_task("debug_task", countdown=1.5)`,
		"eta":       `app.send_task("debug_task", eta=datetime.now(timezone.utc) + timedelta(seconds=1.5))`,
	} {
		t.Run("not before its "+option, func(t *testing.T) {
			start := time.Now()
			value[echo](python, "get("+code+".id)")
			if waited := time.Since(start); waited < 1500*time.Millisecond || waited > 8*time.Second {
				t.Errorf("want it to run after 1.5s and soon, it took %v", waited)
			}
		})
	}

	t.Run("not after it expires", func(t *testing.T) {
		id := value[string](python, `app.send_task("debug_task", expires=datetime.now(timezone.utc) - timedelta(seconds=1)).id`)
		class, text := python.raises(fmt.Sprintf(`get(%q)`, id))
		if class != "TaskRevokedError" || text != "expired" {
			t.Errorf("want TaskRevokedError: expired, got %s: %s", class, text)
		}
		if state := value[string](python, fmt.Sprintf(`state(%q)`, id)); state != "REVOKED" {
			t.Errorf("want state REVOKED, got %s", state)
		}
	})

	t.Run("and not if it expires while it waits for its eta", func(t *testing.T) {
		class, _ := python.raises(`get(app.send_task("debug_task", countdown=1.5, expires=1).id)`)
		if class != "TaskRevokedError" {
			t.Errorf("want TaskRevokedError, got %s", class)
		}
	})

	t.Run("and sees it tried again, then failed", func(t *testing.T) {
		id := value[string](python, `send("debug_task", fail="no luck")`)
		eventually(t, patience, "state RETRY", func() bool {
			return value[string](python, fmt.Sprintf(`state(%q)`, id)) == "RETRY"
		})
		class, text := python.raises(fmt.Sprintf(`get(%q)`, id))
		if class != "Exception" || !strings.Contains(text, "no luck") {
			t.Errorf("want Exception with the task's own text, got %s: %s", class, text)
		}
		got := value[[]string](python, fmt.Sprintf(`r = AsyncResult(%q, app=app); [r.state, r.traceback]`, id))
		if got[0] != "FAILURE" || !strings.Contains(got[1], "no luck") {
			t.Errorf("want FAILURE with a traceback, got %q", got)
		}
	})

	t.Run("and wants no result", func(t *testing.T) {
		ignored := value[string](python, `app.send_task("debug_task", ignore_result=True).id`)
		value[echo](python, `get(send("debug_task"))`)
		settled(t, redis.Client())
		if n := redis.Client().Exists(t.Context(), "celery-task-meta-"+ignored).Val(); n != 0 {
			t.Error("a result was written that nobody wanted")
		}
	})
}

func TestPriorityOrder(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	ids := value[[]string](python, `[app.send_task("debug_task", priority=p).id for p in (9, 6, 3, 0, 9, 0)]`)
	worker(t, redis.URL(), "--concurrency", "1")
	order := value[[]int](python, fmt.Sprintf(`
ids = ["%s"]
done = {i: (get(i), AsyncResult(i, app=app).date_done)[1] for i in ids}
sorted(range(len(ids)), key=lambda n: done[ids[n]])`, strings.Join(ids, `","`)))
	if want := []int{3, 5, 2, 1, 0, 4}; fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("want the calls run in the order %v, of their priorities, got %v", want, order)
	}
}

func TestPythonRetryContinuesInGo(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	id := value[string](python, `send("handover")`)
	counting(t, redis.URL(), "", "--queues", "other")
	celeryWorker(t, redis.URL(), nil)
	got := value[map[string]any](python, fmt.Sprintf(`get(%q)`, id))
	if got["by"] != "go" || got["retries"] != 1.0 {
		t.Errorf("want the second try, in Go, got %v", got)
	}
}

func TestUnknownTaskPassesToPython(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	id := value[string](python, `send("py_only", 1, y=2)`)
	worker(t, redis.URL())
	eventually(t, patience, "Weir's worker has laid the call aside", func() bool {
		return redis.Client().HLen(t.Context(), "unacked").Val() == 1
	})
	celeryWorker(t, redis.URL(), nil)
	got := value[map[string]any](python, fmt.Sprintf(`get(%q)`, id))
	if got["by"] != "python" || got["sum"] != 3.0 {
		t.Errorf("want Python's sum, got %v", got)
	}
	settled(t, redis.Client())
}
