package limiter

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

func TestSentinelSecured(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{Password: "p@ss/word", SentinelPassword: "s3ntinel&", TLS: true})
	store := ruleset.Store{URL: sentinel.URL(), CABundle: sentinel.CA, TimeoutMillis: patience.Milliseconds()}
	l, _ := newLimiterOf(t, store)
	if !mustTake(t, l, perMinute("u", 1)).Admitted {
		t.Error("refused")
	}
	connection, err := Connect(store)
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	var mu sync.Mutex
	met := map[string]bool{}
	err = connection.Servers(t.Context(), func(ctx context.Context, server *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		met[server.Options().Addr] = true
		return server.Ping(ctx).Err()
	})
	if err != nil || len(met) != 2 || !met[sentinel.Master.Addr] || !met[sentinel.Replica.Addr] {
		t.Errorf("Servers met %v, error %v, want master and replica", met, err)
	}
	for _, test := range []struct{ reason, url, says string }{
		{"another sentinels' password", strings.Replace(store.URL, "s3ntinel", "battery-staple", 1), "WRONGPASS"},
		{"a master that the sentinels do not know", strings.Replace(store.URL, sentinel.MasterName, "battery-staple", 1), "check master_name"},
		{"another password of the master", strings.Replace(store.URL, "p%40ss", "battery-staple", 1), "WRONGPASS"},
	} {
		l, log := newLimiterOf(t, ruleset.Store{URL: test.url, CABundle: sentinel.CA, TimeoutMillis: patience.Milliseconds()})
		_, err := l.Take(t.Context(), []Take{perMinute("u", 100)})
		if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error %v, want ErrStore that says %q", test.reason, err, test.says)
		}
		for _, secret := range []string{"battery", "s3ntinel", "p@ss", sentinel.Sentinels[0].Addr} {
			if text := fmt.Sprint(err, log); strings.Contains(text, secret) {
				t.Errorf("%s: %q is told: %s", test.reason, secret, text)
			}
		}
	}
}

// failoverTimeout of stores that fail while much passes: a busy machine decides
// within it.
const failoverTimeout = 500 * time.Millisecond

// load takes for some identities at the same time, until it is stopped, and
// counts what was admitted.
type load struct {
	limiters []*Limiter
	takes    []Take
	admitted []atomic.Int64
	failures atomic.Int64
	longest  atomic.Int64 // nanoseconds
	stop     context.CancelFunc
	all      sync.WaitGroup
}

// startLoad has each limiter take for each caller, again and again.
func startLoad(t *testing.T, limiters []*Limiter, takes []Take) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	g := &load{limiters: limiters, takes: takes, admitted: make([]atomic.Int64, len(takes)), stop: stop}
	for _, l := range limiters {
		for i := range takes {
			g.all.Go(func() {
				for sleep(ctx, 5*time.Millisecond) {
					g.take(ctx, l, i)
				}
			})
		}
	}
	t.Cleanup(g.end)
	return g
}

func (g *load) take(ctx context.Context, l *Limiter, i int) {
	start := time.Now()
	decision, err := l.Take(context.WithoutCancel(ctx), g.takes[i:i+1])
	for took := time.Since(start).Nanoseconds(); ; {
		if longest := g.longest.Load(); took <= longest || g.longest.CompareAndSwap(longest, took) {
			break
		}
	}
	if err != nil {
		g.failures.Add(1)
	}
	if decision.Admitted {
		g.admitted[i].Add(1)
	}
}

func (g *load) end() {
	g.stop()
	g.all.Wait()
}

func (g *load) total() (n int64) {
	for i := range g.admitted {
		n += g.admitted[i].Load()
	}
	return n
}

// bounded says how long the longest decision took, beside the store's timeout, and
// fails when that was no matter of a busy machine.
func (g *load) bounded(t *testing.T) {
	t.Helper()
	longest, timeout := time.Duration(g.longest.Load()), g.limiters[0].backend.store.Timeout()
	t.Logf("%d admitted, %d failures, the longest decision %v of %v", g.total(), g.failures.Load(), longest, timeout)
	if longest > patience/2 {
		t.Errorf("a decision took %v, of a timeout of %v", longest, timeout)
	}
}

// manyTakes of callers of one service.
func manyTakes(callers int, requests int64) []Take {
	takes := make([]Take, callers)
	for i := range takes {
		takes[i] = perMinute(fmt.Sprint("caller-", i), requests)
		takes[i].Limits[0].WindowMillis = 600_000 // longer than the test
	}
	return takes
}

func limitersOf(t *testing.T, n int, store ruleset.Store) []*Limiter {
	t.Helper()
	limiters := make([]*Limiter, n)
	for i := range limiters {
		limiters[i], _ = newLimiterOf(t, store)
	}
	return limiters
}

// The master is killed under load, or changes places with its replica. What it had
// answered and not passed on is lost, and as much is admitted again, by each
// caller, and no more.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	t.Run("killed", func(t *testing.T) {
		failsOver(t, func(s *redistest.Sentinel, load *load) {
			s.Master.Kill()
			load.end() // so that the new master decides nothing before the losses are counted
			s.AwaitMaster(t.Context(), s.Replica)
		})
	})
	t.Run("ordered", func(t *testing.T) {
		failsOver(t, func(s *redistest.Sentinel, load *load) {
			s.SwapMaster(t.Context())
			load.end()
		})
	})
}

