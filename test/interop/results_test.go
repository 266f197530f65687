package interop

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

func TestResultsInPython(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	worker(t, redis.URL(), "--max-retries", "0", "--result-ttl", "1h")

	t.Run("a result, while Python waits for it", func(t *testing.T) {
		start := time.Now()
		got := value[echo](python, `get(send("debug_task", sleep=1))`)
		if took := time.Since(start); got.Kwargs["sleep"] != 1.0 || took < time.Second || took > 10*time.Second {
			t.Errorf("got %v after %v", got, took)
		}
	})

	t.Run("STARTED, and who runs it", func(t *testing.T) {
		id := value[string](python, `send("debug_task", sleep=300)`)
		eventually(t, patience, "state STARTED", func() bool {
			return value[string](python, fmt.Sprintf(`state(%q)`, id)) == "STARTED"
		})
		info := value[map[string]any](python, fmt.Sprintf(`AsyncResult(%q, app=app).info`, id))
		if name, _ := info["hostname"].(string); !strings.HasPrefix(name, "weir@") {
			t.Errorf("want the worker's name, got %v", info)
		}
	})

	t.Run("a failure is raised", func(t *testing.T) {
		class, text := python.raises(`get(send("debug_task", fail="broken"))`)
		if class != "Exception" || !strings.Contains(text, "broken") {
			t.Errorf("got %s: %s", class, text)
		}
	})

	t.Run("time limits have Celery's names", func(t *testing.T) {
		for option, want := range map[string]string{"time_limit": "TimeLimitExceeded", "soft_time_limit": "SoftTimeLimitExceeded"} {
			class, text := python.raises(fmt.Sprintf(`get(app.send_task("debug_task", kwargs={"sleep": 300}, %s=0.5).id)`, option))
			if class != want {
				t.Errorf("%s: want %s, got %s: %s", option, want, class, text)
			}
		}
	})

	t.Run("all that belongs to a result", func(t *testing.T) {
		got := value[[]any](python, `r = AsyncResult(send("debug_task"), app=app); r.get(timeout=30); [r.successful(), r.children, (datetime.utcnow() - r.date_done.replace(tzinfo=None)).total_seconds()]`)
		if age, is := got[2].(float64); got[0] != true || fmt.Sprint(got[1]) != "[]" || !is || age < -1 || age > 60 {
			t.Errorf("want a success, no children, a date in UTC of just now, got %v", got)
		}
	})

	t.Run("children", func(t *testing.T) {
		client := redis.Client()
		client.RPush(t.Context(), "chat:messages:ada", fmt.Sprintf(`{"id":1,"role":"user","content":"I love it","timestamp":%q}`, time.Now().UTC().Format(time.RFC3339)))
		got := value[[]any](python, `
r = AsyncResult(send("analyze_all_users_sentiment"), app=app); r.get(timeout=30)
[len(r.children), r.children[0].get(timeout=30)["user_id"] if r.children else None, r.children[0].state if r.children else None]`)
		if fmt.Sprint(got) != "[1 ada SUCCESS]" {
			t.Errorf("want one child, of ada, that succeeded, got %v", got)
		}
	})

	t.Run("a time to live", func(t *testing.T) {
		id := value[string](python, `i = send("debug_task"); get(i); i`)
		ttl := redis.Client().TTL(t.Context(), "celery-task-meta-"+id).Val()
		if ttl > time.Hour || ttl < 58*time.Minute {
			t.Errorf("want an hour, got %v", ttl)
		}
	})
}
