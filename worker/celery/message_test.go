package celery

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// pythonMessage is what Celery 5.2 writes.
const pythonMessage = `{"body": "W1sxLCAidHdvIl0sIHsieCI6IDN9LCB7ImNhbGxiYWNrcyI6IG51bGwsICJlcnJiYWNrcyI6IG51bGwsICJjaGFpbiI6IG51bGwsICJjaG9yZCI6IG51bGx9XQ==", ` +
	`"content-encoding": "utf-8", "content-type": "application/json", "headers": {"lang": "py", "task": "add", "id": "id-1", "shadow": null, ` +
	`"eta": "2026-01-31T12:00:00.123456+00:00", "expires": "2026-01-31T13:00:00", "group": null, "group_index": null, "retries": 2, "timelimit": [30, 20.5], ` +
	`"root_id": "root-1", "parent_id": "parent-1", "argsrepr": "(1, 'two')", "kwargsrepr": "{'x': 3}", "origin": "gen1@host", "ignore_result": true, ` +
	`"stamped_headers": [], "stamps": {}}, "properties": {"correlation_id": "id-1", "reply_to": "r", "delivery_mode": 2, ` +
	`"delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 6, "body_encoding": "base64", "delivery_tag": "t"}}`

func TestDecodeReadsCelerysMessage(t *testing.T) {
	t.Parallel()
	m, err := Decode(pythonMessage)
	if err != nil {
		t.Fatal(err)
	}
	want := &Message{
		Raw: pythonMessage, ID: "id-1", Task: "add", RootID: "root-1", ParentID: "parent-1",
		Args:    []json.RawMessage{json.RawMessage("1"), json.RawMessage(`"two"`)},
		Kwargs:  map[string]json.RawMessage{"x": json.RawMessage("3")},
		Retries: 2, Priority: 6, IgnoreResult: true,
		ETA:       time.Date(2026, 1, 31, 12, 0, 0, 123456000, time.UTC),
		Expires:   time.Date(2026, 1, 31, 13, 0, 0, 0, time.UTC),
		TimeLimit: 30 * time.Second, SoftTimeLimit: 20500 * time.Millisecond,
	}
	if !m.ETA.Equal(want.ETA) || !m.Expires.Equal(want.Expires) {
		t.Errorf("eta %v and expires %v, want %v and %v", m.ETA, m.Expires, want.ETA, want.Expires)
	}
	m.ETA, m.Expires, want.ETA, want.Expires = time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if !reflect.DeepEqual(m, want) {
		t.Errorf("got  %+v\nwant %+v", m, want)
	}
}

func TestDecodeReadsWhatEncodeWrites(t *testing.T) {
	t.Parallel()
	now := time.UnixMicro(1700000000123456)
	call := Signature{
		ID: "id-1", Task: "add", Args: []any{1}, Kwargs: map[string]any{"x": "y"}, Queue: "q", Priority: 3,
		ETA: now.Add(time.Hour), Expires: now.Add(2 * time.Hour), SoftTimeLimit: time.Minute, TimeLimit: 2 * time.Minute,
		Retry:     &RetryPolicy{MaxRetries: 5, InitialBackoff: 10 * time.Second, MaxBackoff: time.Hour},
		ResultTTL: 5 * time.Hour, ParentID: "p", RootID: "r", PeriodicTask: "ns/name",
	}
	raw, err := call.Encode(now, "1@host")
	if err != nil {
		t.Fatal(err)
	}
	m, err := Decode(string(raw))
	if err != nil {
		t.Fatal(err)
	}
	if !m.ETA.Equal(call.ETA) || !m.Expires.Equal(call.Expires) || !m.EnqueuedAt.Equal(now) {
		t.Errorf("times are %v, %v, %v", m.ETA, m.Expires, m.EnqueuedAt)
	}
	if m.SoftTimeLimit != call.SoftTimeLimit || m.TimeLimit != call.TimeLimit || m.ResultTTL != call.ResultTTL || *m.Retry != *call.Retry {
		t.Errorf("limits are %v, %v, %v, %+v", m.SoftTimeLimit, m.TimeLimit, m.ResultTTL, m.Retry)
	}
	if m.ParentID != "p" || m.RootID != "r" || m.PeriodicTask != "ns/name" || m.Priority != 3 {
		t.Errorf("got %+v", m)
	}
}

func TestDecodeSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	change := func(old, with string) string { return strings.Replace(pythonMessage, old, with, 1) }
	for _, c := range []struct {
		reason, raw, want string
		identified        bool
	}{
		{"no JSON", "{", "reading the message", false},
		{"no headers", "{}", "no headers", false},
		{"no task", change(`"task": "add"`, `"task": ""`), "no task", true},
		{"a pickle", change(`"application/json"`, `"application/x-python-serialize"`), "content type", true},
		{"an eta that is no time", change(`"2026-01-31T12:00:00.123456+00:00"`, `"soon"`), "eta", true},
		{"an expires that is no time", change(`"2026-01-31T13:00:00"`, `"late"`), "expires", true},
		{"another encoding of the body", change(`"body_encoding": "base64"`, `"body_encoding": "gzip"`), "body_encoding", true},
		{"a body that is no base64", change(`"body": "W1s`, `"body": "???`), "body", true},
		{"a body of two parts", change(`"body": "W1sxLCAidHdvIl0sIHsieCI6IDN9LCB7ImNhbGxiYWNrcyI6IG51bGwsICJlcnJiYWNrcyI6IG51bGwsICJjaGFpbiI6IG51bGwsICJjaG9yZCI6IG51bGx9XQ=="`, `"body": "W1tdLHt9XQ=="`), "2 parts", true},
		{"an id of a kilobyte", change(`"id": "id-1"`, `"id": "`+strings.Repeat("i", 1000)+`"`), "1000 bytes", true},
	} {
		m, err := Decode(c.raw)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want it to say %q", c.reason, err, c.want)
		}
		if (m != nil) != c.identified {
			t.Errorf("%s: the message is %+v, want it identified: %v", c.reason, m, c.identified)
		}
	}
}

func TestDecodeNamesTheWorkflow(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		`[[],{},{"callbacks":null,"errbacks":null,"chain":null,"chord":null}]`: "",
		`[[],{},{"callbacks":[],"errbacks":[],"chain":[],"chord":null}]`:       "",
		`[[],{},{"callbacks":null,"errbacks":null,"chain":[{}],"chord":null}]`: "chain",
		`[[],{},{"callbacks":[{}],"chord":null}]`:                              "callbacks",
		`[[],{},{"errbacks":[{}]}]`:                                            "errbacks",
		`[[],{},{"chord":{"task":"x"},"chain":[{}]}]`:                          "chord",
	} {
		raw := string(encoded(envelope{Body: body, ContentType: jsonType, Headers: encoded(headers{ID: "i", Task: "t"})}))
		m, err := Decode(raw)
		if err != nil || m.Workflow != want {
			t.Errorf("%s: got %q, error %v, want %q", body, m.Workflow, err, want)
		}
	}
}

func TestReviseKeepsWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	revised, err := revise(pythonMessage, func(h map[string]json.RawMessage, x *extension) {
		h["retries"] = encoded(3)
		x.Crashes++
	})
	if err != nil {
		t.Fatal(err)
	}
	var before, after map[string]any
	if err := json.Unmarshal([]byte(pythonMessage), &before); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(revised), &after); err != nil {
		t.Fatal(err)
	}
	before["headers"].(map[string]any)["retries"] = 3.0
	before["headers"].(map[string]any)["weir"] = map[string]any{"crashes": 1.0}
	if !reflect.DeepEqual(before, after) {
		t.Errorf("got  %v\nwant %v", after, before)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(pythonMessage)
	f.Add(`{"headers":{"task":"t","id":"i","timelimit":[1e300,-1],"weir":{"result_ttl":1e300}},"body":"W1tdLHt9LHt9XQ==","content-type":"application/json","properties":{"body_encoding":"base64"}}`)
	f.Fuzz(func(t *testing.T, raw string) {
		m, err := Decode(raw)
		if err != nil {
			return
		}
		if m.TimeLimit < 0 || m.SoftTimeLimit < 0 || m.ResultTTL < 0 {
			t.Errorf("negative durations in %+v", m)
		}
		if _, err := redelivered(raw, true); err != nil {
			t.Errorf("a message that can be read cannot be put back: %v", err)
		}
	})
}
