package runner

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	said := &logs{}
	h := health{logger: slog.New(slog.NewTextHandler(said, nil))}
	expect := func(when string, up bool) {
		t.Helper()
		if h.up() != up {
			t.Errorf("%s: up is %v, want %v", when, !up, up)
		}
	}
	expect("before the first answer", false)
	h.heard(nil)
	expect("after an answer", true)
	h.heardAt = time.Now().Add(-maxSilence)
	expect("while an exchange hangs, and nothing has failed yet", false)
	h.heard(nil)
	for range 5 {
		h.heard(errors.New("gone"))
	}
	expect("after failures", false)
	h.heard(nil)
	expect("when it answers again", true)
	if text := said.String(); strings.Count(text, "does not answer") != 1 || strings.Count(text, "answers again") != 1 {
		t.Errorf("want each change said once, got %s", text)
	}
	if h.steady() {
		t.Error("right after an outage others may not have sent their heartbeats yet")
	}
}
