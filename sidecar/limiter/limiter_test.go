package limiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

func countLines(text string) int { return strings.Count(strings.TrimSpace(text), "\n") + 1 }

func TestWithoutStore(t *testing.T) {
	t.Parallel()
	l := New(Options{})
	t.Cleanup(l.Close)
	_, taking := l.Take(t.Context(), []Take{perMinute("u", 1)})
	_, asking := l.Remaining(t.Context(), []Take{perMinute("u", 1)})
	for _, err := range []error{taking, asking, l.Ping(t.Context())} {
		if !errors.Is(err, ErrStore) {
			t.Errorf("without a store: error %v, want ErrStore", err)
		}
	}
	closed := newLimiter(t, redistest.Start(t).URL())
	closed.Close()
	if _, err := closed.Take(t.Context(), []Take{perMinute("u", 1)}); !errors.Is(err, ErrStore) {
		t.Errorf("after Close: error %v, want ErrStore", err)
	}
}

func TestBadTakes(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, redistest.Start(t).URL())
	limits := []ruleset.Limit{{Requests: 1, WindowMillis: 1000}}
	good := Take{Namespace: "n", Service: "s", Identity: "i", Limits: limits}
	change := func(f func(*Take)) []Take {
		take := good
		f(&take)
		return []Take{take}
	}
	for _, test := range []struct {
		reason string
		takes  []Take
		says   string
	}{
		{"no limit", change(func(t *Take) { t.Limits = nil }), "no limit"},
		{"a negative cost", change(func(t *Take) { t.Cost = -1 }), "cost"},
		{"a cost that would hold Redis up", change(func(t *Take) { t.Cost = MaxCost + 1 }), "cost"},
		{"a limit of nothing", change(func(t *Take) { t.Limits = []ruleset.Limit{{WindowMillis: 1000}} }), "requests"},
		{"a limit that doubles cannot hold", change(func(t *Take) { t.Limits = []ruleset.Limit{{Requests: 1 << 60, WindowMillis: 1}} }), "requests"},
		{"an empty window", change(func(t *Take) { t.Limits = []ruleset.Limit{{Requests: 1}} }), "window"},
		{"a window of a thousand years", change(func(t *Take) { t.Limits = []ruleset.Limit{{Requests: 1, WindowMillis: 1 << 45}} }), "window"},
		{"two limits with one key", change(func(t *Take) { t.Limits = []ruleset.Limit{limits[0], limits[0]} }), "two limits"},
		{"a namespace that could be part of another key", change(func(t *Take) { t.Namespace = "a/b" }), "namespace"},
		{"a service that could be part of another key", change(func(t *Take) { t.Service = "a:b" }), "service"},
		{"an identity that fills Redis", change(func(t *Take) { t.Identity = strings.Repeat("x", MaxIdentityBytes+1) }), "identity"},
		{"one identity twice", []Take{good, good}, "twice"},
	} {
		_, taking := l.Take(t.Context(), test.takes)
		_, asking := l.Remaining(t.Context(), test.takes)
		for _, err := range []error{taking, asking} {
			if err == nil || errors.Is(err, ErrStore) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%s: error %v, want one that says %q and is not ErrStore", test.reason, err, test.says)
			}
		}
	}
	if decision := mustTake(t, l); !decision.Admitted {
		t.Errorf("no takes: %+v, want admitted", decision)
	}
}

// An identity may hold whatever a caller sends; two of them never share a quota.
func TestIdentitiesAreApart(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, redistest.StartCluster(t).URL())
	identities := []string{"", "a", "a}:60000", "{a}", "}", "{}", "a b\r\n*1", "\x00\xff", "用户", "a:b", "a/b"}
	for _, identity := range identities {
		if !mustTake(t, l, perMinute(identity, 1)).Admitted {
			t.Errorf("the first take of %q was refused", identity)
		}
		if mustTake(t, l, perMinute(identity, 1)).Admitted {
			t.Errorf("the second take of %q was admitted", identity)
		}
	}
}

