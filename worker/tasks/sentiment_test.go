package tasks

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/runner"
)

func TestAnalyzeChatSentiment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("chat:messages:u1",
		chat("old", "I hate everything", 25*time.Hour),
		chat("m1", "I love this, it is great", 3*time.Hour),
		chat("m2", "This is horrible", 2*time.Hour),
		`{"id": "a1", "role": "assistant", "content": "horrible", "timestamp": 1795604400}`,
		chat("m3", "The door is open", time.Hour),
		chat("m1", "I love this, it is great", 3*time.Hour),
		"not json", "{}", `{"id": "m4", "role": "user", "content": 7, "timestamp": 1}`,
		chat("soon", "great", -time.Minute),
	)
	result := w.mustCall(AnalyzeChatSentiment, nil, "u1")
	check(t, "result", result, map[string]string{
		"user_id": "u1", "window": "24h", "scorer": "lexicon", "messages_read": "10", "truncated": "false",
		"messages_analyzed": "3", "positive": "1", "neutral": "1", "negative": "1", "other_roles": "1", "duplicates": "1",
		"label": "positive", "skipped": "map[bad_content:1 bad_role:1 in_future:1 not_json_object:1]",
		"from": "2026-11-24T12:00:00Z", "to": "2026-11-25T12:00:00Z",
	})
	mean := result["mean"].(float64)
	check(t, "profile", w.hash("personality:profile:u1"), map[string]string{
		"sentiment_mean": decimals(mean), "sentiment_label": "positive", "sentiment_positive": "1", "sentiment_neutral": "1",
		"sentiment_negative": "1", "messages_analyzed": "3", "sentiment_window": "24h", "sentiment_scorer": "lexicon",
		"sentiment_updated_at": "2026-11-25T12:00:00Z",
	})
	check(t, "trend", w.hash("personality:trend:u1"), map[string]string{
		"2026-11-25": fmt.Sprintf(`{"mean":%v,"label":"positive","messages":3,"positive":1,"neutral":1,"negative":1}`, mean),
		"2026-11-24": "absent",
	})

	before := w.dump()
	w.now = w.now.Add(time.Second)
	w.mustCall(AnalyzeChatSentiment, map[string]any{"user_id": "u1", "window": "24h", "scorer": "lexicon"})
	if after := w.dump(); after != before {
		t.Errorf("a second run changed\n%s\nto\n%s", before, after)
	}
}

func TestWindowEdges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("chat:messages:7",
		chat("before", "great", time.Hour+time.Nanosecond), chat("first", "great", time.Hour),
		chat("last", "great", 0), chat("after", "great", -time.Nanosecond))
	for _, user := range []any{"7", 7} {
		result := w.mustCall(AnalyzeChatSentiment, map[string]any{"user_id": user, "window": "1h"})
		check(t, "result", result, map[string]string{"user_id": "7", "messages_analyzed": "2", "skipped": "map[in_future:1]"})
	}
}

func TestUserWhoSaysNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	result := w.mustCall(AnalyzeChatSentiment, nil, "nobody")
	check(t, "result", result, map[string]string{"messages_analyzed": "0", "mean": "<nil>", "label": "<nil>"})
	if dump := w.dump(); dump != "{}" {
		t.Errorf("a user without messages left %s", dump)
	}
	w.push("chat:messages:u1", chat("m1", "great", time.Hour))
	w.mustCall(AnalyzeChatSentiment, nil, "u1")
	w.now = w.now.Add(48 * time.Hour)
	w.mustCall(AnalyzeChatSentiment, nil, "u1")
	check(t, "profile after a silent day", w.hash("personality:profile:u1"), map[string]string{
		"sentiment_mean": "absent", "sentiment_label": "absent", "messages_analyzed": "0", "sentiment_positive": "0",
	})
	check(t, "trend after a silent day", w.hash("personality:trend:u1"), map[string]string{
		"2026-11-25": `{"mean":0.6249,"label":"positive","messages":1,"positive":1,"neutral":0,"negative":0}`,
	})
}

func TestGiantLists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var elements []any
	for i := range 5000 { // oldest first, 1,000 of them in the window; each fifth appears twice
		ago := time.Duration(5000-i) * 86400 * time.Millisecond
		elements = append(elements, chat(fmt.Sprint(i), "great", ago))
		if i%5 == 0 {
			elements = append(elements, elements[len(elements)-1])
		}
	}
	w.push("chat:messages:tail", elements...)
	slices.Reverse(elements)
	w.push("chat:messages:head", elements...)
	w.push("chat:messages:all", elements...)
	for _, user := range []string{"tail", "head"} {
		result := w.mustCall(AnalyzeChatSentiment, nil, user)
		check(t, "newest at the "+user, result, map[string]string{"messages_analyzed": "1000", "duplicates": "200", "truncated": "false"})
		if read := result["messages_read"].(float64); read > 1200+3*pageElements {
			t.Errorf("newest at the %s: read %v messages, want few more than the window's 1,200", user, read)
		}
	}
	result := w.mustCall(AnalyzeChatSentiment, map[string]any{"window": "7d"}, "all")
	check(t, "all", result, map[string]string{"messages_read": "6000", "messages_analyzed": "5000", "duplicates": "1000"})
}

