package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
	"github.com/weir-dev/weir/worker/sentiment"
)

// now of all tests: a Wednesday, at noon.
var now = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// world of one test: a Redis, the tasks, and what they enqueued.
type world struct {
	t        *testing.T
	redis    *redis.Client
	registry runner.Registry
	now      time.Time
	settings map[string]string
	enqueued []celery.Signature
	chunks   []int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, redis: redistest.Start(t).Client(), now: now, settings: map[string]string{}}
	registry, err := New(Options{
		Redis: w.redis, Now: func() time.Time { return w.now },
		Getenv: func(name string) string { return w.settings[name] },
	})
	if err != nil {
		t.Fatalf("making the tasks: %v", err)
	}
	w.registry = registry
	return w
}

// call runs a task, and gives its result as a caller gets it.
func (w *world) call(task string, kwargs map[string]any, args ...any) (map[string]any, error) {
	w.t.Helper()
	call, err := runner.NewCall("call-1", task, args, kwargs, func(_ context.Context, children []celery.Signature) error {
		w.enqueued = append(w.enqueued, children...)
		w.chunks = append(w.chunks, len(children))
		return nil
	})
	if err != nil {
		w.t.Fatalf("making a call: %v", err)
	}
	call.Queue = "personality"
	result, err := w.registry[task](w.t.Context(), call)
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(result)
	if err != nil {
		w.t.Fatalf("the result of %s cannot be encoded: %v", task, err)
	}
	var decoded map[string]any
	if err := json.Unmarshal(encoded, &decoded); err != nil {
		w.t.Fatalf("the result of %s is no object: %s", task, encoded)
	}
	return decoded, nil
}

// mustCall is call where no error is expected.
func (w *world) mustCall(task string, kwargs map[string]any, args ...any) map[string]any {
	w.t.Helper()
	result, err := w.call(task, kwargs, args...)
	if err != nil {
		w.t.Fatalf("%s(%v %v): %v", task, args, kwargs, err)
	}
	return result
}

func (w *world) push(key string, elements ...any) {
	w.t.Helper()
	for len(elements) > 0 {
		count := min(len(elements), 1000)
		if err := w.redis.RPush(w.t.Context(), key, elements[:count]...).Err(); err != nil {
			w.t.Fatalf("filling %s: %v", key, err)
		}
		elements = elements[count:]
	}
}

func (w *world) hash(key string) map[string]string {
	w.t.Helper()
	fields, err := w.redis.HGetAll(w.t.Context(), key).Result()
	if err != nil {
		w.t.Fatalf("reading %s: %v", key, err)
	}
	return fields
}

// dump is all that Redis holds, but the times of updates.
func (w *world) dump() string {
	w.t.Helper()
	all := map[string]any{}
	for _, key := range w.redis.Keys(w.t.Context(), "*").Val() {
		switch kind := w.redis.Type(w.t.Context(), key).Val(); kind {
		case "hash":
			fields := w.hash(key)
			maps.DeleteFunc(fields, func(name, _ string) bool { return strings.HasSuffix(name, "updated_at") })
			all[key] = fields
		case "list":
			all[key] = w.redis.LRange(w.t.Context(), key, 0, -1).Val()
		default:
			w.t.Fatalf("%s has type %s", key, kind)
		}
	}
	encoded, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		w.t.Fatalf("encoding the dump: %v", err)
	}
	return string(encoded)
}

// chat is a message of the user, so long before now.
func chat(id, content string, ago time.Duration) string {
	return fmt.Sprintf(`{"id": %q, "role": "user", "content": %q, "timestamp": %q}`, id, content, now.Add(-ago).Format(time.RFC3339Nano))
}

// check that a result or hash has these values, as fmt prints them.
func check[V any](t *testing.T, what string, got map[string]V, want map[string]string) {
	t.Helper()
	for name, value := range want {
		have, present := got[name]
		if printed := fmt.Sprint(have); value == "absent" && present || value != "absent" && (!present || printed != value) {
			t.Errorf("%s: got %s = %v, want %s", what, name, have, value)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = client.Close() })
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	t.Cleanup(func() { _ = cluster.Close() })
	nothing := func(string) string { return "" }
	for _, c := range []struct {
		reason  string
		options Options
		fails   bool
	}{
		{"the least", Options{Redis: client}, false},
		{"no Redis", Options{}, true},
		{"a cluster", Options{Redis: cluster}, true},
		{"an unknown scorer", Options{Redis: client, Scorer: "vader"}, true},
		{"a scorer without its key", Options{Redis: client, Scorer: sentiment.OpenAI, Getenv: nothing}, true},
	} {
		registry, err := New(c.options)
		if (err != nil) != c.fails {
			t.Errorf("%s: got error %v, want one: %v", c.reason, err, c.fails)
		}
		if err == nil && strings.Join(registry.Names(), " ") != strings.Join([]string{AnalyzeAllUsers, AnalyzeChatSentiment, Debug, UpdatePersonality}, " ") {
			t.Errorf("%s: got tasks %v", c.reason, registry.Names())
		}
	}
}
