package limiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

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
	if ttl <= 60*time.Second || ttl > 61*time.Second+time.Minute/16 {
		t.Errorf("a window of 1m expires in %v, want a second after it has passed, and a 16th of it", ttl)
	}
	eventually(t, "the short window's key is gone", func() bool {
		return client.Exists(t.Context(), "ratelimit:{n/s:u}:1").Val() == 0
	})
}

// A caller costs Redis some 20 bytes a take, and 1.3 KiB where the limit is large.
func TestEntriesAreSmall(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client := newLimiter(t, server.URL()), server.Client()
	now := int64(epoch)
	l.clock = func() int64 { return now }
	for _, test := range []struct {
		limit, takes, most int64
	}{
		{exactRequests, 3 * exactRequests, 6 << 10}, {3000, 9000, 3 << 10}, // Redis doubles what grows
	} {
		take := perMinute(fmt.Sprint("of ", test.limit), test.limit)
		for range test.takes { // the whole limit in a half of the window
			if !mustTakeAnew(t, l, take).Admitted {
				now += 31_000_000
				mustTakeAnew(t, l, take)
			}
			now += 30_000_000 / test.limit
		}
		key := mustQuotas(t, []Take{take})[0].key
		bytes := client.MemoryUsage(t.Context(), key).Val()
		t.Logf("%s: %d bytes", key, bytes)
		if bytes > test.most {
			t.Errorf("%s uses %d bytes, want at most %d", key, bytes, test.most)
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

// Whoever keeps a decision keeps no store with it: the proxy's connections do, to use
// its memory again.
func TestDecisionsKeepNoStore(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, redistest.Start(t).URL())
	d := mustTake(t, l, perMinute("u", 1))
	store := weak.Make(l.backend)
	if err := l.Use(nil); err != nil {
		t.Fatal(err)
	}
	l.closing.Wait()
	eventually(t, "the store is not in memory", func() bool {
		runtime.GC()
		return store.Value() == nil
	})
	runtime.KeepAlive(d)
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

// A sliced log that a sidecar of the version before has written, with room for more
// entries before its tail, is read, and written without.
func TestLogWithRoomIsRead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client, take := newLimiter(t, server.URL()), server.Client(), perMinute("alice", 200)
	l.clock = func() int64 { return epoch }
	slice := sliceOf(take.Limits[0])
	text := appendNumber([]byte("w"), (epoch+slice-1)/slice, 7)
	text = appendNumber(appendNumber(text, 0, 2), 5, 4) // five units in the first slice
	text = append(text, make([]byte, 16*6)...)
	text = appendNumber(append(text, 16, 0, 0), 5, 4)
	text = appendNumber(text, epoch, 7)
	key := mustQuotas(t, []Take{take})[0].key
	if err := client.Set(t.Context(), key, text, time.Minute).Err(); err != nil {
		t.Fatal(err)
	}
	for left := int64(194); left > 191; left-- { // with the first it is written anew
		if d := mustTakeAnew(t, l, take); !d.Admitted || d.Quotas[0].Remaining != left {
			t.Fatalf("want %d to remain: %+v", left, d)
		}
		checkSliced(t, client.Get(t.Context(), key).Val())
	}
}
