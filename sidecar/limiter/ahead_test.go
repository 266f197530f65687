package limiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// counting counts the calls of a script.
type counting struct {
	redis.Scripter
	calls int
}

func (c *counting) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	c.calls++
	return c.Scripter.EvalSha(ctx, sha, keys, args...)
}

// counted has the calls of a sidecar of a fleet counted.
func (f *fleet) counted(sidecar int) *counting {
	c := &counting{Scripter: f.limiters[sidecar].backend.client}
	f.limiters[sidecar].backend.batch.client = c
	return c
}

// Callers that ask on and on, a slice's units or not, cost a few calls a slice and
// sidecar, however many they are, and are admitted all that there is.
func TestPressingCallersShareCalls(t *testing.T) {
	t.Parallel()
	const callers, limit, slice, window = 30, 600, 300_000, 60_000_000
	f, random := newFleet(t, redistest.Start(t).URL(), 2), rand.New(rand.NewPCG(1, 2))
	var stores []*counting
	for sidecar := range f.limiters {
		stores = append(stores, f.counted(sidecar))
	}
	admitted := make([][]admission, callers)
	asked, called, begin := 0, 0, f.now
	for end := begin + 2*window + 40_000_000; f.now < end; f.now += 1_000 {
		if f.now == begin+window {
			asked, called = 0, stores[0].calls+stores[1].calls
		}
		if (f.now-begin)%1_000_000 == 0 {
			for _, l := range f.limiters {
				l.backend.settle(l.backend.memory.sweep(false))
			}
		}
		i := random.IntN(callers) // 33 requests a second each: over 3 times the limit
		f.admitted = admitted[i]
		f.take(t, random.IntN(len(f.limiters)), perMinute(fmt.Sprint(i), limit))
		admitted[i] = f.admitted
		asked++
	}
	called = stores[0].calls + stores[1].calls - called
	slices := len(f.limiters) * int(window+40_000_000) / slice
	t.Logf("%d calls of %d requests in %d slices of a sidecar", called, asked, slices)
	if most := callers / 5 * slices; called > most {
		t.Errorf("%d calls, want %d at most: one for each caller, slice and sidecar are %d", called, most, callers*slices)
	}
	for i, a := range admitted {
		if f.admitted = a; f.sum(window) < limit*99/100 {
			t.Errorf("caller %d was admitted %d in the last window, want %d", i, f.sum(window), limit)
		}
	}
}

// refuse has a sidecar refuse takes, twice, or again and again if they press, until all may be admitted.
func (f *fleet) refuse(t *testing.T, pressing bool, takes ...Take) {
	t.Helper()
	retry, early := time.Duration(0), 100*time.Millisecond
	for _, take := range takes {
		retry = max(retry, mustTake(t, f.limiters[0], take).RetryAfter)
	}
	f.now += (retry - early).Microseconds()
	for i := range 3 {
		for _, take := range takes {
			if (pressing || i == 0) && mustTake(t, f.limiters[0], take).Admitted {
				t.Fatal("admitted, want refused")
			}
		}
	}
	f.now += early.Microseconds()
}

// Units are taken ahead for who asks on and on, and go back when they were not used. Who
// asks at Retry-After, and not before, finds all that there is at any sidecar.
func TestAheadIsForWhoPresses(t *testing.T) {
	t.Parallel()
	for _, pressing := range []bool{false, true} {
		f := newFleet(t, redistest.Start(t).URL(), 2)
		all, one, other := perMinute("u", 200), perMinute("u", 200), perMinute("v", 200)
		all.Cost = 200
		mustTake(t, f.limiters[0], all)
		all.Identity = "v"
		mustTake(t, f.limiters[0], all)
		f.now += 55_000_000
		f.refuse(t, pressing, one, other)
		if d := mustTake(t, f.limiters[0], one); !d.Admitted || d.Remembered {
			t.Fatalf("at Retry-After: %+v, want admitted by Redis", d)
		}
		remain := func() int64 {
			d, err := f.limiters[1].Remaining(t.Context(), []Take{other})
			if err != nil {
				t.Fatal(err)
			}
			return d.Quotas[0].Remaining
		}
		held := 200 - remain()
		if (held > 0) != pressing || held > 10 {
			t.Errorf("pressing %v: %d units of another caller are held", pressing, held)
		}
		f.now += 300_000
		f.settle(0)
		if n := remain(); n != 200 {
			t.Errorf("pressing %v: a slice later %d units remain, want all", pressing, n)
		}
	}
}

