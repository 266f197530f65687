package main

import (
	"bytes"
	"testing"
)

// Machines read the demo's JSON.
func TestRowsAsJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	err := printRows(&out,
		[]row{{Service: "spotify", User: "user-1", Sent: 150, Admitted: 100, Limited: 50, RetryAfterSeconds: 60}},
		[]taskRow{{Task: "analyze", User: "user-1", Label: "positive", MessagesAnalyzed: 3}}, true)
	const want = `[
  {
    "service": "spotify",
    "user": "user-1",
    "sent": 150,
    "admitted": 100,
    "limited": 50,
    "retryAfterSeconds": 60
  },
  {
    "task": "analyze",
    "user": "user-1",
    "label": "positive",
    "messagesAnalyzed": 3
  }
]
`
	if err != nil || out.String() != want {
		t.Errorf("got error %v and\n%swant\n%s", err, out.String(), want)
	}
}