func TestListsBeyondTheBound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	elements := slices.Repeat([]any{"malformed"}, maxElements)
	w.push("chat:messages:u1", append([]any{chat("oldest", "great", time.Hour)}, elements...)...)
	result := w.mustCall(AnalyzeChatSentiment, nil, "u1")
	check(t, "result", result, map[string]string{
		"messages_read": "100000", "truncated": "true", "messages_analyzed": "0", "skipped": "map[not_json_object:100000]",
	})
}

func TestArgumentsOfAnalyzeChatSentiment(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, c := range []struct {
		reason string
		kwargs map[string]any
		says   []string
	}{
		{"no user", nil, []string{"user_id"}},
		{"an empty user", map[string]any{"user_id": ""}, []string{"user_id", "empty"}},
		{"a list of users", map[string]any{"user_id": []string{"u1"}}, []string{"user_id"}},
		{"a user with a line break", map[string]any{"user_id": "u\n1"}, []string{"user_id", "control"}},
		{"a long window", map[string]any{"user_id": "u1", "window": "32d"}, []string{"window", "31d"}},
		{"no window", map[string]any{"user_id": "u1", "window": "daily"}, []string{"window", "24h"}},
		{"a number as window", map[string]any{"user_id": "u1", "window": 24}, []string{"window"}},
		{"an unknown scorer", map[string]any{"user_id": "u1", "scorer": "vader"}, []string{"scorer", "lexicon", "openai"}},
		{"a scorer without its key", map[string]any{"user_id": "u1", "scorer": "openai"}, []string{"scorer", "OPENAI_API_KEY"}},
		{"an unknown argument", map[string]any{"user_id": "u1", "users": "u2"}, []string{"users"}},
	} {
		_, err := w.call(AnalyzeChatSentiment, c.kwargs)
		if !runner.IsPermanent(err) {
			t.Errorf("%s: got error %v, want a permanent one", c.reason, err)
			continue
		}
		for _, word := range c.says {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: the error does not say %q: %v", c.reason, word, err)
			}
		}
	}
}

func TestKeysOfOtherTypes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		task, key string
	}{
		{AnalyzeChatSentiment, "chat:messages:u1"}, {AnalyzeChatSentiment, "personality:profile:u1"},
		{AnalyzeChatSentiment, "personality:trend:u1"}, {UpdatePersonality, "activity:games:u1"},
		{UpdatePersonality, "personality:profile:u1"},
	} {
		w := newWorld(t)
		w.push("chat:messages:u1", chat("m1", "great", time.Hour))
		w.push("activity:games:u1", played("party", time.Hour))
		if err := w.redis.Set(t.Context(), c.key, "text", 0).Err(); err != nil {
			t.Fatalf("writing %s: %v", c.key, err)
		}
		_, err := w.call(c.task, nil, "u1")
		if !runner.IsPermanent(err) || !strings.Contains(err.Error(), c.key) {
			t.Errorf("%s with text in %s: got error %v, want a permanent one that names the key", c.task, c.key, err)
		}
		for _, key := range []string{"personality:profile:u1", "personality:trend:u1"} {
			if key != c.key && w.redis.Exists(t.Context(), key).Val() != 0 {
				t.Errorf("%s with text in %s: wrote %s nevertheless", c.task, c.key, key)
			}
		}
	}
}

func TestRedisThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_ = w.redis.Close()
	for _, task := range []string{AnalyzeChatSentiment, UpdatePersonality} {
		if _, err := w.call(task, nil, "u1"); err == nil || runner.IsPermanent(err) {
			t.Errorf("%s: got error %v, want one that is worth a retry", task, err)
		}
	}
	if _, err := w.call(AnalyzeAllUsers, nil); err == nil || runner.IsPermanent(err) {
		t.Errorf("%s: got error %v, want one that is worth a retry", AnalyzeAllUsers, err)
	}
}

func TestScorerThatSaysLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var users []string
	endpoint := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		users = append(users, request.Header.Get("X-User-ID"))
		answer.Header().Set("Retry-After", "5")
		answer.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(endpoint.Close)
	w.settings = map[string]string{"OPENAI_BASE_URL": endpoint.URL, "OPENAI_API_KEY": "k", "OPENAI_MODEL": "m"}
	w.push("chat:messages:u1", chat("m1", "my secret diary", time.Hour))
	_, err := w.call(AnalyzeChatSentiment, map[string]any{"scorer": "openai"}, "u1")
	var later *runner.RetryAfter
	if !errors.As(err, &later) || later.Delay != 5*time.Second || strings.Contains(err.Error(), "diary") {
		t.Errorf("got error %v, want to retry after 5s, and nothing of the message", err)
	}
	if !slices.Equal(users, []string{"u1"}) {
		t.Errorf("the endpoint was asked in the name of %q", users)
	}
	if w.redis.Exists(t.Context(), "personality:profile:u1").Val() != 0 {
		t.Error("a failed run wrote a profile")
	}
}