// A lease ahead is of half of what remains, at most; an exact log has none; and one that
// is asked for again, since its answer was lost, is granted once.
func TestLeaseAhead(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 1)
	lease := func(take Take, id [idBytes]byte) *command {
		t.Helper()
		c := &command{
			verb: verbLease, id: id, quotas: mustQuotas(t, []Take{take}), want: 100, length: 300_000_000, deadline: time.Now().Add(patience),
		}
		if err := f.limiters[0].backend.batch.call([]*command{c}); err != nil {
			t.Fatal(err)
		}
		return c
	}
	all := perMinute("u", 200)
	all.Cost = 61
	for range 3 {
		mustTake(t, f.limiters[0], all)
	}
	id := newID()
	for _, step := range []struct {
		id    [idBytes]byte
		takes int64 // 0: refused
		left  int64
	}{{id, 9, 8}, {id, 9, 8}, {newID(), 4, 4}, {newID(), 2, 2}, {newID(), 1, 1}, {newID(), 1, 0}, {newID(), 0, 0}} {
		if c := lease(perMinute("u", 200), step.id); c.admitted() != (step.takes > 0) || c.admitted() && c.reply[1] != step.takes || c.reply[2] != step.left {
			t.Errorf("of 17 that remain: %v, want a lease of %d, and %d left", c.reply, step.takes, step.left)
		}
	}
	if n := units(t, server.Client(), mustQuotas(t, []Take{all})[0].key); n != 200 {
		t.Errorf("the log holds %d units, want 200", n)
	}
	mustTake(t, f.limiters[0], perMinute("exact", 100))
	if c := lease(perMinute("exact", 100), id); c.admitted() || c.reply[2] != 99 {
		t.Errorf("of an exact log: %v, want none", c.reply)
	}
}

// When the answer to a call is lost, the leases that went along with it are given back,
// and the callers asked for as before.
func TestLeaseAheadIsLost(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 1)
	store := &lossy{Scripter: f.limiters[0].backend.client}
	f.limiters[0].backend.batch.client = store
	one, other := perMinute("u", 200), perMinute("v", 200)
	for _, all := range []Take{one, other} {
		all.Cost = 200
		mustTake(t, f.limiters[0], all)
	}
	f.now += 55_000_000
	f.refuse(t, true, one, other)
	store.lose = true
	mustTake(t, f.limiters[0], one) // asked for again by itself
	client, key := server.Client(), mustQuotas(t, []Take{other})[0].key
	if n := units(t, client, key); n == 0 {
		t.Fatal("no lease went along")
	}
	b := f.limiters[0].backend
	b.settle(b.memory.sweep(false))
	if n := units(t, client, key); n != 0 {
		t.Errorf("%d units are held for a lease whose grant was not heard, want none", n)
	}
	if d := mustTake(t, f.limiters[0], other); !d.Admitted {
		t.Errorf("then: %+v, want admitted", d)
	}
}

// The last unit is known to be the last: the next request is refused without Redis,
// until exactly when another is admitted.
func TestLastIsKnown(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Start(t).URL(), 2)
	store := f.counted(0)
	take := perMinute("u", 200)
	f.take(t, 0, take)
	f.now += 59_800_000
	before := 0
	d := mustTake(t, f.limiters[0], take)
	for d.Admitted {
		before, d = store.calls, mustTake(t, f.limiters[0], take)
	}
	if !d.Remembered || store.calls != before {
		t.Fatalf("after the last one: %+v after %d calls, want refused without one", d, store.calls-before)
	}
	f.settle(0)
	f.now += d.RetryAfter.Microseconds() - 1
	if early := mustTake(t, f.limiters[1], take); early.Admitted || early.RetryAfter != time.Microsecond {
		t.Errorf("a microsecond too early: %+v", early)
	}
	f.now++
	if late := mustTake(t, f.limiters[0], take); !late.Admitted {
		t.Errorf("at Retry-After: %+v, want admitted", late)
	}
}

// A lease that held all there was and was not used up is given back, by its caller's next
// request or a sweep before that: its caller is refused no longer.
func TestLastOfALeaseIsGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, swept := range []bool{false, true} {
		f := newFleet(t, server.URL(), 1)
		one := perMinute(fmt.Sprint(swept), 200)
		two, many := one, one
		two.Cost, many.Cost = 2, 198
		mustTake(t, f.limiters[0], two)
		f.now += 10_000_000
		mustTake(t, f.limiters[0], many)
		f.now += 48_000_000
		f.refuse(t, true, one)
		if d := mustTake(t, f.limiters[0], one); !d.Admitted || d.Quotas[0].Remaining != 0 {
			t.Fatalf("%+v, want one of two admitted, and the other leased", d)
		}
		f.now += 400_000
		if swept {
			f.settle(0)
		}
		if d := mustTake(t, f.limiters[0], one); !d.Admitted {
			t.Errorf("when the lease is over, swept %v: %+v, want its unit", swept, d)
		}
	}
}

