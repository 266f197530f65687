package tasks

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/weir-dev/weir/worker/runner"
)

func TestDebug(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check(t, "no arguments", w.mustCall(Debug, nil), map[string]string{"id": "call-1", "task": "debug_task", "queue": "personality", "retries": "0"})
	check(t, "anything", w.mustCall(Debug, map[string]any{"a": map[string]any{"b": nil}, "sleep": 0.001}, 1, "two"), map[string]string{
		"args": "[1 two]", "kwargs": "map[a:map[b:<nil>] sleep:0.001]", "truncated": "false",
	})
	check(t, "much", w.mustCall(Debug, nil, strings.Repeat("x", maxEchoBytes)), map[string]string{"args": "<nil>", "truncated": "true"})
	if _, err := w.call(Debug, map[string]any{"fail": "on purpose"}); err == nil || !strings.Contains(err.Error(), "on purpose") || runner.IsPermanent(err) {
		t.Errorf("told to fail: got error %v", err)
	}
	for _, kwargs := range []map[string]any{{"sleep": -1}, {"sleep": "long"}, {"sleep": 1e9}, {"fail": 1}} {
		if _, err := w.call(Debug, kwargs); !runner.IsPermanent(err) {
			t.Errorf("%v: got error %v, want a permanent one", kwargs, err)
		}
	}
}

func TestDebugSleepsNoLongerThanItsContext(t *testing.T) {
	t.Parallel()
	call, err := runner.NewCall("c", Debug, nil, map[string]any{"sleep": 3600}, nil)
	if err != nil {
		t.Fatalf("making a call: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(runner.ErrSoftTimeLimit)
	if _, err := debugTask(ctx, call); !errors.Is(err, runner.ErrSoftTimeLimit) {
		t.Errorf("got error %v, want the context's cause", err)
	}
}
