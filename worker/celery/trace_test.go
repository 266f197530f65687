package celery

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/weir-dev/weir/tracing"
)

func TestATraceTravelsInTheMessagesHeaders(t *testing.T) {
	t.Parallel()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct{ reason, parent, state string }{
		{"a trace with a state", parent, "vendor=1"},
		{"a trace", parent, ""},
		{"none", "", ""},
	} {
		call := Signature{ID: "i", Task: "t", Queue: "q", Trace: tracing.Parse(c.parent, c.state)}
		raw, err := call.Encode(time.Now(), "here")
		if err != nil {
			t.Fatal(err)
		}
		var message struct{ Headers map[string]any }
		if err := json.Unmarshal(raw, &message); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"traceparent": c.parent, "tracestate": c.state} {
			if got, _ := message.Headers[name].(string); got != want {
				t.Errorf("%s: the header %s is %q, want %q", c.reason, name, got, want)
			}
			if _, there := message.Headers[name]; there != (want != "") {
				t.Errorf("%s: the header %s is there: %v", c.reason, name, there)
			}
		}
		m, err := Decode(string(raw))
		if err != nil || m.Trace != call.Trace {
			t.Errorf("%s: read %+v and %v, want %+v", c.reason, m.Trace, err, call.Trace)
		}
	}
}

func TestAMalformedTraceIsNoReasonToRefuseAMessage(t *testing.T) {
	t.Parallel()
	call := Signature{ID: "i", Task: "t", Queue: "q"}
	raw, err := call.Encode(time.Now(), "here")
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{`7`, `null`, `["a"]`, `{}`, `"x"`} {
		odd, err := revise(string(raw), func(h map[string]json.RawMessage, _ *extension) {
			h["traceparent"], h["tracestate"] = json.RawMessage(value), json.RawMessage(value)
		})
		if err != nil {
			t.Fatal(err)
		}
		if m, err := Decode(odd); err != nil || m.Trace.Valid() {
			t.Errorf("%s: read %+v and %v, want the call without a trace", value, m.Trace, err)
		}
	}
}
