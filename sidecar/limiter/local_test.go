package limiter

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// audited is what an auditor knows of one: instants before and after it.
type audited struct {
	before, after time.Duration
	sidecar       int
	local         bool
}

// auditor records the admissions of several sidecars, and how long decisions took.
type auditor struct {
	start time.Time

	mu         sync.Mutex
	admissions []audited
	// longest decision, and those that did not wait for Redis.
	longest time.Duration
	local   []time.Duration
}

// take asks as the proxy does, and records.
func (a *auditor) take(t *testing.T, l *Limiter, sidecar int, take Take) Decision {
	before := time.Since(a.start)
	d, err := l.Take(context.Background(), []Take{take})
	local := errors.Is(err, ErrStore)
	asked := time.Since(a.start) - before
	if local {
		d, err = l.TakeLocally([]Take{take}, nil)
	}
	if err != nil {
		t.Errorf("taking: %v", err)
	}
	after := time.Since(a.start)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.longest = max(a.longest, after-before)
	if local && asked < shortTimeout/2 {
		a.local = append(a.local, after-before)
	}
	if d.Admitted {
		a.admissions = append(a.admissions, audited{before, after, sidecar, local})
	}
	return d
}

// most is the largest number of admissions that surely lie in one window, of
// those that are wanted, if the last of them does as well.
func (a *auditor) most(window time.Duration, wanted, last func(audited) bool) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.SortFunc(a.admissions, func(x, y audited) int { return cmp.Compare(x.after, y.after) })
	most := 0
	for i, end := range a.admissions {
		if !wanted(end) || !last(end) {
			continue
		}
		n := 0
		for _, x := range a.admissions[:i+1] {
			if wanted(x) && x.before > end.after-window {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func whatever(audited) bool { return true }

// Three sidecars of one quota lose Redis under load and get it back. Each holds
// to its share meanwhile, what it admitted before included; all together hold to
// the limit in every window that lies in the outage, and to twice the limit in
// every window at all; nobody waits; and Redis counts afterwards what was admitted.
func TestOutageIsDecidedLocally(t *testing.T) {
	t.Parallel()
	const sidecars, window = 3, time.Second
	for _, c := range []struct {
		reason     string
		limit      int64
		fail, mend func(*redistest.Server)
		args       []string
	}{
		{"a server that hangs, small limit", 30, (*redistest.Server).Pause, (*redistest.Server).Resume, nil},
		{"a server that is gone and comes back empty, small limit", 30, (*redistest.Server).Kill, (*redistest.Server).Restart, nil},
		{"a server that is gone and comes back with its data, small limit", 30, (*redistest.Server).Kill, (*redistest.Server).Restart, redistest.AOF()},
		{"a server that hangs, large limit", 300, (*redistest.Server).Pause, (*redistest.Server).Resume, nil},
		{"a server that is gone and comes back empty, large limit", 300, (*redistest.Server).Kill, (*redistest.Server).Restart, nil},
		{"a server that is gone and comes back with its data, large limit", 300, (*redistest.Server).Kill, (*redistest.Server).Restart, redistest.AOF()},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			server := redistest.Start(t, c.args...)
			var limiters []*Limiter
			for range sidecars {
				l, log := newLimiterOf(t, ruleset.Store{URL: server.URL(), TimeoutMillis: shortTimeout.Milliseconds()})
				limiters = append(limiters, l)
				t.Cleanup(func() {
					if lost := log.count("does not answer"); t.Failed() || lost > 3 {
						t.Logf("%d times lost:\n%s", lost, log)
					}
				})
			}
			take := Take{
				Namespace: "n", Service: "s", Identity: "u", Sharers: sidecars,
				Limits: []ruleset.Limit{{Requests: c.limit, WindowMillis: window.Milliseconds()}},
			}
			a := &auditor{start: time.Now()}
			load, stop := context.WithCancel(t.Context())
			var takers sync.WaitGroup
			for i, l := range limiters {
				for range 2 {
					takers.Go(func() {
						for load.Err() == nil {
							if !a.take(t, l, i, take).Admitted {
								time.Sleep(time.Millisecond)
							}
							time.Sleep(time.Millisecond)
						}
					})
				}
			}
			time.Sleep(window) // a full window: what is measured is time itself
			c.fail(server)
			time.Sleep(2*window + window/2)
			lost := time.Since(a.start)
			c.mend(server)
			time.Sleep(2 * window)
			stop()
			takers.Wait()

			share := int(share(c.limit, sidecars))
			local := func(x audited) bool { return x.local }
			for i := range sidecars {
				if n := a.most(window, func(x audited) bool { return x.sidecar == i }, local); n > share {
					t.Errorf("sidecar %d admitted %d in a window that ended locally, want at most %d", i, n, share)
				}
			}
			if n := a.most(window, local, whatever); n > int(c.limit) {
				t.Errorf("%d were admitted locally in a window, want at most %d", n, c.limit)
			}
			if n := a.most(window, whatever, whatever); n > 2*int(c.limit) {
				t.Errorf("%d were admitted in a window, want at most %d", n, 2*c.limit)
			}
			late := func(x audited) bool { return x.after > lost+2*window-window/4 }
			if n := a.most(window/4, late, whatever); n > int(c.limit) {
				t.Errorf("%d were admitted in a window long after, want at most %d", n, c.limit)
			}
			slices.Sort(a.local)
			if len(a.local) == 0 || a.longest > shortTimeout+busy {
				t.Fatalf("%d local decisions, the longest after %v, want some and at most %v", len(a.local), a.longest, shortTimeout+busy)
			}
			t.Logf("longest %v of a timeout of %v; %d local decisions, half within %v, 99 %% within %v; at most %d and %d of %d in a window",
				a.longest, shortTimeout, len(a.local), a.local[len(a.local)/2], a.local[len(a.local)*99/100],
				a.most(window, local, whatever), a.most(window, whatever, whatever), c.limit)
			if half := a.local[len(a.local)/2]; half > time.Millisecond {
				t.Errorf("half of the local decisions took more than %v", half)
			}
		})
	}
}

// sharedTake asks for one unit of a quota that is shared.
func sharedTake(identity string, requests, sharers int64) Take {
	take := perMinute(identity, requests)
	take.Sharers = sharers
	return take
}

// Redis counts what was admitted without it before it decides again, in a log of
// either kind.
func TestRedisIsTold(t *testing.T) {
	t.Parallel()
	for _, limit := range []int64{60, 3000} {
		server := redistest.Start(t, redistest.AOF()...)
		l, _ := newLimiterOf(t, ruleset.Store{URL: server.URL(), TimeoutMillis: shortTimeout.Milliseconds()})
		take := sharedTake("u", limit, 2)
		eventually(t, "it admits", admits(l, take))
		before := units(t, server.Client(), mustQuotas(t, []Take{take})[0].key)
		server.Pause()
		if _, err := l.Take(t.Context(), []Take{take}); !errors.Is(err, ErrStore) {
			t.Fatalf("error %v, want ErrStore", err)
		}
		local := int64(0)
		for range limit {
			if d, err := l.TakeLocally([]Take{take}, nil); err != nil {
				t.Fatal(err)
			} else if d.Admitted {
				local++
			}
		}
		if most := limit / 2; local > most || local < most-before {
			t.Errorf("admitted %d by itself and %d before, want %d in all", local, before, most)
		}
		l.backend.reporting.Lock() // nothing can be told
		server.Resume()
		for began := time.Now(); time.Since(began) < 3*shortTimeout; time.Sleep(time.Millisecond) {
			if l.backend.broken() == nil {
				t.Error("Redis decides before it was told")
				break
			}
		}
		l.backend.reporting.Unlock()
		eventually(t, "Redis decides again", func() bool { _, err := l.Remaining(t.Context(), []Take{take}); return err == nil })
		counted := func() int64 { return units(t, server.Client(), mustQuotas(t, []Take{take})[0].key) }
		if n := counted(); n < local+before {
			t.Errorf("Redis counts %d when it decides again, want the %d of before and %d of ours", n, before, local)
		}
		// The take without an answer was perhaps counted, and its lease is given back.
		eventually(t, "Redis counts no more than that", func() bool { n := counted(); return n >= local+before && n <= local+before+1 })
	}
}

// A report that is told again because the answer was lost counts once, in each
// kind of store.
func TestReportsCountOnce(t *testing.T) {
	t.Parallel()
	server, cluster, embedded := redistest.Start(t), redistest.StartCluster(t), miniredis.RunT(t)
	small := redis.NewClient(&redis.Options{Addr: embedded.Addr()})
	t.Cleanup(func() { _ = small.Close() })
	for _, store := range []struct {
		url    string
		client redis.UniversalClient
	}{{server.URL(), server.Client()}, {cluster.URL(), cluster.Client()}, {"redis://" + embedded.Addr(), small}} {
		tellThrice(t, store.url, store.client)
	}
}

func tellThrice(t *testing.T, url string, client redis.UniversalClient) {
	t.Helper()
	for _, limit := range []int64{60, 3000} {
		l := newLimiter(t, url)
		take := sharedTake("once"+time.Duration(limit).String(), limit, 2)
		for range 7 {
			if _, err := l.TakeLocally([]Take{take}, nil); err != nil {
				t.Fatal(err)
			}
		}
		reports := l.ledger.owed(func(string) bool { return true })
		for range 3 {
			l.ledger.again(reports)
			if !l.backend.report(nil) {
				t.Fatal("Redis does not take the report")
			}
		}
		if n := units(t, client, mustQuotas(t, []Take{take})[0].key); n != 7 {
			t.Errorf("told three times of 7, Redis counts %d", n)
		}
		if d := mustTake(t, l, take); d.Quotas[0].Remaining != limit-8 {
			t.Errorf("%d remain, want %d", d.Quotas[0].Remaining, limit-8)
		}
	}
}

// Reports of more than a log can count refuse, and are not counted from 0 again.
func TestReportsCountToTheirBound(t *testing.T) {
	t.Parallel()
	server, embedded := redistest.Start(t), miniredis.RunT(t)
	for _, url := range []string{server.URL(), "redis://" + embedded.Addr()} {
		l, take := newLimiter(t, url), sharedTake("greedy", maxRequests, 5)
		for second := range int64(5) {
			told := &command{
				verb: verbNote, id: newID(), quotas: mustQuotas(t, []Take{take}), length: int64(time.Second),
				uses: []use{{MaxCost, second * 1_000_000}}, deadline: time.Now().Add(patience),
			}
			if err := l.backend.alone().call([]*command{told}); err != nil {
				t.Fatal(err)
			}
		}
		if d := mustTake(t, l, take); d.Admitted {
			t.Errorf("admitted after reports of five times the limit, %d remain", d.Quotas[0].Remaining)
		}
	}
}

// What many sidecars report of a small limit is bounded in Redis.
func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	take := sharedTake("u", 100, 1)
	for range 8 {
		l.ledger = newLedger()
		l.backend.memory.ledger = l.ledger
		for range 100 {
			if _, err := l.TakeLocally([]Take{take}, nil); err != nil {
				t.Fatal(err)
			}
		}
		l.backend.report(nil)
	}
	if n := units(t, server.Client(), mustQuotas(t, []Take{take})[0].key); n != 512 {
		t.Errorf("Redis holds %d units, want 512", n)
	}
	if d := mustTake(t, l, take); d.Admitted || d.RetryAfter <= 0 {
		t.Errorf("after 800 of 100: %+v, want refused for a while", d)
	}
}

