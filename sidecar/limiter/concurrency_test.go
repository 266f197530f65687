package limiter

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// flood calls f from several sidecars' limiters at the same time.
func flood(limiters []*Limiter, takers int, f func(*Limiter)) {
	var all sync.WaitGroup
	for i := range takers {
		all.Go(func() { f(limiters[i%len(limiters)]) })
	}
	all.Wait()
}

// Takers on three sidecars that ask for far more than the limit get exactly it.
func TestFloodUsesExactlyTheLimit(t *testing.T) {
	t.Parallel()
	url := redistest.Start(t).URL()
	limiters := []*Limiter{newLimiter(t, url), newLimiter(t, url), newLimiter(t, url)}
	var admitted atomic.Int64
	flood(limiters, 24, func(l *Limiter) {
		for range 20 {
			if mustTake(t, l, perMinute("u", 100)).Admitted {
				admitted.Add(1)
			}
		}
	})
	if n := admitted.Load(); n != 100 {
		t.Errorf("admitted %d of 480, want 100", n)
	}
}

// Over many windows of real time and under flood, no window holds more than the
// limit, and each that could be full nearly is. A second quota, which never
// refuses, keeps the times at which Redis admitted.
func TestNoWindowIsEverOver(t *testing.T) {
	t.Parallel()
	const limit, window, duration = 25, 100 * time.Millisecond, 1500 * time.Millisecond
	server := redistest.Start(t)
	limiters := []*Limiter{newLimiter(t, server.URL()), newLimiter(t, server.URL())}
	take := Take{Namespace: "n", Service: "s", Identity: "u", Limits: []ruleset.Limit{{Requests: limit, WindowMillis: window.Milliseconds()}}}
	var admitted atomic.Int64
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	flood(limiters, 8, func(l *Limiter) {
		for ctx.Err() == nil {
			record := Take{
				Namespace: "n", Service: "record", Identity: strconv.FormatInt(admitted.Load()/100, 10),
				Limits: []ruleset.Limit{{Requests: exactRequests, WindowMillis: 3_600_000}},
			}
			if mustTake(t, l, take, record).Admitted {
				admitted.Add(1)
			}
		}
	})
	var times []int64
	for _, key := range server.Client().Keys(t.Context(), "ratelimit:{n/record:*").Val() {
		for _, entry := range exactLog(server.Client().Get(t.Context(), key).Val()) {
			times = append(times, entry.time)
		}
	}
	slices.Sort(times)
	for i := range times {
		if i >= limit && times[i]-times[i-limit] < window.Microseconds() {
			t.Fatalf("units %d to %d were admitted within %d µs, want at most %d in %v",
				i-limit, i, times[i]-times[i-limit], limit, window)
		}
	}
	if want := limit * 2; len(times) < want {
		t.Errorf("admitted %d in %v, want at least %d: windows must free", len(times), duration, want)
	}
}

// Two quotas are taken by callers that meet them in either order; neither is
// ever taken without the other.
func TestAllOrNothingUnderFlood(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	cluster := redistest.StartCluster(t)
	for name, store := range map[string]struct {
		url    string
		client redis.UniversalClient
	}{
		"single":  {server.URL(), server.Client()},
		"cluster": {cluster.URL(), cluster.Client()},
	} {
		t.Run(name, func(t *testing.T) {
			limiters := []*Limiter{newLimiter(t, store.url), newLimiter(t, store.url)}
			plenty, scarce := perMinute("plenty", 1000), perMinute("scarce", 40)
			var admitted atomic.Int64
			flood(limiters, 8, func(l *Limiter) {
				for i := range 15 {
					takes := []Take{plenty, scarce}
					if i%2 == 0 {
						takes = []Take{scarce, plenty}
					}
					if mustTake(t, l, takes...).Admitted {
						admitted.Add(1)
					}
				}
			})
			if n := admitted.Load(); n != 40 {
				t.Errorf("admitted %d, want 40", n)
			}
			for _, key := range []string{"ratelimit:{bondhu/spotify:plenty}:60000", "ratelimit:{bondhu/spotify:scarce}:60000"} {
				if n := units(t, store.client, key); n != 40 {
					t.Errorf("%s holds %d units, want 40", key, n)
				}
			}
		})
	}
}

