package runner

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// Messages are taken ahead of free slots as far as recent runs say that they
// will be started within a few milliseconds: an exchange with Redis costs more
// than many runs. Of long runs none is taken ahead: another worker may be free.
const (
	// aheadTime is how much work is taken ahead, for each slot.
	aheadTime = 2 * time.Millisecond
	// maxAhead bounds it, for each slot.
	maxAhead = 8
	// aheadPatience is how long a message that was taken ahead waits for a slot
	// before it is given back.
	aheadPatience = 50 * time.Millisecond
)

// pace is the moving average of the duration of runs.
type pace struct{ nanos atomic.Int64 }

// saw takes the duration of a run. Of runs that end at the same time some may
// be left out.
func (p *pace) saw(run time.Duration) {
	before := p.nanos.Load()
	p.nanos.Store(before + (int64(run)-before)/8)
}

// slow forgets: nothing is taken ahead until runs are short again.
func (p *pace) slow() { p.nanos.Store(int64(time.Second)) }

// ahead is how many messages more than there are free slots may be taken.
func (p *pace) ahead(slots int) int {
	run := max(p.nanos.Load(), 1)
	return slots * int(min(int64(aheadTime)/run, maxAhead))
}

// slotSoon waits for a slot, not for long.
func (r *Runner) slotSoon(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case r.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(aheadPatience)
	defer timer.Stop()
	select {
	case r.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	case <-r.exhausted:
	}
	return false
}

// giveBack gives back what was taken ahead and has not been started, so that
// the first of it is taken first again.
func (r *Runner) giveBack(deliveries []celery.Delivery) {
	for i := len(deliveries) - 1; i >= 0; i-- {
		deliveries[i].BeganAt = time.Now()
		one := &run{Delivery: &deliveries[i], cancel: func(error) {}}
		one.settled.Store(true)
		r.mu.Lock()
		r.running[one.Tag] = one // for its heartbeat, until it is back
		r.mu.Unlock()
		r.metrics.ended(one.Delivery, "given back")
		r.endings <- settled{one, r.consumer.GiveBack(one.Delivery)}
	}
}
