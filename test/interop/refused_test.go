package interop

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

// letter is what `worker dead list --json` shows.
type letter struct {
	ID     string `json:"id"`
	Task   string `json:"task"`
	Reason string `json:"reason"`
	Error  string `json:"error"`
}

func deadLetters(t testing.TB, url string) []letter {
	t.Helper()
	code, out := command(t, []string{"CELERY_BROKER_URL=" + url}, "dead", "list", "--json")
	var letters []letter
	if err := json.Unmarshal([]byte(out), &letters); err != nil || code != 0 {
		t.Fatalf("listing dead letters: exit code %d, error %v, output %s", code, err, out)
	}
	return letters
}

func TestRefusedCalls(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	python := newCaller(t, redis.URL())
	worker(t, redis.URL())
	for _, c := range []struct{ what, send, class, reason, text string }{
		{
			"a chain", `chain(signature("debug_task", app=app), signature("debug_task", app=app)).apply_async().parent.id`,
			"NotImplementedError", "unsupported", "chain",
		},
		{
			"a part of a chord", `chord([signature("debug_task", app=app)] * 2, signature("debug_task", app=app)).apply_async().parent[0].id`,
			"NotImplementedError", "unsupported", "chord",
		},
		{
			"a callback", `signature("debug_task", app=app).apply_async(link=signature("debug_task", app=app)).id`,
			"NotImplementedError", "unsupported", "callbacks",
		},
		{
			"pickle", `app.send_task("debug_task", [object], serializer="pickle").id`,
			"DecodeError", "unreadable", "application/x-python-serialize",
		},
		{
			"YAML", `app.send_task("debug_task", serializer="yaml").id`,
			"DecodeError", "unreadable", "application/x-yaml",
		},
	} {
		t.Run(c.what, func(t *testing.T) {
			id := value[string](python, c.send)
			class, text := python.raises(fmt.Sprintf(`get(%q)`, id))
			if class != c.class || !strings.Contains(text, c.text) {
				t.Errorf("want %s that names %s, got %s: %s", c.class, c.text, class, text)
			}
			for _, l := range deadLetters(t, redis.URL()) {
				if l.ID == id {
					if l.Reason != c.reason || !strings.Contains(l.Error, c.text) || l.Task != "debug_task" {
						t.Errorf("want a dead letter of debug_task with the reason %s, got %+v", c.reason, l)
					}
					return
				}
			}
			t.Errorf("no dead letter has the id %s", id)
		})
	}

	t.Run("no message at all", func(t *testing.T) {
		if err := redis.Client().LPush(t.Context(), "celery", "not JSON", `{"body":1}`).Err(); err != nil {
			t.Fatal(err)
		}
		eventually(t, patience, "two more dead letters", func() bool {
			return redis.Client().LLen(t.Context(), "weir.dead.celery").Val() >= 7
		})
	})
	settled(t, redis.Client())
}
