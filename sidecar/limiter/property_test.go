package limiter

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// epoch of the test's clock, in microseconds: 16 digits, as real times have.
const epoch = 1_763_855_379_123_456

// windows are long in real time, so that no key expires while a test's own
// clock runs through them.
var windows = []int64{60_000, 100_001, 3_600_000}

func drawTake(t *rapid.T, identities []string) Take {
	take := Take{
		Namespace: "bondhu", Service: rapid.SampledFrom([]string{"spotify", "steam"}).Draw(t, "service"),
		Identity: rapid.SampledFrom(identities).Draw(t, "identity"),
		Cost:     rapid.SampledFrom([]int64{0, 1, 1, 1, 2, 3, 7}).Draw(t, "cost"),
	}
	for _, window := range rapid.SliceOfNDistinct(rapid.SampledFrom(windows), 1, 3, rapid.ID[int64]).Draw(t, "windows") {
		// Drawn anew for each take: limits are raised and lowered all the time.
		take.Limits = append(take.Limits, ruleset.Limit{
			Requests: rapid.Int64Range(1, 6).Draw(t, "requests"), WindowMillis: window,
		})
	}
	return take
}

func drawTakes(t *rapid.T, identities []string) []Take {
	return rapid.SliceOfNDistinct(
		rapid.Custom(func(t *rapid.T) Take { return drawTake(t, identities) }), 1, 3,
		func(take Take) string { return take.Service + ":" + take.Identity },
	).Draw(t, "takes")
}

// drawStep of the clock, in microseconds: often to an edge where something
// leaves a window, sometimes back.
func drawStep(t *rapid.T, last Decision, back bool) int64 {
	steps := []int64{0, 1, 999, 1000, 17_000_001, 60_000_000}
	if back {
		steps = append(steps, -1, -5_000_000)
	}
	for _, d := range []time.Duration{last.RetryAfter, last.RetryAfter - 1000} {
		if d > 0 {
			steps = append(steps, d.Microseconds(), d.Microseconds())
		}
	}
	return rapid.SampledFrom(steps).Draw(t, "step")
}

// checkModel runs random takes and holds every answer against the model's, with
// a clock that may step back.
func checkModel(t *testing.T, url string, back bool) {
	l, run := newLimiter(t, url), 0
	now := int64(epoch)
	l.clock = func() int64 { return now }
	rapid.Check(t, func(t *rapid.T) {
		run++
		identities := []string{fmt.Sprintf("a%d", run), fmt.Sprintf("}b: %d", run), fmt.Sprintf("%d", run)}
		now = epoch
		m, last := model{}, Decision{}
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			now += drawStep(t, last, back)
			takes := drawTakes(t, identities)
			ask, taking := l.Take, rapid.IntRange(0, 4).Draw(t, "peek") > 0
			if !taking {
				ask = l.Remaining
			}
			l.backend.memory.forget()
			got, err := ask(context.Background(), takes)
			if err != nil {
				t.Fatalf("asking for %+v: %v", takes, err)
			}
			want := m.decide(mustQuotas(t, takes), now, taking)
			if got = sameSign(got); !reflect.DeepEqual(got, want) {
				t.Fatalf("at epoch+%d µs, taking %v: %+v\n got %+v\nwant %+v", now-epoch, taking, takes, got, want)
			}
			last = got
		}
	})
}

func TestScriptMatchesModel(t *testing.T) {
	t.Parallel()
	checkModel(t, redistest.Start(t).URL(), true)
}

func TestScriptMatchesModelOnEmbeddedRedis(t *testing.T) {
	t.Parallel()
	checkModel(t, "redis://"+miniredis.RunT(t).Addr(), true)
}

// The decisions over several nodes are the same as over one, refusals and what
// they give back included.
func TestScriptMatchesModelOnCluster(t *testing.T) {
	t.Parallel()
	checkModel(t, redistest.StartCluster(t).URL(), false)
}

// RetryAfter, said in words: a refused take that comes a microsecond too early
// is refused, and admitted in time.
func TestRetryAfterIsExact(t *testing.T) {
	t.Parallel()
	l, run := newLimiter(t, redistest.Start(t).URL()), 0
	now := int64(epoch)
	l.clock = func() int64 { return now }
	rapid.Check(t, func(t *rapid.T) {
		run++
		now = epoch
		identities := []string{fmt.Sprintf("a%d", run), fmt.Sprintf("b%d", run)}
		for range 30 {
			takes := drawTakes(t, identities)
			now += rapid.Int64Range(-1_000_000, 20_000_000).Draw(t, "step")
			decision := mustTakeAnew(t, l, takes...)
			if decision.Admitted || decision.RetryAfter < 0 {
				continue
			}
			now += decision.RetryAfter.Microseconds() - 1
			if early := mustTakeAnew(t, l, takes...); early.Admitted || early.RetryAfter != time.Microsecond {
				t.Fatalf("a microsecond before RetryAfter: %+v, want refused with RetryAfter 1µs", early)
			}
			now++
			if late := mustTakeAnew(t, l, takes...); !late.Admitted {
				t.Fatalf("at RetryAfter: %+v, want admitted", late)
			}
		}
	})
}

