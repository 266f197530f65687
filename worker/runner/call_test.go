package runner

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

var errBoom = errors.New("boom")

func TestBind(t *testing.T) {
	t.Parallel()
	type parameters struct {
		UserID string `json:"user_id"`
		Window string `json:"window,omitempty"`
	}
	for _, c := range []struct {
		reason string
		args   []any
		kwargs map[string]any
		want   parameters
		fails  string
	}{
		{"by position", []any{"u", "7d"}, nil, parameters{"u", "7d"}, ""},
		{"by name", nil, map[string]any{"window": "7d", "user_id": "u"}, parameters{"u", "7d"}, ""},
		{"a default", []any{"u"}, nil, parameters{"u", "24h"}, ""},
		{"None is the default", []any{"u", nil}, nil, parameters{"u", "24h"}, ""},
		{"one is missing", nil, nil, parameters{}, `missing the argument "user_id"`},
		{"one too many", []any{"u", "7d", 3}, nil, parameters{}, "takes 2 arguments but 3 were given"},
		{"twice", []any{"u"}, map[string]any{"user_id": "v"}, parameters{}, `multiple values for argument "user_id"`},
		{"unknown", []any{"u"}, map[string]any{"user": "v"}, parameters{}, `unexpected argument "user": it has user_id, window`},
		{"of another type", []any{7}, nil, parameters{}, `argument "user_id"`},
	} {
		call, err := NewCall("id", "task", c.args, c.kwargs, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := parameters{Window: "24h"}
		err = call.Bind(&got)
		if c.fails == "" {
			if err != nil || got != c.want {
				t.Errorf("%s: got %+v, error %v, want %+v", c.reason, got, err, c.want)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.fails) || !IsPermanent(err) {
			t.Errorf("%s: the error is %v, want a permanent one that says %q", c.reason, err, c.fails)
		}
	}
}

func TestDelay(t *testing.T) {
	t.Parallel()
	policy := celery.RetryPolicy{MaxRetries: 100, InitialBackoff: 10 * time.Second, MaxBackoff: time.Minute}
	for _, c := range []struct {
		retries       int
		err           error
		lowest, below time.Duration
	}{
		{0, errBoom, 5 * time.Second, 10*time.Second + 1},
		{1, errBoom, 10 * time.Second, 20*time.Second + 1},
		{2, errBoom, 20 * time.Second, 40*time.Second + 1},
		{3, errBoom, 30 * time.Second, time.Minute + 1},
		{1 << 30, errBoom, 30 * time.Second, time.Minute + 1},
		{0, &RetryAfter{errBoom, time.Hour}, time.Hour, 66 * time.Minute},
		{0, &RetryAfter{errBoom, 0}, 5 * time.Second, 10*time.Second + 1},
	} {
		for range 100 {
			if d := delay(policy, c.retries, c.err); d < c.lowest || d >= c.below {
				t.Fatalf("after %d retries and %v: %v, want from %v to below %v", c.retries, c.err, d, c.lowest, c.below)
			}
		}
	}
	if d := delay(celery.RetryPolicy{}, 3, errBoom); d != 0 {
		t.Errorf("a policy without backoff waits %v", d)
	}
}