// Only silence opens the breaker: neither an error that Redis answers with, nor
// a caller that gives up.
func TestWhatOpensTheBreaker(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, log := newLimiterOf(t, ruleset.Store{URL: server.URL(), TimeoutMillis: shortTimeout.Milliseconds()})
	take := perMinute("u", 100)
	eventually(t, "it admits", admits(l, take))

	wrong := perMinute("wrong", 100)
	server.Client().LPush(t.Context(), mustQuotas(t, []Take{wrong})[0].key, "x")
	if _, err := l.Take(t.Context(), []Take{wrong}); !errors.Is(err, ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	if err := l.backend.broken(); err != nil {
		t.Errorf("an error that Redis answered with opened the breaker: %v", err)
	}
	eventually(t, "the error is said", func() bool { return log.count("does not answer") == 1 })
	eventually(t, "it is over", func() bool { return testutil.ToFloat64(l.metrics.up) == 1 })

	server.Pause()
	gone, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := l.Take(gone, []Take{take}); err == nil {
		t.Error("a server that hangs answers")
	}
	if err := l.backend.broken(); err != nil {
		t.Errorf("a caller that gave up opened the breaker: %v", err)
	}
	start := time.Now()
	for range 20 {
		if _, err := l.Take(t.Context(), []Take{take}); !errors.Is(err, ErrStore) {
			t.Errorf("error %v, want ErrStore", err)
		}
	}
	if took := time.Since(start); took > 2*shortTimeout+busy {
		t.Errorf("20 decisions took %v, want one timeout of %v", took, shortTimeout)
	}
	since := l.Away()
	if since.IsZero() || testutil.ToFloat64(l.metrics.since) != float64(since.Unix()) {
		t.Errorf("away since %v, in the metric %v", since, testutil.ToFloat64(l.metrics.since))
	}
	server.Resume()
	eventually(t, "it admits again", admits(l, take))
	eventually(t, "it is not away", func() bool { return l.Away().IsZero() && testutil.ToFloat64(l.metrics.since) == 0 })
}

// The parts of a cluster that break together are its slots.
func TestSlots(t *testing.T) {
	t.Parallel()
	client := redistest.StartCluster(t).Servers[0].Client()
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringOf(rapid.RuneFrom([]rune("ab{}é/:1"))).Draw(t, "key")
		want, err := client.ClusterKeySlot(context.Background(), key).Result()
		if err != nil {
			t.Fatalf("asking for the slot of %q: %v", key, err)
		}
		if got := slotOf(key); int64(got) != want {
			t.Fatalf("the slot of %q is %d, want %d", key, got, want)
		}
	})
}

