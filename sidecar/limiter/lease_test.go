package limiter

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
	"weak"

	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// fleet is some sidecars on a clock of the test's, and all they have admitted.
type fleet struct {
	now      int64 // microseconds
	limiters []*Limiter
	admitted []admission
}

type admission struct{ time, cost int64 }

func newFleet(t *testing.T, url string, n int) *fleet {
	f := &fleet{now: epoch}
	for range n {
		l := New(Options{})
		l.sweepInterval = time.Hour // the tests do that
		l.clock = func() int64 { return f.now }
		l.nanos = func() int64 { return f.now * 1000 }
		t.Cleanup(l.Close)
		if err := l.Use(&ruleset.Store{URL: url, TimeoutMillis: patience.Milliseconds()}); err != nil {
			t.Fatal(err)
		}
		f.limiters = append(f.limiters, l)
	}
	return f
}

// take asks a sidecar and fails when a window is over its limit.
func (f *fleet) take(t tester, sidecar int, take Take) bool {
	t.Helper()
	d := mustTake(t, f.limiters[sidecar], take)
	if !d.Admitted {
		return false
	}
	f.admitted = append(f.admitted, admission{f.now, max(take.Cost, 1)})
	for _, limit := range take.Limits {
		if sum := f.sum(limit.WindowMillis * 1000); sum > limit.Requests {
			t.Fatalf("at epoch+%d µs %d units are in a window of %v for %d", f.now-epoch, sum, limit.Window(), limit.Requests)
		}
	}
	return true
}

// sum of the units of the window of some microseconds that ends now.
func (f *fleet) sum(window int64) int64 {
	var sum int64
	for _, a := range f.admitted {
		if a.time > f.now-window {
			sum += a.cost
		}
	}
	return sum
}

// settle has a sidecar give back all that it has.
func (f *fleet) settle(sidecar int) {
	b := f.limiters[sidecar].backend
	b.settle(b.memory.sweep(true))
}

// Whatever sidecars do, at no instant is a window over its limit, while leases
// are taken, used, given back and lost, and limits edited. Once all leases are
// settled, Redis counts what was used, each unit at most a slice and a part of a
// lease too long.
func TestLeasesAreNeverOver(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	f, run := newFleet(t, server.URL(), 3), 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		f.now, f.admitted = f.now+1_000_000_000, nil
		const window = 60_000_000
		take := Take{Namespace: "n", Service: "s", Identity: fmt.Sprint(run), Limits: []ruleset.Limit{{Requests: 200, WindowMillis: window / 1000}}}
		if rapid.Bool().Draw(rt, "another limit") {
			take.Limits = append(take.Limits, ruleset.Limit{Requests: 500, WindowMillis: 300_000})
		}
		edits := int64(0)
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			sidecar := rapid.IntRange(0, 2).Draw(rt, "sidecar")
			switch rapid.IntRange(0, 10).Draw(rt, "what") {
			case 0: // killed
				f.limiters[sidecar].backend.memory.forget()
			case 1:
				f.settle(sidecar)
			case 2:
				b := f.limiters[sidecar].backend
				b.settle(b.memory.sweep(false))
			case 3:
				edits++ // a limit that comes back has its leases again: see docs/limiter.md
				take.Limits[0].Requests = edits + rapid.SampledFrom([]int64{100, 129, 200, 300}).Draw(rt, "limit")
			case 4:
				f.now += rapid.SampledFrom([]int64{1, 300_000, 9_500_000, 49_000_000, 50_500_000, 60_000_000}).Draw(rt, "step")
			case 5: // until it is refused
				for range 400 {
					if !f.take(rt, sidecar, take) {
						break
					}
				}
			case 6: // from here on nothing was taken
				if err := f.limiters[sidecar].Reset(t.Context(), take); err != nil {
					rt.Fatalf("resetting: %v", err)
				}
				f.admitted = nil
			case 7:
				take.Cost = rapid.Int64Range(1, 3).Draw(rt, "cost")
			default:
				for range rapid.IntRange(1, 80).Draw(rt, "takes") {
					f.take(rt, sidecar, take)
					f.now += rapid.SampledFrom([]int64{0, 7, 20_000, 900_000}).Draw(rt, "pause")
				}
			}
			for _, q := range mustQuotas(rt, []Take{take}) {
				checkSliced(rt, client.Get(t.Context(), q.key).Val())
			}
		}
	})
}

