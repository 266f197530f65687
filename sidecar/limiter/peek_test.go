package limiter

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// Many are answered together as one by one, by one server and by a cluster's, also
// one that does not know the script.
func TestRemainingOfEach(t *testing.T) {
	t.Parallel()
	for kind, url := range map[string]string{"server": redistest.Start(t).URL(), "cluster": redistest.StartCluster(t).URL()} {
		l := newLimiter(t, url)
		var takes []Take
		for i := range 3*maxPeeks + 5 {
			take := perMinute(fmt.Sprint("caller-", i), int64(1+i%7*100))
			take.Limits = append(take.Limits, ruleset.Limit{Requests: 1000, WindowMillis: 3_600_000})[:1+i%2]
			takes = append(takes, take)
			for range i % 5 {
				mustTake(t, l, take)
			}
		}
		l.backend.settle(l.backend.memory.sweep(true)) // so that nothing changes meanwhile
		if err := l.backend.client.ScriptFlush(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
		found, err := l.RemainingOfEach(t.Context(), takes)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		for i, take := range takes {
			want, err := l.Remaining(t.Context(), []Take{take})
			if err != nil {
				t.Fatal(err)
			}
			windows, err := l.Windows(t.Context(), take)
			if err != nil || len(windows) != len(take.Limits) {
				t.Fatalf("%s: %d windows of %s: %v", kind, len(windows), take.Identity, err)
			}
			for _, d := range []*Decision{&want, &found[i]} { // time goes on
				d.RetryAfter = 0
				for n := range d.Quotas {
					d.Quotas[n].Reset, d.Quotas[n].RetryAfter = 0, 0
				}
			}
			if !reflect.DeepEqual(found[i], want) {
				t.Errorf("%s: of %s: %+v, want %+v", kind, take.Identity, found[i], want)
			}
		}
	}
}

func TestRemainingOfEachFails(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	if found, err := l.RemainingOfEach(t.Context(), nil); err != nil || len(found) > 0 {
		t.Errorf("of none: %v, %v", found, err)
	}
	if _, err := l.RemainingOfEach(t.Context(), []Take{perMinute("alice", 5), {}}); err == nil || errors.Is(err, ErrStore) {
		t.Errorf("a take without limits: %v", err)
	}
	if _, err := New(Options{}).RemainingOfEach(t.Context(), []Take{perMinute("alice", 5)}); !errors.Is(err, ErrStore) {
		t.Errorf("without a store: %v", err)
	}
}

// What somebody writes into a log of theirs keeps nobody from others'.
func TestOthersAreAnsweredBesideWhatIsNoLog(t *testing.T) {
	t.Parallel()
	for kind, url := range map[string]string{"server": redistest.Start(t).URL(), "cluster": redistest.StartCluster(t).URL()} {
		l := newLimiter(t, url)
		takes := []Take{perMinute("alice", 5), perMinute("bob", 5), perMinute("carol", 5), perMinute("dave", 5), perMinute("erin", 5)}
		keyOf := func(i int) string { return mustQuotas(t, takes[i:i+1])[0].key }
		if err := errors.Join(
			l.backend.client.Set(t.Context(), keyOf(1), "x", 0).Err(), l.backend.client.LPush(t.Context(), keyOf(2), "x").Err(),
			l.backend.client.Set(t.Context(), keyOf(4), "w"+strings.Repeat("\x00", 34)+strings.Repeat("\xff", 4)+strings.Repeat("\x00", 7), 0).Err(), // that the script stumbles over
		); err != nil {
			t.Fatal(err)
		}
		found, err := l.RemainingOfEach(t.Context(), takes)
		if err != nil || len(found) != len(takes) {
			t.Fatalf("%s: %d are answered, error %v", kind, len(found), err)
		}
		for i, want := range []int{1, 0, 0, 1, 0} {
			if got := len(found[i].Quotas); got != want {
				t.Errorf("%s: %s has %d quotas, want %d", kind, takes[i].Identity, got, want)
			}
		}
	}
}

// BenchmarkRemainingOfEach is of a page of policies with four callers each.
func BenchmarkRemainingOfEach(b *testing.B) {
	server := redistest.Start(b)
	l := newLimiter(b, server.URL())
	var takes []Take
	for i := range 400 {
		takes = append(takes, perMinute(fmt.Sprint("caller-", i), 100))
		for range 50 {
			mustTake(b, l, takes[i])
		}
	}
	for b.Loop() {
		if _, err := l.RemainingOfEach(b.Context(), takes); err != nil {
			b.Fatal(err)
		}
	}
}
