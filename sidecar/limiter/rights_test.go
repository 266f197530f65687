package limiter

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// grant makes a user of Redis with the rights of a namespace, and returns the
// store as that user reaches it.
func grant(t *testing.T, namespace, user, at string, servers ...*redistest.Server) ruleset.Store {
	t.Helper()
	store := ruleset.Store{URL: at, TimeoutMillis: patience.Milliseconds()}
	rights, err := Rights(namespace, store)
	if err != nil {
		t.Fatal(err)
	}
	command := []any{"ACL", "SETUSER", user, "reset", "on", ">pass"}
	for _, right := range rights {
		command = append(command, right)
	}
	for _, server := range servers {
		if err := server.Client().Do(t.Context(), command...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	parsed.User = url.UserPassword(user, "pass")
	store.URL = parsed.String()
	return store
}

// everything has a limiter do all that it can do in a store.
func everything(t *testing.T, l *Limiter, restart func()) {
	t.Helper()
	// Leases that are granted, used and settled.
	for range 50 {
		mustTake(t, l, perMinute("leased", 3000))
	}
	// An exact log: several units, full, peeked at, edited to a sliced one.
	take := perMinute("exact", 5)
	take.Cost = 2
	for i, want := range []bool{true, true, false} {
		if decision := mustTakeAnew(t, l, take, perMinute("other", 9)); decision.Admitted != want {
			t.Errorf("take %d: admitted %v, want %v", i, decision.Admitted, want)
		}
	}
	if _, err := l.Remaining(t.Context(), []Take{take}); err != nil {
		t.Error(err)
	}
	mustTakeAnew(t, l, perMinute("exact", 500))
	// What is taken of some and refused by another is given back.
	for i := range 8 {
		name := string(rune('a' + i))
		mustTakeAnew(t, l, perMinute(name, 1))
		mustTakeAnew(t, l, perMinute("many"+name, 900), perMinute(name, 1))
		mustTakeAnew(t, l, perMinute("few"+name, 9), perMinute(name, 1))
	}
	// A window that has passed.
	short := Take{Namespace: "bondhu", Service: "spotify", Identity: "short", Limits: []ruleset.Limit{{Requests: 2, WindowMillis: 1}}}
	eventually(t, "a window has passed", func() bool {
		mustTakeAnew(t, l, short)
		return true
	})
	time.Sleep(2 * time.Millisecond) // the window's length, not a condition
	mustTakeAnew(t, l, short)
	restart()
	mustTakeAnew(t, l, perMinute("after", 9))
}

// Rights are what the limiter uses, no less and no more: Redis counts the
// commands that ran, those of scripts too, and notes those that it refused.
func TestRightsAreThoseInUse(t *testing.T) {
	t.Parallel()
	server, cluster := redistest.Start(t), redistest.StartCluster(t)
	for _, test := range []struct {
		reason, url string
		servers     []*redistest.Server
	}{
		{"alone", server.URL() + "/3", []*redistest.Server{server}},
		{"a cluster", cluster.URL(), cluster.Servers},
	} {
		store := grant(t, "bondhu", "weir", test.url, test.servers...)
		l, log := newLimiterOf(t, store)
		eventually(t, test.reason+": the store is up", func() bool { return testutil.ToFloat64(l.metrics.up) == 1 })
		everything(t, l, func() {
			if len(test.servers) > 1 { // a slot that moves
				asked := perMinute("asked", 9)
				from := nodeOf(t, cluster, asked)
				slot := int(slotOf(mustQuotas(t, []Take{asked})[0].key))
				cluster.MoveSlot(t.Context(), slot, cluster.Servers[from], cluster.Servers[(from+1)%3], func() { mustTake(t, l, asked) })
			}
			for _, server := range test.servers {
				if err := server.Client().ScriptFlush(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			}
		})
		l.Close()
		if log.String() != "" {
			t.Errorf("%s: logged: %s", test.reason, log)
		}
		rights, err := Rights("bondhu", store)
		if err != nil {
			t.Fatal(err)
		}
		granted, used := map[string]bool{}, map[string]bool{}
		for _, right := range rights[1:] {
			granted[strings.TrimPrefix(right, "+")] = true
		}
		for _, server := range test.servers {
			refused, err := server.Client().Do(t.Context(), "ACL", "LOG").Slice()
			if err != nil || len(refused) > 0 {
				t.Errorf("%s: refused: %v, error %v", test.reason, refused, err)
			}
			stats, err := server.Client().Info(t.Context(), "commandstats").Result()
			if err != nil {
				t.Fatal(err)
			}
			maps.Copy(used, ran(stats, granted))
		}
		for command := range granted {
			name, _, first := strings.Cut(command, "|")
			if !used[command] && (!first || !used[name]) {
				t.Errorf("%s: %s is granted, and nothing used it", test.reason, command)
			}
		}
	}
}

// ran are the commands of some that a server counted.
func ran(stats string, of map[string]bool) map[string]bool {
	found := map[string]bool{}
	for line := range strings.Lines(stats) {
		name, _, _ := strings.Cut(strings.TrimPrefix(line, "cmdstat_"), ":")
		if of[name] || slices.ContainsFunc(slices.Collect(maps.Keys(of)), func(c string) bool { return strings.HasPrefix(c, name+"|") }) {
			found[name] = true
		}
	}
	return found
}

// Whoever has a namespace's credential has that namespace's quotas, and nothing
// else: not another's, also by a script, and nothing about the server.
func TestANamespacesCredentialReachesNoOther(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	ctx := t.Context()
	store := grant(t, "shop", "thief", server.URL(), server)
	admin := server.Client()
	// "shop-eu" and "sho" have the same beginning as "shop".
	for _, key := range []string{"ratelimit:{bank/spotify:u}:60000", "ratelimit:{shop-eu/spotify:u}:60000", "ratelimit:{sho/p:u}:1", "celery", "other"} {
		if err := admin.Set(ctx, key, "secret", 0).Err(); err != nil {
			t.Fatal(err)
		}
	}
	options, err := redis.ParseURL(store.URL)
	if err != nil {
		t.Fatal(err)
	}
	options.Protocol, options.DisableIdentity = 2, true
	thief := redis.NewClient(options)
	t.Cleanup(func() { _ = thief.Close() })
	for _, key := range admin.Keys(ctx, "*").Val() {
		for _, command := range [][]any{
			{"GET", key}, {"SET", key, "x"}, {"DEL", key}, {"TYPE", key}, {"PEXPIRE", key, "1"}, {"ZADD", key, "1", "x"}, {"HSET", key, "x", "x"},
			{"EVAL", "return redis.call('GET', KEYS[1])", "1", key},
			{"EVAL", "return redis.call('SET', ARGV[1], 'x')", "0", key},
			{"EVAL", "return redis.call('GET', ARGV[1])", "0", key},
			{"EVAL", "return redis.pcall('DEL', ARGV[1])", "1", "ratelimit:{shop/s:u}:1", key},
		} {
			if err := thief.Do(ctx, command...).Err(); err == nil || !isRefused(err) {
				t.Errorf("%v: error %v, want it refused", command, err)
			}
		}
	}
	for _, command := range []string{
		"KEYS *", "SCAN 0", "RANDOMKEY", "DBSIZE", "FLUSHALL", "FLUSHDB", "SWAPDB 0 1", "SELECT 1", "MONITOR", "SUBSCRIBE x", "PUBLISH x x",
		"CONFIG GET requirepass", "INFO", "CLIENT LIST", "CLIENT KILL ID 1", "ACL LIST", "ACL SETUSER thief allkeys", "ACL WHOAMI",
		"SHUTDOWN NOSAVE", "SCRIPT FLUSH", "SCRIPT LOAD x", "FUNCTION LIST", "REPLICAOF NO ONE", "SLOWLOG GET", "COMMAND",
	} {
		var words []any
		for word := range strings.FieldsSeq(command) {
			words = append(words, word)
		}
		if err := thief.Do(ctx, words...).Err(); err == nil || !isRefused(err) {
			t.Errorf("%s: error %v, want it refused", command, err)
		}
	}
	if err := thief.Set(ctx, "ratelimit:{shop/spotify:u}:60000", "x", 0).Err(); err != nil {
		t.Errorf("its own namespace: %v", err)
	}
	for _, key := range []string{"ratelimit:{bank/spotify:u}:60000", "celery"} {
		if got := admin.Get(ctx, key).Val(); got != "secret" {
			t.Errorf("%s is %q after it, want it as it was", key, got)
		}
	}
}

func isRefused(err error) bool {
	text := err.Error()
	return strings.Contains(text, "NOPERM") || strings.Contains(text, "can't access at least one of the keys") || // by a script
		strings.Contains(text, "No permissions") || // by a script, of Valkey
		strings.Contains(text, "can't run this command")
}

// A credential that is replaced, and whose user is then gone, fails no take: not
// of those under way, and not of the first with the new one.
func TestCredentialsAreReplacedWithoutAFailure(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, log := newLimiterOf(t, grant(t, "bondhu", "user-0", server.URL(), server))
	var takes atomic.Int64
	flood, stop := context.WithCancel(t.Context())
	defer stop()
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := 0; flood.Err() == nil; n++ {
				// Some from Redis each, some from leases.
				take := perMinute(string(rune('a'+(n+i)%26)), []int64{100, 1_000_000}[n%2])
				if _, err := l.Take(flood, []Take{take}); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("take failed: %v", err)
					return
				}
				takes.Add(1)
			}
		})
	}
	former := "user-0"
	for n := range 10 {
		before := takes.Load()
		eventually(t, "takes pass", func() bool { return takes.Load() > before+100 })
		next := "user-" + string(rune('1'+n))
		store := grant(t, "bondhu", next, server.URL(), server)
		if err := l.Use(&store); err != nil {
			t.Fatal(err)
		}
		l.closing.Wait() // the sidecar has moved
		if err := server.Client().Do(t.Context(), "ACL", "DELUSER", former).Err(); err != nil {
			t.Fatal(err)
		}
		former = next
	}
	stop()
	all.Wait()
	if log.String() != "" {
		t.Errorf("logged: %s", log)
	}
	t.Logf("%d takes over 10 rotations", takes.Load())
}