// A lease that is short for one of its limits only is an eighth of what remains.
func TestLeaseOfUnevenWindows(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.Start(t).URL(), 1)
	take := perMinute("u", 0)
	take.Limits = []ruleset.Limit{{Requests: 2000, WindowMillis: 1000}, {Requests: 500, WindowMillis: 3_600_000}}
	c := &command{
		verb: verbTake, id: newID(), quotas: mustQuotas(t, []Take{take}), want: 1000, length: 166_000_000, deadline: time.Now().Add(patience),
	}
	if err := f.limiters[0].backend.batch.call([]*command{c}); err != nil || c.reply[1] != 499/8 {
		t.Errorf("%v, %v, want a lease of an eighth of 499", c.reply, err)
	}
}

// However many sidecars have leases of a caller, all are given back.
func TestManyLeasesAreGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 1)
	quotas := mustQuotas(t, []Take{perMinute("u", 10_000)})
	call := func(c *command) {
		c.quotas, c.length, c.deadline = quotas, 300_000_000, time.Now().Add(patience)
		if err := f.limiters[0].backend.batch.call([]*command{c}); err != nil {
			t.Fatal(err)
		}
	}
	ids := make([][idBytes]byte, 1000)
	for i := range ids {
		ids[i] = newID()
		call(&command{verb: verbLease, id: ids[i], want: 5})
	}
	if n := units(t, server.Client(), quotas[0].key); n != 5000 {
		t.Fatalf("%d units are leased, want 5000", n)
	}
	for _, id := range ids {
		call(&command{verb: verbSettle, id: id})
	}
	if n := units(t, server.Client(), quotas[0].key); n != 0 {
		t.Errorf("%d units of leases that nobody used are held", n)
	}
}

// Callers press by their refusals, whatever else they were answered; so many at most are
// known, each once; and one call brings along leases of so many logs at most.
func TestPressingIsBounded(t *testing.T) {
	t.Parallel()
	now := int64(1)
	m := newMemory(onClock(&now), nil)
	m.pressing.hashes = map[uint64]struct{}{}
	entryOf := func(identity, limits int64) (*entry, uint64) {
		take := perMinute(fmt.Sprint(identity), 0)
		take.Limits = nil
		for n := range limits {
			take.Limits = append(take.Limits, ruleset.Limit{Requests: 200, WindowMillis: 60_000 * (n + 1)})
		}
		hash := m.hash([]Take{take})
		s := &m.shards[hash%shardCount]
		e := s.remember(hash, []Take{take}, now)
		e.until = 10
		return e, hash
	}
	e, _ := entryOf(0, 1)
	e.lease = &lease{end: 1e9, length: 1e9, left: 5}
	for n := range 7 {
		if m.answer(e.takes, nil); e.pressing != (n == 6) {
			t.Errorf("after a lease of 5, and %d refusals: pressing %v", max(n-4, 0), e.pressing)
		}
	}
	e.lease = nil
	for i := range int64(2 * maxPressing) {
		e, hash := entryOf(i, 3) // the first is one that is edited
		m.deny(e, hash, now)
		m.deny(e, hash, now)
	}
	if n := len(m.pressing.hashes); n != maxPressing {
		t.Errorf("%d press, want %d", n, maxPressing)
	}
	now = 20
	if n := len(m.ahead(maxAhead)); n != maxAhead/3 {
		t.Errorf("%d leases of three logs, want %d", n, maxAhead/3)
	}
	if m.pressing.due.Load() > now {
		t.Error("the others are not due")
	}
	now += maxLeaseLength.Nanoseconds() + 1
	m.ahead(maxAhead)
	if n := len(m.pressing.hashes); n != 0 {
		t.Errorf("%d press that are not asked for any more", n)
	}
}

// On a cluster, where no call serves several callers, nobody presses.
func TestNobodyPressesACluster(t *testing.T) {
	t.Parallel()
	f := newFleet(t, redistest.StartCluster(t).URL(), 1)
	all, one := perMinute("u", 200), perMinute("u", 200)
	all.Cost = 200
	mustTake(t, f.limiters[0], all)
	for range 10 {
		mustTake(t, f.limiters[0], one)
	}
	if f.limiters[0].backend.memory.entryOf(one).pressing {
		t.Error("it presses, and nobody will look")
	}
}
