package limiter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// A window shows what counts, no more and no less, each unit in the bucket of its
// time but for those of leases; and whatever is asked, the logs stay as they are.
func TestWindowsShowWhatCounts(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, server.URL(), 3)
	random := rand.New(rand.NewPCG(1, 2))
	for limit, leases := range map[int64]bool{20: false, 100: false, 300: false, 400: true, 20_000: true} {
		take := Take{Namespace: "bondhu", Service: fmt.Sprint("of-", limit), Identity: "alice", Limits: []ruleset.Limit{
			{Requests: limit, WindowMillis: 10_000}, {Requests: 3 * limit, WindowMillis: 60_001},
		}}
		f.admitted = nil
		for range 3_000 {
			f.now += random.Int64N(2 * 10_000_000 / limit)
			sidecar := random.IntN(len(f.limiters))
			if !leases {
				f.limiters[sidecar].backend.memory.forget()
			}
			f.take(t, sidecar, take)
			if random.IntN(20) == 0 {
				f.holdWindows(t, take, leases)
			}
		}
		f.now += 70_000_000
		f.holdWindows(t, take, leases)
	}
}

func (f *fleet) holdWindows(t *testing.T, take Take, leases bool) {
	t.Helper()
	l, ctx := f.limiters[0], context.Background()
	client := l.backend.client
	logs := func() map[string]string {
		found := map[string]string{}
		for _, q := range mustQuotas(t, []Take{take}) { // others' expire meanwhile
			for _, key := range []string{q.key, q.key + ":leases"} {
				found[key] = client.Dump(ctx, key).Val()
			}
		}
		return found
	}
	before := logs()
	windows, err := l.Windows(ctx, take)
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(before, logs()) {
		t.Fatal("looking changed a log")
	}
	left, err := l.Remaining(ctx, []Take{take})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range windows {
		limit := take.Limits[i]
		if w.Limit != limit || len(w.Units) < 50 || len(w.Units) > 51 {
			t.Fatalf("a window of %v with %d buckets, want one of %v", w.Limit, len(w.Units), limit)
		}
		sum := w.Reserved
		for n, units := range w.Units {
			sum += units
			begin := w.Begin.Add(time.Duration(n) * w.Step).UnixMicro()
			if want := f.between(begin, begin+w.Step.Microseconds()); n > 0 && !leases && units != want {
				t.Fatalf("of a limit of %d per %v bucket %d has %d units, want %d", limit.Requests, limit.Window(), n, units, want)
			}
		}
		if used := limit.Requests - left.Quotas[i].Remaining; sum != used || !leases && w.Reserved > 0 {
			t.Fatalf("of a limit of %d per %v %d units are shown, %d of them in leases; %d are used", limit.Requests, limit.Window(), sum, w.Reserved, used)
		}
	}
}

// between is what was admitted after a microsecond and not after another.
func (f *fleet) between(after, until int64) (sum int64) {
	for _, a := range f.admitted {
		if a.time > after && a.time <= until {
			sum += a.cost
		}
	}
	return sum
}

// What is no log, or is too long for one, is an error and no panic.
func TestWindowsOfNoLog(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	take := perMinute("alice", 200)
	for range 300 {
		mustTake(t, l, take)
	}
	key := mustQuotas(t, []Take{take})[0].key
	log := server.Client().Get(t.Context(), key).Val()
	for _, text := range []string{"x", "e", "w", log[:len(log)-1], log[1:], strings.Repeat("e", maxLogBytes+1), "w" + strings.Repeat("\xff", len(log)-1)} {
		if err := server.Client().Set(t.Context(), key, text, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if found, err := l.Windows(t.Context(), take); !errors.Is(err, ErrStore) {
			t.Errorf("%.20q is read as %+v, %v", text, found, err)
		}
	}
	if _, err := l.Windows(t.Context(), Take{}); err == nil || errors.Is(err, ErrStore) {
		t.Errorf("a take without limits: %v", err)
	}
	if _, err := New(Options{}).Windows(t.Context(), take); !errors.Is(err, ErrStore) {
		t.Errorf("without a store: %v", err)
	}
}