// A lease that is used at its very end is not counted as used at its beginning,
// whether it is settled or its sidecar is killed first.
func TestLateUseOfALeaseIsNotForgottenEarly(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, killed := range []bool{false, true} {
		f := newFleet(t, server.URL(), 2)
		take := perMinute(fmt.Sprint(killed), 400)
		begin, memory, left := f.now, f.limiters[0].backend.memory, int64(0)
		for range 200 {
			f.take(t, 0, take)
			if e := memory.entryOf(take); e != nil && e.lease != nil && e.lease.left > left {
				left = e.lease.left
			} else if left > 20 {
				break
			}
		}
		left = memory.entryOf(take).lease.left
		f.now = begin + leaseLength([]Take{take})/1000 - 50_000
		for range left {
			f.take(t, 0, take)
		}
		if killed {
			memory.forget()
		} else {
			f.settle(0)
		}
		for f.now = begin + 60_000_000; f.now < begin+75_000_000; f.now += 100_000 {
			for f.take(t, 1, take) {
			}
		}
		if sum := f.sum(60_000_000); sum < 396 {
			t.Errorf("killed %t: %d units in the window at the end, want about 400", killed, sum)
		}
	}
}

// What sidecars have not used is there for others as soon as it is given back,
// and what they have used leaves nearly as if it had been taken one by one.
func TestLeasesAreSettled(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 3)
	const window, slice = 60_000_000, 300_000
	take := perMinute("u", 3000)
	leased := 0
	for i := range 2000 {
		f.take(t, i%2, take)
		f.now += 17_000
		for _, l := range f.limiters {
			if e := l.backend.memory.entryOf(take); e != nil && e.lease != nil {
				leased++
			}
		}
	}
	if leased < 1000 {
		t.Errorf("%d takes of 2000 found a lease, want most", leased)
	}
	f.settle(0)
	f.settle(1)
	key := mustQuotas(t, []Take{take})[0].key
	for range 300 {
		f.now += 250_000
		f.limiters[2].backend.memory.forget()
		d := mustTake(t, f.limiters[2], Take{Namespace: take.Namespace, Service: take.Service, Identity: take.Identity, Limits: take.Limits, Cost: 3000})
		if d.Admitted {
			return // all have left
		}
		held := take.Limits[0].Requests - d.Quotas[0].Remaining
		least := f.sum(window)
		most := f.sum(window + 2*slice + leaseLength([]Take{take})/1000/leaseParts)
		if held < least || held > most {
			t.Fatalf("at epoch+%d µs %s holds %d units, want from %d to %d", f.now-epoch, key, held, least, most)
		}
	}
	t.Errorf("units stay in %s", key)
}

// A steady caller soon has leases that last, far from its limit.
func TestASecondLeaseKeepsUpWithItsCaller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ limit, first int64 }{{10_000, 156}, {1000, 32}} { // a 64th, but 32 at least
		f := newFleet(t, redistest.Start(t).URL(), 1)
		take := perMinute("u", c.limit)
		var last *lease
		var sizes []int64
		for range 1000 {
			f.take(t, 0, take)
			if e := f.limiters[0].backend.memory.entryOf(take); e != nil && e.lease != nil && e.lease != last {
				last = e.lease
				sizes = append(sizes, last.left)
			}
			f.now += 20_000 // 500 in a lease's length
		}
		if want := min(500, (c.limit-c.first)/8); len(sizes) < 2 || sizes[0] != c.first || sizes[1] < want*9/10 {
			t.Errorf("leases of a limit of %d were for %v takes, want %d and then about %d", c.limit, sizes, c.first, want)
		}
	}
}

// A lost reply costs nothing once the lease is settled; a sidecar that is gone
// costs its lease for a window.
func TestUnusedLeasesAreGivenBackAfterALostReply(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 1)
	take, b := perMinute("u", 3000), f.limiters[0].backend
	quotas := mustQuotas(t, []Take{take})
	lost := &command{verb: verbTake, id: newID(), quotas: quotas, want: 100, length: int64(time.Second), deadline: time.Now().Add(patience)}
	for range 2 { // as the client library repeats it
		if err := b.alone().call([]*command{lost}); err != nil {
			t.Fatal(err)
		}
		if lost.reply[0] != 1 || lost.reply[1] != 100 {
			t.Fatalf("reply %v, want admitted with a lease of 100", lost.reply)
		}
	}
	if n := units(t, server.Client(), quotas[0].key); n != 101 {
		t.Errorf("taken twice: %d units, want 101", n)
	}
	for range 2 {
		b.settle([]*command{lost.unused()})
		if n := units(t, server.Client(), quotas[0].key); n != 1 {
			t.Errorf("settled: %d units, want 1", n)
		}
	}
}

