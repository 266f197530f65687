package interop

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

func TestCeleryInspect(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	worker(t, redis.URL(), "--hostname", "weir@one")
	counting(t, redis.URL(), "two", "--queues", "other")
	listens(t, redis, 2)
	value[echo](python, `get(send("debug_task"))`)
	id := value[string](python, `send("debug_task", 7, sleep=300)`)
	eventually(t, patience, "the call runs", func() bool {
		return value[string](python, fmt.Sprintf(`state(%q)`, id)) == "STARTED"
	})
	type inspection struct {
		arguments string
		want      []string
		not       string
		process   *process
	}
	inspections := []*inspection{
		{arguments: "ping", want: []string{"weir@one: OK", "weir@two: OK", "pong", "2 nodes online"}, not: "Error"},
		{arguments: "active -d weir@one", want: []string{"weir@one: OK", id, "debug_task"}, not: "weir@two"},
		{arguments: "registered", want: []string{"* debug_task", "* analyze_all_users_sentiment", "* hold"}, not: "Error"},
		{arguments: "stats", want: []string{`"debug_task": 1`, `"max-concurrency": 8`}, not: "Error"},
		{arguments: "active_queues", want: []string{"weir@one: OK", "other"}, not: "Error"},
	}
	for _, i := range inspections { // each waits for its whole timeout: all at once
		arguments := append([]string{"inspect", "--timeout", "3"}, strings.Fields(i.arguments)...)
		i.process = celeryCommand(t, "celery inspect "+i.arguments, redis.URL(), nil, arguments...)
	}
	for _, i := range inspections {
		if code := i.process.ends(); code != 0 {
			t.Errorf("celery inspect %s: want exit code 0, got %d", i.arguments, code)
		}
		out := i.process.out.String()
		for _, want := range i.want {
			if !strings.Contains(out, want) {
				t.Errorf("celery inspect %s: want %q in it:\n%s", i.arguments, want, out)
			}
		}
		if strings.Contains(out, i.not) {
			t.Errorf("celery inspect %s: want no %q in it:\n%s", i.arguments, i.not, out)
		}
	}
}

func TestCeleryEvents(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	dump := celeryCommand(t, "celery events --dump", redis.URL(), nil, "events", "--dump")
	eventually(t, patience, "celery events listens", func() bool {
		return redis.Client().PubSubNumPat(t.Context()).Val() > 0
	})
	ours := worker(t, redis.URL(), "--hostname", "weir@one", "--max-retries", "1", "--initial-backoff", "200ms")
	dump.says("heartbeat: active=0")
	dump.says("weir@one [")
	good, bad := value[string](python, `send("debug_task", 42)`), value[string](python, `send("debug_task", fail="no luck")`)
	python.ask(fmt.Sprintf(`get(%q)`, good))
	python.raises(fmt.Sprintf(`get(%q)`, bad))
	for _, what := range []string{
		"received: debug_task(" + good, "started: debug_task(" + good, "succeeded: debug_task(" + good,
		"retried: debug_task(" + bad, "failed: debug_task(" + bad,
	} {
		dump.says(what)
	}
	ours.terminate()
	if code := ours.ends(); code != 0 {
		t.Errorf("SIGTERM: want exit code 0, got %d", code)
	}
	dump.says("shutdown: active=0")
	if out := dump.out.String(); !strings.Contains(out, "started: active=0") {
		t.Errorf("want the worker's start in the events:\n%s", out)
	}
}
