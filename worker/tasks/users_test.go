package tasks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
)

func TestAnalyzeAllUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	users := []string{"u1", "a:b", "*", "[x]", "ünï", `back\slash`}
	for _, user := range users {
		w.push("chat:messages:"+user, "x")
	}
	w.push("chat:messages:", "x")
	w.push("chat:messages:bad\nuser", "x")
	w.push("chat:messages:"+strings.Repeat("x", 300), "x")
	w.push("chat:messageslike", "x")
	w.push("other", "x")
	result := w.mustCall(AnalyzeAllUsers, nil)
	check(t, "result", result, map[string]string{"users": "6", "skipped_users": "3", "children_truncated": "false"})
	var got, ids []string
	for _, child := range w.enqueued {
		got, ids = append(got, child.Kwargs["user_id"].(string)), append(ids, child.ID)
		if child.Task != AnalyzeChatSentiment || child.Queue != "personality" || len(child.Kwargs) != 1 || len(child.Args) != 0 {
			t.Errorf("got child %+v, want only the user passed on, on the call's queue", child)
		}
		if child.ID != celery.DeriveID("call-1", got[len(got)-1]) {
			t.Errorf("the id of %q's child does not follow from the user", got[len(got)-1])
		}
	}
	if fmt.Sprint(result["children"]) != fmt.Sprint(ids) {
		t.Errorf("the result lists %v, want %v", result["children"], ids)
	}
	slices.Sort(got)
	slices.Sort(users)
	if !slices.Equal(got, users) {
		t.Errorf("got children for %q, want %q", got, users)
	}

	w.enqueued = nil
	w.mustCall(AnalyzeAllUsers, map[string]any{"window": "7d", "scorer": "lexicon"})
	for _, child := range w.enqueued {
		check(t, "child's arguments", child.Kwargs, map[string]string{"window": "7d", "scorer": "lexicon"})
	}
	for _, kwargs := range []map[string]any{{"window": "x"}, {"scorer": "x"}, {"scorer": "openai"}, {"user_id": "u1"}} {
		if _, err := w.call(AnalyzeAllUsers, kwargs); !runner.IsPermanent(err) {
			t.Errorf("%v: got error %v, want a permanent one", kwargs, err)
		}
	}
}

func TestNobodyToAnalyze(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check(t, "result", w.mustCall(AnalyzeAllUsers, nil), map[string]string{"users": "0", "children": "[]"})
	if len(w.chunks) != 0 {
		t.Errorf("enqueued %v children for nobody", w.chunks)
	}
}

func TestManyUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const users = maxChildrenListed + 1234
	pipeline := w.redis.Pipeline()
	for i := range users {
		pipeline.RPush(t.Context(), fmt.Sprintf("chat:messages:user-%d", i), "x")
	}
	if _, err := pipeline.Exec(t.Context()); err != nil {
		t.Fatalf("filling: %v", err)
	}
	result := w.mustCall(AnalyzeAllUsers, nil)
	check(t, "result", result, map[string]string{"users": fmt.Sprint(users), "children_truncated": "true"})
	if listed := len(result["children"].([]any)); listed != maxChildrenListed || len(w.enqueued) != users || slices.Max(w.chunks) > enqueueChunk {
		t.Errorf("listed %d children and enqueued %d, at most %d at once", listed, len(w.enqueued), slices.Max(w.chunks))
	}
	ids := map[string]bool{}
	for _, child := range w.enqueued {
		ids[child.ID] = true
	}
	if len(ids) != users {
		t.Errorf("got %d children, want one for each of %d users", len(ids), users)
	}
}

func TestEnqueuingFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("chat:messages:u1", "x")
	broken := errors.New("the broker is away")
	call, err := runner.NewCall("c", AnalyzeAllUsers, nil, nil, func(context.Context, []celery.Signature) error { return broken })
	if err != nil {
		t.Fatalf("making a call: %v", err)
	}
	if _, err := w.registry[AnalyzeAllUsers](t.Context(), call); !errors.Is(err, broken) || runner.IsPermanent(err) {
		t.Errorf("got error %v, want the broker's, worth a retry", err)
	}
}
