package celery

import (
	"encoding/json"
	"testing"
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