// Scripts go when Redis restarts or is told so; nobody notices.
func TestScriptIsLoadedAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	for i := range 3 {
		if decision := mustTake(t, l, perMinute("u", 10)); decision.Quotas[0].Remaining != int64(9-i) {
			t.Errorf("take %d: %d remaining, want %d", i, decision.Quotas[0].Remaining, 9-i)
		}
		if err := server.Client().ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeysExpire(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client := newLimiter(t, server.URL()), server.Client()
	mustTake(t, l, Take{Namespace: "n", Service: "s", Identity: "u", Limits: []ruleset.Limit{
		{Requests: 1, WindowMillis: 1}, {Requests: 1, WindowMillis: 60_000},
	}})
	ttl := client.PTTL(t.Context(), "ratelimit:{n/s:u}:60000").Val()
	if ttl <= 60*time.Second || ttl > 61*time.Second {
		t.Errorf("a window of 1m expires in %v, want a second after it has passed", ttl)
	}
	eventually(t, "the short window's key is gone", func() bool {
		return client.Exists(t.Context(), "ratelimit:{n/s:u}:1").Val() == 0
	})
}

// Redis keeps up to 128 entries in a listpack, about a quarter of the memory.
func TestEntriesAreSmall(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client := newLimiter(t, server.URL()), server.Client()
	for range 128 {
		mustTake(t, l, perMinute("one", 128))
	}
	many := perMinute("many", 128)
	many.Cost = 128
	mustTake(t, l, many)
	for _, identity := range []string{"one", "many"} {
		key := "ratelimit:{bondhu/spotify:" + identity + "}:60000"
		if encoding := client.ObjectEncoding(t.Context(), key).Val(); encoding != "listpack" {
			t.Errorf("%s of 128 units is a %s, want a listpack", key, encoding)
		}
		bytes := client.MemoryUsage(t.Context(), key).Val()
		t.Logf("%s: %d bytes for 128 entries", key, bytes)
		if bytes > 128*40 {
			t.Errorf("%s uses %d bytes for 128 entries, want at most 40 each", key, bytes)
		}
	}
}

// What Redis refuses to write it refuses before the first write.
func TestFailedScriptsWriteNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client := newLimiter(t, server.URL()), server.Client()
	if err := client.Set(t.Context(), "ratelimit:{bondhu/spotify:b}:60000", "somebody else's", 0).Err(); err != nil {
		t.Fatal(err)
	}
	_, err := l.Take(t.Context(), []Take{perMinute("a", 1), perMinute("b", 1)})
	if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "WRONGTYPE") {
		t.Errorf("a key of another type: error %v, want ErrStore that says WRONGTYPE", err)
	}
	if err := client.ConfigSet(t.Context(), "maxmemory", "1").Err(); err != nil {
		t.Fatal(err)
	}
	_, err = l.Take(t.Context(), []Take{perMinute("a", 1), perMinute("c", 1)})
	if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "OOM") {
		t.Errorf("no memory: error %v, want ErrStore that says OOM", err)
	}
	if keys := client.Keys(t.Context(), "*").Val(); len(keys) != 1 {
		t.Errorf("Redis holds %q, want only what was there", keys)
	}
}

// The largest cost passes: its members go to Redis in pieces.
func TestLargestCost(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, redistest.Start(t).URL())
	take := perMinute("u", MaxCost)
	take.Cost = MaxCost
	if decision := mustTake(t, l, take); !decision.Admitted || decision.Quotas[0].Remaining != 0 {
		t.Errorf("%+v, want admitted with nothing remaining", decision)
	}
	if decision := mustTake(t, l, take); decision.Admitted || decision.RetryAfter <= 0 {
		t.Errorf("%+v, want refused for now", decision)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	var log bytes.Buffer
	l := New(Options{Registerer: registry, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer l.Close()
	server := redistest.Start(t)
	if err := l.Use(&ruleset.Store{URL: server.URL(), TimeoutMillis: 5000}); err != nil {
		t.Fatal(err)
	}
	mustTake(t, l, perMinute("u", 1))
	mustTake(t, l, perMinute("u", 1))
	if err := l.Use(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(t.Context(), []Take{perMinute("u", 1)}); err == nil {
		t.Fatal("want an error without a store")
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Use(&ruleset.Store{URL: server.URL(), TimeoutMillis: 5000}); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(canceled, []Take{perMinute("u", 1)}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrStore) {
		t.Errorf("a caller that gave up: error %v, want context.Canceled and not ErrStore", err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			if h := metric.GetHistogram(); h != nil {
				got[family.GetName()+" "+metric.GetLabel()[0].GetValue()] = fmt.Sprint(h.GetSampleCount())
			} else if c := metric.GetCounter(); c != nil {
				got[family.GetName()] = fmt.Sprint(c.GetValue())
			}
		}
	}
	for name, want := range map[string]string{
		"weir_sidecar_take_duration_seconds admitted": "1",
		"weir_sidecar_take_duration_seconds refused":  "1",
		"weir_sidecar_take_duration_seconds failed":   "1",
		"weir_sidecar_store_failures_total":           "1",
	} {
		if got[name] != want {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}
