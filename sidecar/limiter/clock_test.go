package limiter

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// withoutTime is a server whose scripts may not read its clock, by what its user
// may and by what it knows.
func withoutTime(t *testing.T) map[string]*redistest.Server {
	t.Helper()
	servers := map[string]*redistest.Server{
		"an ACL":            redistest.Start(t),
		"a renamed command": redistest.Start(t, "--rename-command", "TIME", ""),
	}
	if err := servers["an ACL"].Client().Do(t.Context(), "ACL", "SETUSER", "default", "-time").Err(); err != nil {
		t.Fatal(err)
	}
	return servers
}

// Where scripts may not read the server's clock nothing is guessed: the error says
// what to write, and with that the sidecar's clock counts.
func TestCallersClockIsDeclared(t *testing.T) {
	t.Parallel()
	for reason, server := range withoutTime(t) {
		l, log := newLimiterOf(t, ruleset.Store{URL: server.URL(), TimeoutMillis: patience.Milliseconds()})
		_, err := l.Take(t.Context(), []Take{perMinute("u", 100)})
		if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "clock=caller") {
			t.Errorf("%s: error %v, want ErrStore that names clock=caller", reason, err)
		}
		eventually(t, "the log names it too", func() bool { return log.count("clock=caller") > 0 })
		declared := newLimiter(t, server.URL()+"?clock=caller")
		for _, want := range []bool{true, true, false} {
			if decision := mustTake(t, declared, perMinute("alone", 2)); decision.Admitted != want {
				t.Errorf("%s: admitted %v, want %v", reason, decision.Admitted, want)
			}
		}
		everything(t, declared, func() {})
	}
}

// A user with the rights for a store with the caller's clock needs no TIME.
func TestCallersClockNeedsNoRightToTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, log := newLimiterOf(t, grant(t, "bondhu", "weir", server.URL()+"?clock=caller", server))
	everything(t, l, func() {})
	refused, err := server.Client().Do(t.Context(), "ACL", "LOG").Slice()
	if err != nil || len(refused) > 0 || log.String() != "" {
		t.Errorf("refused: %v, error %v, logged: %s", refused, err, log)
	}
	if calls := server.Client().Info(t.Context(), "commandstats").Val(); strings.Contains(calls, "cmdstat_time:") {
		t.Error("TIME was asked for")
	}
}

// Callers whose clocks are at most e apart hold the limit in every window that is
// e shorter, whatever they do; and one that asks alone after Retry-After and e is
// admitted.
func TestCallersClocksDiffer(t *testing.T) {
	t.Parallel()
	client := redistest.Start(t).Client()
	url := "redis://" + client.Options().Addr
	const window = 10_000_000 // µs
	rapid.Check(t, func(t *rapid.T) {
		if err := client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatalf("emptying Redis: %v", err)
		}
		e := rapid.SampledFrom([]int64{0, 1, 100_000, 3_000_000}).Draw(t, "e")
		limit := rapid.SampledFrom([]int64{1, 3, 150}).Draw(t, "limit")
		take := perMinute("u", limit)
		take.Cost = rapid.Int64Range(1, max(limit/3, 1)).Draw(t, "cost")
		take.Limits[0].WindowMillis = window / 1000
		real := int64(1_700_000_000_000_000)
		limiters := make([]*Limiter, 3)
		for i := range limiters {
			l := New(Options{})
			defer l.Close()
			off := rapid.Int64Range(0, e).Draw(t, "clock")
			l.clock = func() int64 { return real + off }
			l.nanos = func() int64 { return (real + off) * 1000 }
			l.healthInterval, l.sweepInterval = patience, patience
			if err := l.Use(&ruleset.Store{URL: url, TimeoutMillis: patience.Milliseconds()}); err != nil {
				t.Fatalf("using the store: %v", err)
			}
			limiters[i] = l
		}
		type use struct{ at, cost int64 }
		var uses []use
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			real += rapid.SampledFrom([]int64{0, 1, window / 100, window / 7, window - e, window - 1, window}).Draw(t, "passes")
			l := limiters[rapid.IntRange(0, len(limiters)-1).Draw(t, "caller")]
			decision := mustTake(t, l, take)
			if decision.Admitted {
				uses = append(uses, use{real, take.Cost})
			} else if !decision.Remembered && rapid.Bool().Draw(t, "waits") { // nobody took meanwhile
				real += decision.RetryAfter.Microseconds() + e
				if mustTake(t, l, take).Admitted {
					uses = append(uses, use{real, take.Cost})
				} else {
					t.Fatalf("refused %v and %d µs after it was told so", decision.RetryAfter, e)
				}
			}
		}
		for _, last := range uses {
			var sum int64
			for _, u := range uses {
				if u.at <= last.at && u.at > last.at-(window-e) {
					sum += u.cost
				}
			}
			if sum > limit {
				t.Fatalf("%d admitted within %d µs, with clocks %d µs apart, of %d", sum, window-e, e, limit)
			}
		}
	})
}
