package limiter

import (
	"fmt"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

// A caller whose windows are emptied begins anew, at the sidecar that remembers
// that it refused it as soon as that is told, and nobody else does.
func TestReset(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, limit := range []int64{5, 200} {
		refusing, resetting := newLimiter(t, server.URL()), newLimiter(t, server.URL())
		alice, bob := perMinute("alice", limit), perMinute("bob", limit)
		for _, take := range []Take{alice, bob} {
			for mustTake(t, refusing, take).Admitted {
			}
		}
		if err := resetting.Reset(t.Context(), alice); err != nil {
			t.Fatal(err)
		}
		if d := mustTake(t, refusing, alice); d.Admitted || !d.Remembered {
			t.Errorf("limit %d: what was refused is not remembered: %+v", limit, d)
		}
		refusing.Forget("bondhu", "youtube", []string{"alice"}) // another service's
		if d := mustTake(t, refusing, alice); d.Admitted {
			t.Errorf("limit %d: another service's caller was forgotten", limit)
		}
		refusing.Forget("bondhu", "spotify", []string{"alice"})
		// Leases that the refusing sidecar still had are settled with its next sweep,
		// and count until then.
		left, err := refusing.Remaining(t.Context(), []Take{alice})
		if err != nil {
			t.Fatal(err)
		}
		if !left.Admitted || left.Quotas[0].Remaining < limit/2 {
			t.Errorf("limit %d: after a reset %d remain", limit, left.Quotas[0].Remaining)
		}
		if !mustTake(t, refusing, alice).Admitted {
			t.Errorf("limit %d: refused after a reset", limit)
		}
		if mustTake(t, refusing, bob).Admitted {
			t.Errorf("limit %d: somebody else was reset, too", limit)
		}
	}
}

// A reset of a caller that took nothing is no error, and leaves nothing.
func TestResetOfNothing(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	for _, limit := range []int64{5, 200} {
		if err := l.Reset(t.Context(), perMinute("nobody", limit)); err != nil {
			t.Fatal(err)
		}
	}
	if keys := server.Client().Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("left: %q", keys)
	}
	if err := l.Reset(t.Context(), Take{}); err == nil {
		t.Error("a take without limits was reset")
	}
}

// What sidecars have in leases stays counted, of however many.
func TestResetKeepsOpenLeases(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	for _, sidecars := range []int{3, 70} { // more than a log's leases are known of
		f := newFleet(t, server.URL(), sidecars)
		take := perMinute(fmt.Sprint(sidecars), 1_000_000)
		for i := range sidecars {
			for e := f.limiters[i].backend.memory.entryOf(take); e == nil || e.lease == nil; e = f.limiters[i].backend.memory.entryOf(take) {
				f.take(t, i, take)
				f.now += 100
			}
		}
		f.settle(0)
		if err := f.limiters[0].Reset(t.Context(), take); err != nil {
			t.Fatal(err)
		}
		var held int64
		for _, l := range f.limiters {
			if e := l.backend.memory.entryOf(take); e != nil && e.lease != nil {
				held += e.lease.left
			}
		}
		counted := units(t, server.Client(), mustQuotas(t, []Take{take})[0].key)
		if held == 0 || counted < held {
			t.Errorf("%d sidecars: %d units are in their leases, and %d are counted after a reset", sidecars, held, counted)
		}
	}
}

// A lease that was held through a reset and is then given back unused leaves a log
// that begins after now: the next take counts in it.
func TestTakeAfterResetAndUnusedLease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f, take := newFleet(t, server.URL(), 1), perMinute("alice", 3000)
	memory := f.limiters[0].backend.memory
	for e := memory.entryOf(take); e == nil || e.lease == nil; e = memory.entryOf(take) {
		f.take(t, 0, take)
		f.now += 100
	}
	if err := f.limiters[0].Reset(t.Context(), take); err != nil {
		t.Fatal(err)
	}
	f.settle(0)
	memory.forget()
	f.admitted = nil
	if !f.take(t, 0, take) {
		t.Fatal("refused after a reset")
	}
	log := server.Client().Get(t.Context(), mustQuotas(t, []Take{take})[0].key).Val()
	checkSliced(t, log)
	if _, newest, err := unitsOf([]byte(log), take.Limits[0]); err != nil || newest > f.now {
		t.Errorf("the log's newest time is %d at %d: %v", newest, f.now, err)
	}
	if counted := units(t, server.Client(), mustQuotas(t, []Take{take})[0].key); counted != 1 {
		t.Errorf("%d units are counted", counted)
	}
	placed, _, _ := unitsOf([]byte(log), take.Limits[0])
	if slice := sliceOf(take.Limits[0]); len(placed) != 1 || placed[0].at < f.now || placed[0].at >= f.now+slice {
		t.Errorf("placed at %v, not in the slice of %d", placed, f.now)
	}
}