// A take whose caller gives up while it waits is still asked for: the lease that it
// then has is given back after that, not before.
func TestLeaseOfATakeThatIsGivenUpIsGivenBack(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f, take := newFleet(t, server.URL(), 1), perMinute("u", 3000)
	b, takes := f.limiters[0].backend, []Take{take}
	quotas := mustQuotas(t, takes)
	given := &command{verb: verbTake, id: newID(), quotas: quotas, want: 100, length: int64(time.Second), deadline: time.Now().Add(patience)}
	b.batch.flying = 1 // another batch is on the way
	ctx, cancel := context.WithCancel(t.Context())
	returned := make(chan error)
	go func() { returned <- b.batch.do(ctx, given) }()
	next := func() *batch {
		b.batch.mu.Lock()
		defer b.batch.mu.Unlock()
		if len(b.batch.waiting) == 0 {
			return nil
		}
		return b.batch.next()
	}
	var waits *batch
	eventually(t, "the take waits", func() bool { waits = next(); return waits != nil })
	cancel()
	if err := <-returned; err == nil {
		t.Fatal("a take that was given up is admitted")
	}
	b.memory.failed(takes, request{want: given.want, hash: b.memory.hash(takes)}, given)
	b.batch.fly(waits)
	b.settle(b.memory.unsettled())
	if n := units(t, server.Client(), quotas[0].key); n != 1 {
		t.Errorf("%d units are counted, want the 1 that was asked for", n)
	}
}

// Takes that were given up leave nothing of their requests in memory, though their
// leases wait to be settled.
func TestTakesThatAreGivenUpAreForgotten(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 1)
	l := f.limiters[0]
	batch := l.backend.batch
	takes := manyTakes(40, 3000)
	for _, take := range takes {
		mustTake(t, l, take)
	}
	server.Pause()
	defer server.Resume()
	var requests []weak.Pointer[[1024]byte]
	var all sync.WaitGroup
	parent, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, take := range takes {
		request := new([1024]byte)
		requests = append(requests, weak.Make(request))
		ctx := context.WithValue(parent, weak.Pointer[[1024]byte]{}, request)
		all.Go(func() { _, _ = l.Take(ctx, []Take{take}) })
	}
	waiting := func() int {
		batch.mu.Lock()
		defer batch.mu.Unlock()
		n := batch.flying
		for _, b := range batch.waiting {
			n += len(b.commands)
		}
		return n
	}
	eventually(t, "takes wait", func() bool { return waiting() > len(takes)/2 })
	cancel()
	server.Resume()
	all.Wait()
	eventually(t, "none waits", func() bool { return waiting() == 0 })
	eventually(t, "no request is in memory", func() bool {
		runtime.GC()
		return !slices.ContainsFunc(requests, func(p weak.Pointer[[1024]byte]) bool { return p.Value() != nil })
	})
	if n := len(l.backend.memory.unsettled()); n == 0 {
		t.Error("no lease waits to be settled")
	}
}

// The next take brings along what other callers' leases were used for. A log that
// Redis cannot read is not that take's fault.
func TestTakesBringEndedLeasesAlong(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	for _, broken := range []bool{false, true} {
		f := newFleet(t, server.URL(), 1)
		take, other := perMinute(fmt.Sprint("with a lease ", broken), 3000), perMinute(fmt.Sprint("other ", broken), 3000)
		memory, key := f.limiters[0].backend.memory, mustQuotas(t, []Take{take})[0].key
		for e := memory.entryOf(take); e == nil || e.lease == nil; e = memory.entryOf(take) {
			f.take(t, 0, take)
			f.now += 100
		}
		if before, left := units(t, client, key), memory.entryOf(take).lease.left; left == 0 || before != f.sum(60_000_000)+left {
			t.Fatalf("%d units with a lease of %d", before, left)
		}
		f.now += 11_000_000
		memory.tidy(false)
		if broken {
			if err := client.Set(t.Context(), key, "no log", 0).Err(); err != nil {
				t.Fatal(err)
			}
		}
		used := f.sum(60_000_000)
		for range 2 {
			if !f.take(t, 0, other) {
				t.Errorf("broken %t: another caller was refused", broken)
			}
			f.now += 11_000_000 // no lease of its own
		}
		if !broken && units(t, client, key) != used {
			t.Errorf("%d units are counted after the next take, want the %d used", units(t, client, key), used)
		}
		if n := len(memory.unsettled()); (n == 1) != broken || n > 1 {
			t.Errorf("broken %t: %d leases wait to be settled", broken, n)
		}
	}
}

