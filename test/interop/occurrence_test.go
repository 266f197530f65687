package interop

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// occur runs `worker enqueue` as the Job of a PeriodicTask does.
func occur(t testing.TB, url, job string, args ...string) (code int, out string) {
	t.Helper()
	return command(t, []string{"CELERY_BROKER_URL=" + url, "WEIR_JOB_NAME=" + job},
		append([]string{"enqueue", "--periodic-task", "team/nightly", "--uid", "uid-1"}, args...)...)
}

// occurrence is the id of the message that a Job enqueues.
func occurrence(job string) string { return celery.OccurrenceID("uid-1", job, "") }

func TestOccurrenceRunsInPython(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	call := []string{"--task", "py_only", "--args", "[2]", "--kwargs", `{"y":3}`}
	code, out := occur(t, redis.URL(), "nightly-1", call...)
	if id := occurrence("nightly-1"); code != 0 || !strings.Contains(out, id) {
		t.Fatalf("want exit code 0 and the id %s, got %d and %s", id, code, out)
	}
	var pending struct{ Status string }
	text := redis.Client().Get(t.Context(), "celery-task-meta-"+occurrence("nightly-1")).Val()
	if err := json.Unmarshal([]byte(text), &pending); err != nil || pending.Status != "PENDING" {
		t.Errorf("want PENDING written, got %s", text)
	}
	if code, out = occur(t, redis.URL(), "nightly-1", call...); code != 0 || !strings.Contains(out, "done already") {
		t.Errorf("the same Job again: want exit code 0 and that it is done already, got %d and %s", code, out)
	}
	if n := redis.Client().LLen(t.Context(), "celery").Val(); n != 1 {
		t.Errorf("want one message for one Job, got %d", n)
	}
	celeryWorker(t, redis.URL(), nil)
	got := value[map[string]any](python, fmt.Sprintf(`get(%q)`, occurrence("nightly-1")))
	if got["by"] != "python" || got["sum"] != 5.0 {
		t.Errorf("want Python's sum, got %v", got)
	}
}

func TestEnqueueExitCodes(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	for _, c := range []struct {
		why  string
		url  string
		args []string
	}{
		{"no task", redis.URL(), nil},
		{"an unknown flag", redis.URL(), []string{"--task", "t", "--nonsense"}},
		{"arguments that are no array", redis.URL(), []string{"--task", "t", "--args", "{}"}},
		{"keyword arguments that are no object", redis.URL(), []string{"--task", "t", "--kwargs", "[]"}},
		{"an unknown policy", redis.URL(), []string{"--task", "t", "--concurrency-policy", "Maybe"}},
		{"an impossible priority", redis.URL(), []string{"--task", "t", "--priority", "10"}},
		{"an impossible queue", redis.URL(), []string{"--task", "t", "--queue", "unacked"}},
		{"no URL", "", []string{"--task", "t"}},
		{"a URL of another kind", "amqp://user:s3cret@host", []string{"--task", "t"}},
	} {
		if code, out := occur(t, c.url, "job", c.args...); code != 2 || strings.Contains(out, "s3cret") {
			t.Errorf("%s: want exit code 2 and no password, got %d and %s", c.why, code, out)
		}
	}
	if n := redis.Client().LLen(t.Context(), "celery").Val(); n != 0 {
		t.Errorf("%d messages were enqueued nevertheless", n)
	}
	redis.Kill()
	if code, out := occur(t, redis.URL(), "job", "--task", "t"); code != 1 {
		t.Errorf("without Redis: want exit code 1, which is tried again, got %d and %s", code, out)
	}
}

func TestConcurrencyPolicy(t *testing.T) {
	t.Parallel()
	t.Run("Go", func(t *testing.T) {
		t.Parallel()
		redis := redistest.Start(t)
		counting(t, redis.URL(), "")
		listens(t, redis, 1)
		showPolicy(t, redis)
	})
	t.Run("Python", func(t *testing.T) {
		t.Parallel()
		redis := redistest.Start(t)
		// Only prefork can end a running call.
		celeryWorker(t, redis.URL(), nil, "--pool", "prefork", "--concurrency", "2")
		showPolicy(t, redis)
	})
}

// showPolicy wants a worker that runs hold.
func showPolicy(t *testing.T, redis *redistest.Server) {
	python := newCaller(t, redis.URL())
	running := func(n int) {
		t.Helper()
		eventually(t, patience, fmt.Sprintf("call %d runs, and says so", n), func() bool {
			return ran(t, redis.Client(), "interop:begun").byN[n] == 1 &&
				value[string](python, fmt.Sprintf(`state(%q)`, occurrence(fmt.Sprint("job-", n)))) == "STARTED"
		})
	}
	hold := func(n int, policy string) string {
		t.Helper()
		code, out := occur(t, redis.URL(), fmt.Sprint("job-", n), "--task", "hold", "--args", fmt.Sprintf("[%d, 300]", n), "--concurrency-policy", policy)
		if code != 0 {
			t.Fatalf("enqueuing call %d: exit code %d, %s", n, code, out)
		}
		return out
	}
	hold(1, "Forbid")
	running(1)
	if out := hold(2, "Forbid"); !strings.Contains(out, "left out") || !strings.Contains(out, occurrence("job-1")) {
		t.Errorf("Forbid: want it left out because of %s, got %s", occurrence("job-1"), out)
	}
	if out := hold(3, "Replace"); !strings.Contains(out, "revoked "+occurrence("job-1")) {
		t.Errorf("Replace: want %s revoked, got %s", occurrence("job-1"), out)
	}
	running(3)
	class, _ := python.raises(fmt.Sprintf(`get(%q)`, occurrence("job-1")))
	if class != "TaskRevokedError" {
		t.Errorf("want TaskRevokedError of the replaced call, got %s", class)
	}
	hold(4, "Allow")
	running(4)
	begun, ended := ran(t, redis.Client(), "interop:begun"), ran(t, redis.Client(), "interop:runs")
	if fmt.Sprint(begun.byN) != "map[1:1 3:1 4:1]" || ended.runs != 0 {
		t.Errorf("want 1, 3 and 4 begun once and none ended, got %v and %v", begun.byN, ended.byN)
	}
}
