package limiter

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// lossy is a store whose next answer is lost after it has done what it was asked.
type lossy struct {
	redis.Scripter
	lose bool
}

// lostError is as if Redis had answered, so that no breaker opens: those are
// another test's.
type lostError struct{}

func (lostError) Error() string { return "ERR the answer is lost" }
func (lostError) RedisError()   {}

func (l *lossy) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	answer := l.Scripter.EvalSha(ctx, sha, keys, args...)
	if l.lose && answer.Err() == nil {
		l.lose = false
		lost := redis.NewCmd(ctx)
		lost.SetErr(lostError{})
		return lost
	}
	return answer
}

// simulation is some sidecars and callers on a clock of its own.
type simulation struct {
	*fleet
	t       *testing.T
	random  *rand.Rand
	stores  []*lossy
	callers []*simulated
	// late are leases that a sidecar settles some time.
	late []lateSettle
	// asked is when a sidecar was asked last, or had answered, by the machine's clock.
	asked time.Time
	// what happened, for people.
	took, refused, lost, kills, edits, resets int
}

type lateSettle struct {
	sidecar int
	leases  []*command
}

// simulated is a caller, and all that it was admitted lately.
type simulated struct {
	take     Take
	admitted []admission
}

// Whatever becomes of five sidecars, at no instant is a caller's window over its
// limit: they are killed with leases in hand, their answers get lost, they settle
// late and twice, callers press on, limits are edited up and down, between the kinds of logs, too,
// and windows reset. WEIR_FULL=1: a million steps; WEIR_SEED repeats a run.
func TestSimulation(t *testing.T) {
	t.Parallel()
	steps := 10_000
	if os.Getenv("WEIR_FULL") != "" {
		steps = 1_000_000
	}
	seed := rand.Uint64()
	if text := os.Getenv("WEIR_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("WEIR_SEED: %v", err)
		}
	}
	t.Logf("WEIR_SEED=%d", seed)
	server := redistest.Start(t)
	client := server.Client()
	s := &simulation{fleet: newFleet(t, server.URL(), 5), t: t, random: rand.New(rand.NewPCG(seed, 0))}
	for _, l := range s.limiters {
		store := &lossy{Scripter: l.backend.client}
		l.backend.batch.client = store
		s.stores = append(s.stores, store)
	}
	for i, limits := range [][]ruleset.Limit{
		{{Requests: 100, WindowMillis: 60_000}},
		{{Requests: 3000, WindowMillis: 60_000}},
		{{Requests: 200, WindowMillis: 10_000}, {Requests: 900, WindowMillis: 300_000}},
		{{Requests: 50, WindowMillis: 1_000}, {Requests: 400, WindowMillis: 60_000}},
	} {
		s.callers = append(s.callers, &simulated{take: Take{Namespace: "n", Service: "s", Identity: fmt.Sprint(i), Limits: limits}})
	}
	for step := range steps {
		if t.Failed() {
			break
		}
		s.step(step)
		if step%50 == 0 {
			s.checkLogs(client)
		}
	}
	t.Logf("%d steps: %d admitted, %d refused, %d answers lost, %d sidecars killed, %d limits edited, %d resets",
		steps, s.took, s.refused, s.lost, s.kills, s.edits, s.resets)
}

// checkLogs of the callers.
func (s *simulation) checkLogs(client redis.Cmdable) {
	for _, caller := range s.callers {
		for _, q := range mustQuotas(s.t, []Take{caller.take}) {
			checkSliced(s.t, client.Get(s.t.Context(), q.key).Val())
		}
	}
}

