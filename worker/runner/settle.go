package runner

import (
	"context"
	"slices"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// settle carries the ends of runs out, as many at once as there are, until
// there are no more. While Redis does not answer it keeps them, and tries again.
func (r *Runner) settle(ctx context.Context) {
	var backlog []settled
	open := true
	for open || len(backlog) > 0 {
		if len(backlog) == 0 {
			one, more := <-r.endings
			if !more {
				return
			}
			backlog = append(backlog, one)
		}
		backlog, open = r.gather(backlog, open)
		batch := backlog[:min(len(backlog), celery.MaxEndings)]
		err := r.finish(ctx, batch)
		switch {
		case err == nil:
			r.acknowledged(batch)
			backlog = slices.Delete(backlog, 0, len(batch))
		case celery.IsRefusal(err):
			r.finishEach(ctx, batch)
			backlog = slices.Delete(backlog, 0, len(batch))
		case ctx.Err() != nil:
			return
		default:
			backlog, open = r.gatherFor(ctx, r.broker.backoff(), backlog, open)
		}
	}
}

// gather takes what is there, without waiting.
func (r *Runner) gather(backlog []settled, open bool) ([]settled, bool) {
	for open {
		select {
		case one, more := <-r.endings:
			if !more {
				return backlog, false
			}
			backlog = append(backlog, one)
		default:
			return backlog, true
		}
	}
	return backlog, false
}

// gatherFor takes what comes within a time.
func (r *Runner) gatherFor(ctx context.Context, wait time.Duration, backlog []settled, open bool) ([]settled, bool) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	endings := r.endings
	if !open {
		endings = nil
	}
	for {
		select {
		case <-ctx.Done():
			return backlog, open
		case <-timer.C:
			return backlog, open
		case one, more := <-endings:
			if !more {
				open, endings = false, nil
				continue
			}
			backlog = append(backlog, one)
		}
	}
}

func (r *Runner) finish(ctx context.Context, batch []settled) error {
	endings := make([]celery.Ending, len(batch))
	for i := range batch {
		endings[i] = batch[i].ending
	}
	lost, err := r.consumer.Finish(ctx, endings)
	r.broker.heard(err)
	if lost > 0 {
		r.metrics.lost.Add(float64(lost))
		r.c.Logger.Warn("calls that ended here had been given to other workers, and may run twice", "calls", lost)
	}
	return err
}

// finishEach finds out which of a batch Redis refuses. That one is given up:
// without heartbeats it is put back after the lease.
func (r *Runner) finishEach(ctx context.Context, batch []settled) {
	for i := range batch {
		if err := r.finish(ctx, batch[i:i+1]); err != nil {
			r.c.Logger.Error("Redis refuses the end of a call, which others will run again after the lease",
				"queue", batch[i].run.Queue, "error", err.Error())
			batch[i].run.span.Fail("not_stored")
		}
	}
	r.acknowledged(batch)
}

func (r *Runner) acknowledged(batch []settled) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range batch {
		delete(r.running, batch[i].run.Tag)
		batch[i].run.span.End()
	}
}

// giveBackRunning gives back what has not ended.
func (r *Runner) giveBackRunning() {
	for _, one := range r.snapshot() {
		if one.settled.CompareAndSwap(false, true) {
			r.end(one, r.consumer.GiveBack(one.Delivery), "given back")
		}
	}
}

// snapshot lists the runs that are not acknowledged.
func (r *Runner) snapshot() []*run {
	r.mu.Lock()
	defer r.mu.Unlock()
	runs := make([]*run, 0, len(r.running))
	for _, one := range r.running {
		runs = append(runs, one)
	}
	return runs
}