// A refused take, or one that only asks, leaves Redis as it was.
func TestDenialsWriteNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client := newLimiter(t, server.URL()), server.Client()
	now := int64(epoch)
	l.clock = func() int64 { return now }
	dump := func() map[string]string {
		all := map[string]string{}
		keys, err := client.Keys(t.Context(), "*").Result()
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range keys {
			all[key] = fmt.Sprint(client.Dump(t.Context(), key).Val(), client.ExpireTime(t.Context(), key).Val())
		}
		return all
	}
	one := Take{Namespace: "n", Service: "s", Identity: "one", Limits: []ruleset.Limit{{Requests: 2, WindowMillis: 60_000}}}
	two := Take{Namespace: "n", Service: "s", Identity: "two", Limits: []ruleset.Limit{{Requests: 5, WindowMillis: 60_000}}}
	mustTakeAnew(t, l, one)
	now += 50_000_000
	mustTakeAnew(t, l, one)
	mustTakeAnew(t, l, two)
	two.Cost = 5
	now += 20_000_000 // the first unit has left its window, but is not trimmed
	before := dump()
	for _, takes := range [][]Take{{one, two}, {two, one}, {two}} {
		if decision := mustTakeAnew(t, l, takes...); decision.Admitted {
			t.Fatalf("%v: admitted, want refused", takes)
		}
	}
	if _, err := l.Remaining(t.Context(), []Take{one}); err != nil {
		t.Fatal(err)
	}
	if after := dump(); !maps.Equal(before, after) {
		t.Errorf("after refusals Redis holds\n%q\nwant as before\n%q", after, before)
	}
}

// A call repeated after a lost reply is admitted and counts once, with room for
// more and without, and also after another take has made the shorter window let
// its units go.
func TestRepeatedCallCountsOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason      string
		cost, limit int64
	}{
		{"one unit, no room", 1, 2}, {"one unit, room", 1, 9},
		{"several units, no room", 3, 6}, {"several units, room", 3, 20},
	} {
		server := redistest.Start(t)
		l, client := newLimiter(t, server.URL()), server.Client()
		now := int64(epoch)
		takes := []Take{{
			Namespace: "n", Service: "s", Identity: "u", Cost: test.cost, Limits: []ruleset.Limit{
				{Requests: test.limit, WindowMillis: 10}, {Requests: test.limit, WindowMillis: 60_000},
			},
		}}
		quotas := mustQuotas(t, takes)
		short, long := quotas[0].key, quotas[1].key
		take := func(c *call) {
			t.Helper()
			decision, err := c.take()
			if err != nil || !decision.Admitted {
				t.Fatalf("%s: %+v, error %v, want admitted", test.reason, decision, err)
			}
		}
		holds := func(key string, want int64, when string) {
			t.Helper()
			var n int64
			for _, entry := range exactLog(client.Get(t.Context(), key).Val()) {
				if key == long || entry.time > now-10_000 { // others have left
					n += entry.units
				}
			}
			if n != want {
				t.Errorf("%s, %s: %s has %d units, want %d", test.reason, when, key, n, want)
			}
		}
		l.clock = func() int64 { return now }
		call, other := mustCall(t, l.backend, takes...), mustCall(t, l.backend, takes...)
		take(call)
		before := client.Get(t.Context(), long).Val()
		now++
		take(call)
		if after := client.Get(t.Context(), long).Val(); before != after {
			t.Errorf("%s: repeating changed the log from %q to %q", test.reason, before, after)
		}
		now += 20_000
		take(other)
		holds(short, test.cost, "after the first units left")
		take(call)
		holds(short, test.cost, "repeated late")
		holds(long, 2*test.cost, "repeated late")
	}
}

func sameSign(d Decision) Decision {
	if d.RetryAfter < 0 {
		d.RetryAfter = -1
	}
	d.Quotas = slices.Clone(d.Quotas)
	for i := range d.Quotas {
		if d.Quotas[i].RetryAfter < 0 {
			d.Quotas[i].RetryAfter = -1
		}
	}
	return d
}