func (s *simulation) step(step int) {
	sidecar, caller := s.random.IntN(len(s.limiters)), s.callers[s.random.IntN(len(s.callers))]
	b := s.limiters[sidecar].backend
	switch what := s.random.IntN(100); {
	case what < 5:
		s.press(step, sidecar, caller)
	case what < 60:
		for range 1 + s.random.IntN(4) {
			s.ask(step, sidecar, caller)
		}
	case what < 70:
		s.now += []int64{1, 300, 40_000, 900_000, 5_000_000, 31_000_000, 61_000_000}[s.random.IntN(7)]
	case what < 75: // as many as there are
		for range 300 {
			if !s.ask(step, sidecar, caller) {
				break
			}
		}
	case what < 80:
		b.settle(b.memory.sweep(false))
	case what < 85:
		s.late = append(s.late, lateSettle{sidecar, b.memory.sweep(s.random.IntN(2) == 0)})
	case what < 90:
		if n := len(s.late); n > 0 {
			late := s.late[s.random.IntN(n)] // and perhaps again
			s.limiters[late.sidecar].backend.settle(late.leases)
			if s.random.IntN(2) == 0 {
				s.late = s.late[1:]
			}
		}
	case what < 94:
		s.stores[sidecar].lose = true
	case what < 96:
		b.memory.forget()
		s.kills++
	case what < 99:
		limits := append([]ruleset.Limit(nil), caller.take.Limits...)
		limit := &limits[s.random.IntN(len(limits))]
		// No limit comes back soon: it would have its leases again, see docs/limiter.md.
		limit.Requests = []int64{5, 48, 91, 129, 400, 3000}[s.random.IntN(6)] + int64(s.edits%38)
		caller.take.Limits = limits
		s.edits++
	default:
		if err := s.limiters[sidecar].Reset(s.t.Context(), caller.take); err != nil {
			s.t.Fatalf("step %d: resetting: %v", step, err)
		}
		for _, l := range s.limiters {
			if s.random.IntN(2) == 0 { // others go on with what they have
				l.Forget("n", "s", []string{caller.take.Identity})
			}
		}
		caller.admitted = nil
		s.resets++
	}
}

// press has all callers ask on and on, at two sidecars, about when one of them is admitted again.
func (s *simulation) press(step, sidecar int, caller *simulated) {
	if d, err := s.limiters[sidecar].Remaining(s.t.Context(), []Take{caller.take}); err == nil && d.RetryAfter > time.Second {
		s.now += (d.RetryAfter - time.Second).Microseconds()
	}
	for range 300 {
		s.now += s.random.Int64N(15_000)
		at := (sidecar + s.random.IntN(2)) % len(s.limiters)
		s.stores[at].lose = s.random.IntN(100) == 0
		s.ask(step, at, s.callers[s.random.IntN(len(s.callers))])
	}
}

// keepUp moves the time on when the machine has kept the test waiting: Redis drops a log
// by its own clock, some time after its window has passed.
func (s *simulation) keepUp() {
	if passed := time.Since(s.asked); passed > 50*time.Millisecond && !s.asked.IsZero() {
		s.now += passed.Microseconds()
	}
	s.asked = time.Now()
}

// ask takes, and fails the test when a window is over.
func (s *simulation) ask(step, sidecar int, caller *simulated) bool {
	take := caller.take
	take.Cost = 1 + s.random.Int64N(3)*s.random.Int64N(2)
	s.keepUp()
	at := s.now
	d, err := s.limiters[sidecar].Take(s.t.Context(), []Take{take})
	s.keepUp()
	if err != nil {
		s.lost++
		return false
	}
	if !d.Admitted {
		s.refused++
		return false
	}
	s.took++
	const longest = int64(300 * time.Second / time.Microsecond)
	for len(caller.admitted) > 0 && caller.admitted[0].time <= s.now-longest {
		caller.admitted = caller.admitted[1:]
	}
	caller.admitted = append(caller.admitted, admission{at, take.Cost})
	for _, limit := range take.Limits {
		var sum int64
		for i := len(caller.admitted) - 1; i >= 0 && caller.admitted[i].time > s.now-limit.WindowMillis*1000; i-- {
			sum += caller.admitted[i].cost
		}
		if sum > limit.Requests {
			s.t.Errorf("step %d: caller %s has %d units in a window of %v for %d", step, take.Identity, sum, limit.Window(), limit.Requests)
			return false
		}
	}
	return true
}
