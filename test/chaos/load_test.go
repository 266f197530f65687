package chaos

import (
	"context"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// window of the limits, milliseconds.
const window = 2000

// user asks all sidecars, in turns, for one path.
type user struct {
	name, path string
	// rate a second, all sidecars together.
	rate float64
}

// users are far below, near and far above the limits of each policy.
func users() (all []user) {
	for _, p := range []struct {
		path  string
		limit float64
	}{{"/small", smallLimit}, {"/large", largeLimit}, {"/strict", largeLimit}} {
		full := p.limit * 1000 / window
		all = append(all,
			user{"far", p.path, 0.1 * full}, user{"near", p.path, 0.95 * full}, user{"flood", p.path, 10 * full})
	}
	return append(all, user{"both", "/both", 20}) // meets two policies
}

// load is what users do, and what they get.
type load struct {
	asked, admitted, limited, unavailable atomic.Int64
	// cut requests got no answer: the sidecar was killed.
	cut atomic.Int64
	// other statuses are a defect.
	other atomic.Int64
	// longest answer, and by how much this process was woken too late: what the
	// machine alone adds. Nanoseconds.
	longest, stall atomic.Int64
	// byPath are those that were admitted.
	mu     sync.Mutex
	byPath map[string]int64

	users sync.WaitGroup
	end   context.CancelFunc
}

// begin has users ask at some sidecars until stop.
func begin(ctx context.Context, sidecars []*sidecar) *load {
	l := &load{byPath: map[string]int64{}}
	ctx, l.end = context.WithCancel(ctx)
	l.users.Go(func() { l.watch(ctx) })
	for _, u := range users() {
		every := time.Duration(float64(len(sidecars)) / u.rate * float64(time.Second))
		for _, s := range sidecars {
			l.users.Go(func() { l.ask(ctx, s, u, every) })
		}
	}
	return l
}

func (l *load) stop() {
	l.end()
	l.users.Wait()
}

// ask asks one sidecar at a pace; what it is late by is not made up for.
func (l *load) ask(ctx context.Context, s *sidecar, u user, every time.Duration) {
	c := &client{sidecar: s}
	defer c.close()
	admitted := int64(0)
	timer := time.NewTimer(time.Duration(rand.Float64() * float64(every)))
	defer timer.Stop()
	for next := time.Now(); ; timer.Reset(time.Until(next)) {
		select {
		case <-ctx.Done():
			l.mu.Lock()
			l.byPath[u.path] += admitted
			l.mu.Unlock()
			return
		case <-timer.C:
		}
		l.asked.Add(1)
		status, took, err := c.ask(u.path, u.name)
		raise(&l.longest, took)
		next = later(next.Add(every), time.Now())
		switch {
		case err != nil:
			l.cut.Add(1)
			next = later(next, time.Now().Add(20*time.Millisecond)) // it may begin again
		case status == http.StatusOK:
			admitted++
			l.admitted.Add(1)
		case status == http.StatusTooManyRequests:
			l.limited.Add(1)
		case status == http.StatusServiceUnavailable:
			l.unavailable.Add(1)
		default:
			l.other.Add(1)
		}
	}
}

// watch finds out how busy the machine is.
func (l *load) watch(ctx context.Context) {
	const nap = time.Millisecond
	for ctx.Err() == nil {
		begun := time.Now()
		time.Sleep(nap)
		raise(&l.stall, time.Since(begun)-nap)
	}
}

// raise makes the larger of two durations the first.
func raise(to *atomic.Int64, d time.Duration) {
	for most := to.Load(); int64(d) > most && !to.CompareAndSwap(most, int64(d)); {
		most = to.Load()
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
