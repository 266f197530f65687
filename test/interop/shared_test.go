package interop

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

func TestPythonAndGoShareAQueue(t *testing.T) {
	const calls = 2000
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	celeryWorker(t, redis.URL(), nil, "--pool", "threads", "--concurrency", "4")
	counting(t, redis.URL(), "")
	start := time.Now()
	n := value[int](python, `len([app.send_task("record", (n, 2)) for n in range(2000)])`)
	if n != calls {
		t.Fatalf("Python sent %d calls", n)
	}
	client := redis.Client()
	eventually(t, 2*patience, "every call has run", func() bool {
		return client.SCard(t.Context(), "interop:runs").Val() >= calls && client.LLen(t.Context(), "celery").Val() == 0
	})
	settled(t, client)
	got := ran(t, client, "interop:runs")
	t.Logf("%d calls in %v: %v", got.runs, time.Since(start).Round(time.Millisecond), got.byWho)
	if got.runs != calls || len(got.byN) != calls {
		t.Errorf("want each of %d calls run once, got %d runs of %d calls", calls, got.runs, len(got.byN))
	}
	if got.byWho["python"] == 0 || got.byWho["go"] == 0 {
		t.Errorf("want both workers to take part, got %v", got.byWho)
	}
}