// Sidecars admit what they will, with Redis and without, over and over, on a
// clock of the test's. Without, none is over its share in a window of its own.
// With, once all have told, Redis admits nothing that is too much: it has
// counted everything, at times that are not before it was.
func TestRedisCountsWhatWasAdmittedWithout(t *testing.T) {
	t.Parallel()
	const sidecars = 3
	f, run := newFleet(t, redistest.Start(t).URL(), sidecars), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		f.now = max(f.now, epoch) + 10_000_000_000
		f.admitted = nil
		limit := rapid.SampledFrom([]int64{1, 4, 30, 128, 129, 300}).Draw(t, "limit")
		window := rapid.SampledFrom(windows).Draw(t, "window")
		take := Take{
			Namespace: "n", Service: "s", Identity: strconv.Itoa(run), Sharers: sidecars,
			Limits: []ruleset.Limit{{Requests: limit, WindowMillis: window}},
		}
		own := make([][]audited, sidecars)
		within := func(all []audited) (n int64) {
			for _, a := range all {
				if a.after > time.Duration(f.now-window*1000) {
					n++
				}
			}
			return n
		}
		for range rapid.IntRange(1, 12).Draw(t, "phases") {
			away := rapid.Bool().Draw(t, "away")
			for range rapid.IntRange(1, 30).Draw(t, "steps") {
				f.now += rapid.SampledFrom([]int64{0, 1, 1000, window * 5, window * 300}).Draw(t, "step")
				i := rapid.IntRange(0, sidecars-1).Draw(t, "sidecar")
				l := f.limiters[i]
				for range rapid.IntRange(1, 20).Draw(t, "takes") {
					if !away {
						if d := mustTake(t, l, take); d.Admitted {
							f.admitted = append(f.admitted, admission{f.now, 1})
							own[i] = append(own[i], audited{after: time.Duration(f.now)})
							if sum := f.sum(window * 1000); !d.Remembered && sum > limit {
								t.Fatalf("Redis admitted the %dth of %d in a window", sum, limit)
							}
						}
						continue
					}
					d, remembered := l.backend.memory.answer([]Take{take}, nil) // as Take does first
					if !remembered {
						var err error
						if d, err = l.TakeLocally([]Take{take}, nil); err != nil {
							t.Fatalf("taking locally: %v", err)
						}
					}
					if !d.Admitted {
						continue
					}
					f.admitted = append(f.admitted, admission{f.now, 1})
					own[i] = append(own[i], audited{after: time.Duration(f.now)})
					if most := share(limit, sidecars); !remembered && within(own[i]) > most {
						t.Fatalf("a sidecar admitted the %dth of its share of %d in a window", within(own[i]), most)
					}
				}
			}
			for _, l := range f.limiters {
				if !l.backend.report(nil) {
					t.Fatalf("Redis does not take a report")
				}
			}
		}
	})
}
