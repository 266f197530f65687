package limiter

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// onClock returns a ledger whose time is what now says.
func onClock(now *int64) *ledger {
	g := newLedger()
	g.now = func() int64 { return *now }
	return g
}

func (g *ledger) mustDecide(t tester, take bool, takes ...Take) Decision {
	t.Helper()
	return g.decide(takes, mustQuotas(t, takes), nil, take)
}

// taken is what a model knows of an admission.
type taken struct {
	at, units int64
}

// Whatever comes, and whatever Redis admitted before: a process admits by itself
// only so that its own sum in no window is above its share, all or nothing; a
// refusal says when that changes, not a nanosecond early or late.
func TestShareIsASlidingWindow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		now := int64(0)
		g := onClock(&now)
		sharers := rapid.Int64Range(1, 4).Draw(t, "sharers")
		admitted := map[string][]taken{}
		last := Decision{}
		for range rapid.IntRange(1, 60).Draw(t, "calls") {
			steps := []int64{0, 1, 999_999, 1_000_000_000, 30_000_000_000}
			if last.RetryAfter > 0 {
				steps = append(steps, int64(last.RetryAfter)-1, int64(last.RetryAfter))
			}
			now += rapid.SampledFrom(steps).Draw(t, "step")
			takes := drawTakes(t, []string{"a", "b", "c"})
			for i := range takes {
				takes[i].Sharers = sharers
			}
			quotas := mustQuotas(t, takes)
			byRedis := rapid.IntRange(0, 4).Draw(t, "by Redis") == 0
			if byRedis {
				g.record(takes, 1, 0)
			} else {
				last = g.decide(takes, quotas, nil, true)
			}
			if !byRedis && !last.Admitted {
				hopeless := func(q Quota) bool { return q.RetryAfter == longestProbe }
				if last.RetryAfter > 0 && !slices.ContainsFunc(last.Quotas, hopeless) {
					now += int64(last.RetryAfter) - 1
					if g.decide(takes, quotas, nil, false).Admitted {
						t.Fatalf("admitted before its RetryAfter of %v", last.RetryAfter)
					}
					now++
					if !g.decide(takes, quotas, nil, false).Admitted {
						t.Fatalf("refused at its RetryAfter of %v", last.RetryAfter)
					}
				}
				continue
			}
			for _, q := range quotas {
				admitted[q.key] = append(admitted[q.key], taken{now, q.cost})
				sum := int64(0)
				for _, a := range admitted[q.key] {
					if a.at > now-int64(q.limit.Window()) {
						sum += a.units
					}
				}
				if most := share(q.limit.Requests, sharers); !byRedis && sum > most {
					t.Fatalf("%d in the window of %s, want at most %d", sum, q.key, most)
				}
			}
		}
	})
}

// A unit leaves at most a slice late.
func TestShareFreesInTime(t *testing.T) {
	t.Parallel()
	now := int64(12_345)
	g := onClock(&now)
	take := perMinute("u", 9)
	take.Sharers = 3
	for range 3 {
		if !g.mustDecide(t, true, take).Admitted {
			t.Fatal("refused within the share")
		}
	}
	d := g.mustDecide(t, true, take)
	if d.Admitted || d.RetryAfter < time.Minute-time.Second || d.RetryAfter > time.Minute+time.Minute/localSlices {
		t.Errorf("beyond the share: %+v, want refused for a minute and a slice at most", d)
	}
	if q := d.Quotas[0]; q.Remaining != 0 || q.Limit.Requests != 9 {
		t.Errorf("quota %+v, want nothing of the declared limit left", q)
	}
}

func TestShares(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ limit, sharers, want int64 }{
		{100, 1, 100}, {100, 3, 33}, {100, 0, 100}, {2, 3, 1}, {1, 10_000, 1},
	} {
		if got := share(c.limit, c.sharers); got != c.want {
			t.Errorf("the share of %d among %d is %d, want %d", c.limit, c.sharers, got, c.want)
		}
	}
}

// There is room for so many identities; those beyond share one quota, and so
// does who was counted there, until it has left the window.
func TestLedgerIsBounded(t *testing.T) {
	t.Parallel()
	now := int64(0)
	g := onClock(&now)
	sharing := func(identity string) Take {
		take := perMinute(identity, 10)
		take.Sharers = 1
		return take
	}
	for i := range maxLogs + 15 {
		g.record([]Take{sharing(fmt.Sprint(i))}, 1, 0)
	}
	if g.held != maxLogs || len(g.shared) != 1 {
		t.Errorf("%d logs and %d shared ones, want %d and 1", g.held, len(g.shared), maxLogs)
	}
	if d := g.mustDecide(t, true, sharing("new")); d.Admitted {
		t.Error("one of whom nothing can be known is admitted, though 15 like it used the quota up")
	}
	if d := g.mustDecide(t, true, sharing("0")); !d.Admitted || d.Quotas[0].Remaining != 8 {
		t.Errorf("one of whom the use is known: %+v, want 8 left", d)
	}
	now += int64(2 * time.Minute)
	g.sweep()
	if g.held != 0 || len(g.shared) != 0 || len(g.local) != 0 {
		t.Errorf("after the window %d logs, %d shared and %d to tell, want none", g.held, len(g.shared), len(g.local))
	}
	if d := g.mustDecide(t, true, sharing("new")); !d.Admitted {
		t.Error("refused in a new window")
	}
}

// What leases were used for counts when Redis goes.
func TestLeasesCountInTheShare(t *testing.T) {
	t.Parallel()
	now := int64(time.Hour)
	g := onClock(&now)
	m := newMemory(g, nil)
	m.now = g.now
	take := Take{
		Namespace: "n", Service: "s", Identity: "u", Sharers: 3,
		Limits: []ruleset.Limit{{Requests: 300, WindowMillis: 60_000}},
	}
	takes := []Take{take}
	hash := m.hash(takes)
	e := m.shards[hash%shardCount].remember(hash, takes, now)
	e.lease = &lease{id: newID(), begin: now, end: now + int64(9*time.Second), length: int64(10 * time.Second), left: 90}
	for range 90 {
		now += int64(time.Millisecond)
		if d, ok := m.answer(takes, nil); !ok || !d.Admitted {
			t.Fatal("the lease refuses")
		}
	}
	m.fold(takes)
	if d := g.mustDecide(t, false, take); d.Quotas[0].Remaining != 10 {
		t.Errorf("of a share of 100, %d are left after 90 from a lease, want 10", d.Quotas[0].Remaining)
	}
}

func BenchmarkLocally(b *testing.B) {
	l := New(Options{})
	take := perMinute("u", 1_000_000_000)
	take.Sharers = 2
	takes, quotas := []Take{take}, make([]Quota, 0, 1)
	b.ReportAllocs()
	for b.Loop() {
		if d, err := l.TakeLocally(takes, quotas); err != nil || !d.Admitted {
			b.Fatal(d, err)
		}
	}
}