// A log lives for as long as a lease in it counts, also when the lease that ends
// last is given back while the clock is behind the log's time.
func TestLogOutlivesItsLeases(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 1)
	f.now = epoch / 3_750_000 * 3_750_000 // lifetimes begin anew
	f.now += 1_000
	b, quotas, start := f.limiters[0].backend, mustQuotas(t, []Take{perMinute("u", 3000)}), f.now
	length := (10 * time.Second).Nanoseconds()
	lease := func() *command {
		c := &command{verb: verbTake, id: newID(), quotas: quotas, want: 100, length: length, deadline: time.Now().Add(patience)}
		if err := b.alone().call([]*command{c}); err != nil || c.reply[1] != 100 {
			t.Fatalf("reply %v, error %v, want a lease of 100", c.reply, err)
		}
		return c
	}
	lease()
	f.now += 500_000
	last := lease()
	f.now -= 1_000 // it steps back
	b.settle([]*command{last.unused()})
	leaves := start + length/1000 + 60_000_000 // of the first lease, at the earliest
	if lives := f.now + server.Client().PTTL(t.Context(), quotas[0].key).Val().Microseconds(); lives < leaves {
		t.Errorf("the log ends %v before its lease leaves the window", micros(leaves-lives))
	}
}

// Refusals that were asked for at the same time are one: only one that is asked for
// when it has run out is for longer.
func TestRefusalsAtTheSameTimeAreOne(t *testing.T) {
	t.Parallel()
	f, take := newFleet(t, redistest.Start(t).URL(), 1), perMinute("u", 200)
	for f.take(t, 0, take) {
	}
	memory := f.limiters[0].backend.memory
	memory.forget()
	for _, want := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 10 * time.Second, 20 * time.Second} {
		for range 3 {
			c := mustCall(t, f.limiters[0].backend, take)
			f.now += 10
			if d, err := c.take(); err != nil || d.Admitted {
				t.Fatalf("%+v, error %v, want refused", d, err)
			}
			if lasts := time.Duration(memory.entryOf(take).until - f.now*1000); lasts != want {
				t.Errorf("refused for %v, want %v", lasts, want)
			}
		}
		f.now += want.Microseconds()
	}
}

// A refusal that others' leases may end is asked for again sooner, but ever less so.
func TestRefusalsAreRemembered(t *testing.T) {
	t.Parallel()
	refused := Decision{RetryAfter: time.Minute, Quotas: make([]Quota, 1)}
	soon := Decision{RetryAfter: time.Second / 2, Quotas: make([]Quota, 1)}
	admitted := Decision{Admitted: true, Quotas: make([]Quota, 1)}
	e := &entry{states: make([]state, 1)}
	for i, step := range []struct {
		decision Decision
		leased   bool
		want     time.Duration
	}{
		{refused, true, time.Second}, {refused, true, 2 * time.Second}, {refused, true, 4 * time.Second}, {refused, true, 4 * time.Second},
		{soon, true, time.Second / 2}, {refused, false, 10 * time.Second}, {refused, false, 20 * time.Second},
		{refused, false, 20 * time.Second}, {refused, true, time.Second},
		{refused, true, 2 * time.Second}, {admitted, false, 0}, {refused, true, time.Second}, {soon, false, time.Second / 2},
	} {
		asked := int64(i) * int64(time.Hour)
		if e.hear(asked, asked+5, step.decision, step.leased); step.want > 0 && e.until != asked+int64(step.want) || step.want == 0 && e.until != 0 {
			t.Errorf("step %d: refused for %v, want %v", i, time.Duration(e.until-asked), step.want)
		}
	}
}

// Callers of whom each comes once take a bounded room, and none from those who are known.
func TestCallersSeenOnceAreBounded(t *testing.T) {
	t.Parallel()
	now := int64(0)
	m := newMemory(onClock(&now), nil)
	held := func() (entries, seen int) {
		for i := range m.shards {
			entries, seen = entries+len(m.shards[i].entries), seen+len(m.shards[i].seen)
		}
		return entries, seen
	}
	for i := range maxEntries * 5 / 4 {
		m.asks([]Take{perMinute(fmt.Sprint(i), 3000)})
	}
	if entries, seen := held(); entries != 0 || seen != maxEntries {
		t.Errorf("%d callers were seen once, and %d are known, want %d and none", seen, entries, maxEntries)
	}
	if r := m.asks([]Take{perMinute("0", 3000)}); r.want == 0 {
		t.Error("who comes again asks for no lease")
	}
	now += int64(maxLeaseLength) + 1
	m.tidy(false)
	if entries, seen := held(); entries != 1 || seen != 0 {
		t.Errorf("after the time of a lease %d callers were seen once, and %d are known, want none and 1", seen, entries)
	}
}

// entryOf is what is known of a take.
func (m *memory) entryOf(take Take) *entry {
	s, e := m.at(m.hash([]Take{take}))
	defer s.mu.Unlock()
	return e
}