func failsOver(t *testing.T, how func(*redistest.Sentinel, *load)) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{})
	const limit = 100
	takes := manyTakes(20, limit)
	limiters := limitersOf(t, 4, ruleset.Store{URL: sentinel.URL(), TimeoutMillis: failoverTimeout.Milliseconds()})
	before := startLoad(t, limiters, takes)
	eventually(t, "the load is under way", func() bool { return before.total() > limit*int64(len(takes))/4 })
	how(sentinel, before)
	before.bounded(t)

	client, lost := sentinel.Replica.Client(), make([]int64, len(takes))
	for i, take := range takes {
		kept := units(t, client, mustQuotas(t, []Take{take})[0].key)
		lost[i] = max(before.admitted[i].Load()-kept, 0)
	}
	after := startLoad(t, limiters, takes)
	eventually(t, "all limits are reached on the new master", func() bool {
		for _, take := range takes {
			if units(t, client, mustQuotas(t, []Take{take})[0].key) < limit {
				return false
			}
		}
		return true
	})
	after.end()
	after.bounded(t)
	var all int64
	for i := range takes {
		admitted := before.admitted[i].Load() + after.admitted[i].Load()
		if admitted > limit+lost[i] {
			t.Errorf("caller %d: %d admitted of %d, and %d were lost", i, admitted, limit, lost[i])
		}
		all += lost[i]
	}
	t.Logf("%d admissions were lost with the master", all)
}

// The master hangs, and the sentinels elect the replica: no decision waits for
// it longer than the timeout, and takes pass again although it still keeps its
// connections. When it goes on, it is made a replica, and no take is decided by it.
func TestSentinelMasterHangs(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{})
	takes := manyTakes(10, 128)
	for i := range takes { // no leases, and always some room
		takes[i].Limits[0].WindowMillis = 500
	}
	limiters := limitersOf(t, 4, ruleset.Store{URL: sentinel.URL(), TimeoutMillis: shortTimeout.Milliseconds()})
	load := startLoad(t, limiters, takes)
	eventually(t, "takes pass", func() bool { return load.total() > 100 })
	sentinel.Master.Pause()
	sentinel.AwaitMaster(t.Context(), sentinel.Replica)
	passes := func(l *Limiter) func() bool {
		return func() bool {
			decision, err := l.Take(t.Context(), []Take{perMinute("new", 1_000_000)})
			return err == nil && decision.Admitted && !decision.Remembered
		}
	}
	for _, l := range limiters {
		eventually(t, "it takes from the new master", passes(l))
	}
	sentinel.Master.Resume()
	former := sentinel.Master.Client()
	eventually(t, "the former master is a replica", func() bool {
		info, err := former.Info(t.Context(), "replication").Result()
		return err == nil && strings.Contains(info, "role:slave") && strings.Contains(info, "master_link_status:up")
	})
	for _, l := range limiters {
		eventually(t, "it takes from the new master", passes(l))
	}
	load.end()
	load.bounded(t)
	// Both have the same: nothing was counted where it is not any more.
	key := mustQuotas(t, []Take{perMinute("new", 1_000_000)})[0].key
	eventually(t, "the replica is in step", func() bool {
		return units(t, former, key) == units(t, sentinel.Replica.Client(), key)
	})
}

// Sentinels that hang, one or all: connections that are there serve, and what
// needs a new one is decided in time. Another sentinel is asked for the master.
func TestSentinelsHang(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{})
	store := ruleset.Store{URL: sentinel.URL(), TimeoutMillis: shortTimeout.Milliseconds()}
	l, _ := newLimiterOf(t, store)
	take := perMinute("u", 1_000_000)
	eventually(t, "it admits", admits(l, take))
	for _, s := range sentinel.Sentinels {
		s.Pause()
	}
	for range 20 {
		if _, err := l.Take(t.Context(), []Take{take}); err != nil {
			t.Errorf("on a connection that was there: %v", err)
		}
	}
	another, _ := newLimiterOf(t, store)
	failing(t, another, take)
	sentinel.Sentinels[2].Resume()
	eventually(t, "it admits with one sentinel", admits(another, take))

	sentinel.Sentinels[1].Resume()
	sentinel.FailOver(t.Context()) // one still hangs, whom either may have asked last
	load := startLoad(t, []*Limiter{l, another}, manyTakes(5, 128))
	for _, l := range []*Limiter{l, another} {
		eventually(t, "it admits on the new master", admits(l, perMinute("v", 1_000_000)))
	}
	load.end()
	load.bounded(t)
}

// A server that becomes a replica keeps its connections and answers READONLY on
// them. That decides nothing, and takes are in time; when the server is a master
// again, or the host's name leads to another, they pass.
func TestDemotedServer(t *testing.T) {
	t.Parallel()
	server, other := redistest.Start(t), redistest.Start(t)
	l, _ := newLimiterOf(t, ruleset.Store{URL: server.URL(), TimeoutMillis: shortTimeout.Milliseconds()})
	take := perMinute("u", 1_000_000)
	flood([]*Limiter{l}, 60, func(l *Limiter) { _, _ = l.Take(t.Context(), []Take{take}) })
	host, port, _ := strings.Cut(other.Addr, ":")
	if err := server.Client().ReplicaOf(t.Context(), host, port).Err(); err != nil {
		t.Fatal(err)
	}
	l.backend.memory.forget()
	failing(t, l, perMinute("v", 100))
	eventually(t, "the error says READONLY", func() bool {
		_, err := l.Take(t.Context(), []Take{perMinute("v", 100)})
		return err != nil && strings.Contains(err.Error(), "READONLY")
	})
	if err := server.Client().ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it admits again", admits(l, take))
}
