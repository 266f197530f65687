package interop

import (
	"fmt"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

// listens waits until n workers hear remote control.
func listens(t testing.TB, redis *redistest.Server, n int64) {
	t.Helper()
	const channel = "/0.celery.pidbox"
	eventually(t, patience, fmt.Sprintf("%d workers listen to remote control", n), func() bool {
		return redis.Client().PubSubNumSub(t.Context(), channel).Val()[channel] >= n
	})
}

func TestRevokeRunning(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	counting(t, redis.URL(), "")
	listens(t, redis, 1)
	id := value[string](python, `send("hold", 1, 300)`)
	eventually(t, patience, "the call runs", func() bool { return ran(t, redis.Client(), "interop:begun").runs == 1 })
	start := time.Now()
	python.ask(fmt.Sprintf(`app.control.revoke(%q, terminate=True)`, id))
	class, text := python.raises(fmt.Sprintf(`get(%q)`, id))
	if class != "TaskRevokedError" || text != "terminated" {
		t.Errorf("want TaskRevokedError: terminated, got %s: %s", class, text)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it went on for %v", took)
	}
	settled(t, redis.Client())
}

func TestRevokeBeforeStart(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	// One worker hears of it, and another, which starts later, must heed it: the
	// first takes from another queue.
	counting(t, redis.URL(), "first", "--queues", "other")
	listens(t, redis, 1)
	id := value[string](python, `send("record", 1)`)
	python.ask(fmt.Sprintf(`app.control.revoke(%q)`, id))
	eventually(t, patience, "the revocation is remembered", func() bool {
		return redis.Client().ZCard(t.Context(), "weir.revoked").Val() == 1
	})
	counting(t, redis.URL(), "second")
	class, text := python.raises(fmt.Sprintf(`get(%q)`, id))
	if class != "TaskRevokedError" || text != "revoked" {
		t.Errorf("want TaskRevokedError: revoked, got %s: %s", class, text)
	}
	if n := ran(t, redis.Client(), "interop:runs").runs; n != 0 {
		t.Errorf("it ran %d times", n)
	}
}
