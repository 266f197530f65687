package celery

import (
	"encoding/json"
	"testing"
	"time"
)

func TestCommandsAreForWhomTheyName(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, body string
		want         bool
	}{
		{"for all", `{"method":"ping","arguments":{},"destination":null,"pattern":null,"matcher":null}`, true},
		{"by name", `{"method":"ping","destination":["weir@a","weir@b"]}`, true},
		{"for another", `{"method":"ping","destination":["celery@a"]}`, false},
		{"by a glob", `{"method":"ping","destination":null,"pattern":"weir@*","matcher":"glob"}`, true},
		{"by another's glob", `{"method":"ping","destination":null,"pattern":"celery@*","matcher":"glob"}`, false},
		{"by an expression", `{"method":"ping","destination":null,"pattern":"^weir@.$","matcher":"pcre"}`, true},
		{"by an expression that does not compile", `{"method":"ping","destination":null,"pattern":"(","matcher":"pcre"}`, false},
	} {
		read, err := readCommand(string(fanoutMessage(json.RawMessage(c.body), controlExchange, "", map[string]any{})))
		if err != nil {
			t.Errorf("%s: %v", c.reason, err)
			continue
		}
		if got := read.For("weir@a"); got != c.want {
			t.Errorf("%s: for weir@a is %v, want %v", c.reason, got, c.want)
		}
	}
}

func FuzzReadCommand(f *testing.F) {
	f.Add(string(fanoutMessage(map[string]any{"method": "revoke", "arguments": map[string]any{"task_id": "x"}}, controlExchange, "", map[string]any{})))
	f.Fuzz(func(_ *testing.T, text string) {
		if c, err := readCommand(text); err == nil {
			c.For("weir@a")
		}
	})
}

func TestInspectGathersAnswers(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{KeyPrefix: "app:"})
	go f.Commands(t.Context(), func(c *Command) {
		for _, hostname := range []string{"weir@a", "weir@b"} {
			if err := f.Reply(t.Context(), c, hostname, []string{c.Method}); err != nil {
				t.Error(err)
			}
		}
	}, func(err error) { t.Error(err) })
	for f.redis.PubSubNumSub(t.Context(), "app:/0.celery.pidbox").Val()["app:/0.celery.pidbox"] == 0 {
	}
	answers, err := f.Inspect(t.Context(), "active", time.Second)
	if err != nil || len(answers) != 2 || string(answers["weir@b"]) != `["active"]` {
		t.Errorf("got %s, error %v", answers, err)
	}
	if keys := f.redis.Keys(t.Context(), "*").Val(); len(keys) != 0 {
		t.Errorf("keys are left: %q", keys)
	}
}