// Use while takes are under way: each is decided, in the old store or the new.
func TestUseSwapsLive(t *testing.T) {
	t.Parallel()
	servers := []*redistest.Server{redistest.Start(t), redistest.Start(t)}
	l := newLimiter(t, servers[0].URL())
	var taken atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var takers sync.WaitGroup
	for range 4 {
		takers.Go(func() {
			for ctx.Err() == nil {
				mustTake(t, l, perMinute("u", 1_000_000))
				taken.Add(1)
			}
		})
	}
	for i := range 20 {
		before := taken.Load()
		store := ruleset.Store{URL: servers[i%2].URL(), TimeoutMillis: patience.Milliseconds()}
		if err := l.Use(&store); err != nil {
			t.Fatal(err)
		}
		same := l.backend
		if err := l.Use(&store); err != nil || l.backend != same {
			t.Fatalf("an equal store made a new client, error %v", err)
		}
		eventually(t, "takes went on", func() bool { return taken.Load() > before })
	}
	cancel()
	takers.Wait()
	if err := l.Use(nil); err != nil {
		t.Fatal(err)
	}
	l.closing.Wait() // leases are given back
	clients := []*redis.Client{servers[0].Client(), servers[1].Client()}
	var recorded int64
	for _, client := range clients {
		recorded += units(t, client, "ratelimit:{bondhu/spotify:u}:60000")
	}
	if recorded != taken.Load() {
		t.Errorf("%d takes were admitted and %d are recorded", taken.Load(), recorded)
	}
	for _, client := range clients {
		eventually(t, "the connections to stores no longer used are closed", func() bool {
			list, err := client.ClientList(t.Context()).Result()
			return err == nil && len(list) > 0 && countLines(list) == 1
		})
	}
}

// The same with leases, which nobody but the takers themselves can time: for
// each admission there are an instant before and one after.
func TestNoWindowIsEverOverWithLeases(t *testing.T) {
	t.Parallel()
	const limit, window, duration = 400, 600 * time.Millisecond, 3 * time.Second
	server := redistest.Start(t)
	var limiters []*Limiter
	for range 4 {
		limiters = append(limiters, newLimiter(t, server.URL()))
	}
	take := Take{Namespace: "n", Service: "s", Identity: "u", Limits: []ruleset.Limit{{Requests: limit, WindowMillis: window.Milliseconds()}}}
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	type span struct{ before, after time.Duration }
	var mu sync.Mutex
	var admitted []span
	start := time.Now()
	flood(limiters, 2, func(l *Limiter) {
		for ctx.Err() == nil {
			before := time.Since(start)
			d := mustTake(t, l, take)
			after := time.Since(start)
			if d.Admitted {
				mu.Lock()
				admitted = append(admitted, span{before, after})
				mu.Unlock()
				continue
			}
			time.Sleep(min(d.RetryAfter, 5*time.Millisecond)) // others flood as well
		}
	})
	slices.SortFunc(admitted, func(a, b span) int { return cmp.Compare(a.before, b.before) })
	for i, first := range admitted {
		within := 0
		for _, other := range admitted[i:] {
			if other.before >= first.before+window {
				break
			}
			if other.after < first.before+window {
				within++
			}
		}
		if within > limit {
			t.Fatalf("%d were admitted within %v from %v on, want at most %d", within, window, first.before, limit)
		}
	}
	most := limit * float64(duration+window) / float64(window)
	t.Logf("admitted %d, %.1f %% of what %v and a full window at the beginning allow", len(admitted), 100*float64(len(admitted))/most, duration)
	if len(admitted) < 2*limit {
		t.Errorf("admitted %d in %v, want at least %d: windows must free", len(admitted), duration, 2*limit)
	}
}
