package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
)

// run is one call that is being run, or whose end is not acknowledged yet.
type run struct {
	*celery.Delivery
	cancel  context.CancelCauseFunc
	settled atomic.Bool // its end is decided; who sets it decides
	fate    atomic.Int32
	started bool // STARTED was written; of the announce loop alone
	// children that it has enqueued, the first of them.
	children []string
	// trace is what follows from the run; span is nil unless it is recorded.
	trace tracing.Context
	span  *tracing.Span
}

// Fates of a run's handler.
const (
	fateRunning = iota
	fateReturned
	fateStuck
)

// settled is the end of a run on its way to Redis.
type settled struct {
	run    *run
	ending celery.Ending
}

const (
	// maxPasses is how often a message of a task that is unknown here goes on to
	// other workers of its queue, about once a second: for a minute, in which a
	// rollout of workers that know it gets on. Any of them may take it each time,
	// so few tries would leave it to luck whether one that knows it does.
	maxPasses = 60
	// maxChildren of a call that its result names as such.
	maxChildren = 1000
)

// start decides about a delivery and runs it if it is to be run. The slot is
// released at its end.
func (r *Runner) start(ctx context.Context, d *celery.Delivery) {
	now := time.Now()
	limited, cancel := context.WithCancelCause(ctx)
	d.BeganAt = now
	one := &run{Delivery: d, cancel: cancel}
	r.trace(one)
	r.mu.Lock()
	r.running[d.Tag] = one
	r.mu.Unlock()
	handler, known := r.handler(d)
	if ending, why := r.unfit(d, known, now); why != "" {
		cancel(nil)
		one.settled.Store(true)
		one.traceUnfit(why)
		r.end(one, ending, why)
		return
	}
	r.event(func() celery.Event { return received(d) })
	r.event(func() celery.Event { return celery.Event{Type: "task-started", Fields: map[string]any{"uuid": d.ID}} })
	soft, hard := r.limits(d)
	if soft > 0 {
		timer := time.AfterFunc(soft, func() { cancel(ErrSoftTimeLimit) })
		context.AfterFunc(limited, func() { timer.Stop() })
	}
	timer := time.AfterFunc(hard, func() { r.overrun(one) })
	go func() {
		result, err := call(tracing.NewContext(limited, one.trace), handler, r.newCall(one))
		timer.Stop()
		if one.fate.Swap(fateReturned) == fateStuck {
			r.stuck.Add(-1) // it ended after all
		}
		if one.settled.CompareAndSwap(false, true) {
			r.conclude(one, result, err, context.Cause(limited))
		}
		cancel(nil)
	}()
}

const (
	// passedOn is within which a message that was passed on is put back, and giveWay
	// how long its worker then leaves what comes to others: Redis wakes those who wait
	// in the same order each time, and the first would pass it on for ever.
	passedOn = 4 * time.Second
	giveWay  = 50 * time.Millisecond
)

// passDelay is a second on average, and differs so that no two workers take
// turns with a message that neither knows.
func passDelay() time.Duration {
	return time.Second/2 + rand.N(time.Second) //nolint:gosec // no secret
}

func (r *Runner) handler(d *celery.Delivery) (Handler, bool) {
	if d.Message == nil {
		return nil, false
	}
	handler, known := r.c.Registry[d.Task]
	return handler, known
}

// unfit says what becomes of a delivery that is not run now, and why, in one
// word; empty: it is to be run.
func (r *Runner) unfit(d *celery.Delivery, known bool, now time.Time) (ending celery.Ending, why string) {
	ttl := r.resultTTL(d)
	dead := func(err error, errType, module, reason string) (celery.Ending, string) {
		r.log(d, reason, err)
		return r.consumer.Dead(d, celery.Outcome{State: celery.Failure, Err: err, ErrType: errType, ErrModule: module}, reason, now, ttl), reason
	}
	revoked := func(text string) celery.Ending {
		return r.consumer.End(d, celery.Outcome{
			State: celery.Revoked, Err: errors.New(text), ErrType: "TaskRevokedError", ErrModule: "celery.exceptions",
		}, nil, ttl)
	}
	switch {
	case d.DecodeError != nil:
		return dead(d.DecodeError, "DecodeError", "kombu.exceptions", "unreadable")
	case d.Revoked:
		return revoked("revoked"), "revoked"
	case !d.Expires.IsZero() && now.After(d.Expires):
		return revoked("expired"), "expired"
	case d.ETA.After(now):
		return r.consumer.Park(d, d.ETA), "parked"
	case !known && d.Passes < maxPasses:
		passed, err := r.consumer.Pass(d, now.Add(passDelay()))
		if err != nil {
			return dead(err, "DecodeError", "kombu.exceptions", "unreadable")
		}
		r.passed.Store(now.UnixNano())
		return passed, "passed"
	case d.Workflow != "":
		return dead(fmt.Errorf("the call has %s, which Weir's workers do not carry out: let a Celery worker run it, on a queue of its own", d.Workflow),
			"NotImplementedError", "", "unsupported")
	case known:
		return ending, ""
	default:
		return dead(fmt.Errorf("no worker of queue %s knows the task %.200q", d.Queue, d.Task), "NotRegistered", "celery.exceptions", "unknown")
	}
}

// call runs the handler; a panic is an error.
func call(ctx context.Context, handler Handler, c *Call) (result json.RawMessage, err error) {
	defer func() {
		if thrown := recover(); thrown != nil {
			err = &panicError{thrown, debug.Stack()}
		}
	}()
	value, err := handler(ctx, c)
	if err != nil {
		return nil, err
	}
	result, err = json.Marshal(value)
	if err != nil {
		return nil, Permanent(fmt.Errorf("encoding the result of %s: %w", c.Task, err))
	}
	return result, nil
}

type panicError struct {
	thrown any
	stack  []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.thrown) }

func (r *Runner) newCall(one *run) *Call {
	d := one.Delivery
	return &Call{
		ID: d.ID, Task: d.Task, Queue: d.Queue, Retries: d.Retries, args: d.Args, kwargs: d.Kwargs,
		enqueue: func(ctx context.Context, children []celery.Signature) error {
			r.mu.Lock()
			for i := range children {
				child := &children[i]
				child.ParentID, child.RootID, child.PeriodicTask = d.ID, d.RootID, d.PeriodicTask
				if child.RootID == "" {
					child.RootID = d.ID
				}
				if len(one.children) < maxChildren {
					one.children = append(one.children, child.ID)
				}
			}
			r.mu.Unlock()
			span := r.traceChildren(one, children)
			defer span.End()
			err := r.c.Broker.EnqueueOnce(ctx, d.ID, rememberChildren, children...)
			if err != nil {
				span.Fail("_OTHER")
			}
			return err
		},
	}
}

// rememberChildren is how long a call that runs again does not enqueue its
// children again: longer than its message is redelivered and, by default,
// retried. The set of their ids takes about 80 bytes each as long.
const rememberChildren = 3 * time.Hour

// conclude decides what becomes of a call that has ended, cause being why its
// context ended, if it did.
func (r *Runner) conclude(one *run, result json.RawMessage, err, cause error) {
	d, now, ttl := one.Delivery, time.Now(), r.resultTTL(one.Delivery)
	elapsed := now.Sub(one.BeganAt)
	r.pace.saw(elapsed)
	if err == nil {
		r.metrics.ran(d.Task, "success", elapsed)
		r.event(func() celery.Event { return succeeded(d, result, elapsed) })
		one.traceEnd(celery.Success, nil)
		r.end(one, r.consumer.End(d, celery.Outcome{State: celery.Success, Value: result}, one.children, ttl), "")
		return
	}
	if cause != nil && errors.Is(err, context.Canceled) {
		err = cause // says more
	}
	if panicked, is := errors.AsType[*panicError](err); is {
		r.c.Logger.Error("a task panicked", "task", d.Task, "id", d.ID, "panic", fmt.Sprint(panicked.thrown), "stack", string(panicked.stack))
	}
	switch {
	case errors.Is(cause, ErrShutdown):
		r.end(one, r.consumer.GiveBack(d), "given back")
	case errors.Is(cause, ErrRevoked):
		one.traceEnd(celery.Revoked, nil)
		r.end(one, r.consumer.End(d, celery.Outcome{
			State: celery.Revoked, Err: errors.New("terminated"), ErrType: "TaskRevokedError", ErrModule: "celery.exceptions",
		}, nil, ttl), "revoked")
	default:
		r.failed(one, err, elapsed, now, ttl)
	}
}

// failed retries the call, or puts it to the dead letters.
func (r *Runner) failed(one *run, err error, elapsed time.Duration, now time.Time, ttl time.Duration) {
	d := one.Delivery
	policy := r.c.Retry
	if d.Retry != nil {
		policy = *d.Retry
	}
	outcome := celery.Outcome{State: celery.Failure, Err: err}
	if errors.Is(err, ErrSoftTimeLimit) {
		outcome.ErrType, outcome.ErrModule = "SoftTimeLimitExceeded", "billiard.exceptions"
	}
	if !IsPermanent(err) && d.Retries < policy.MaxRetries {
		then := now.Add(delay(policy, d.Retries, err))
		outcome.State = celery.Retry
		ending, reviseErr := r.consumer.Retry(d, outcome, then, ttl)
		if reviseErr == nil {
			r.log(d, "retried", err)
			r.metrics.ran(d.Task, "retry", elapsed)
			r.event(func() celery.Event { return unsuccessful("task-retried", d, err) })
			one.traceEnd(celery.Retry, err)
			r.end(one, ending, "retried")
			return
		}
		outcome.State = celery.Failure
	}
	reason := "exhausted"
	if IsPermanent(err) {
		reason = "failed"
	}
	r.log(d, reason, err)
	r.metrics.ran(d.Task, "failure", elapsed)
	r.event(func() celery.Event { return unsuccessful("task-failed", d, err) })
	one.traceEnd(celery.Failure, err)
	r.end(one, r.consumer.Dead(d, outcome, reason, now, ttl), reason)
}

// overrun fails a call at its hard time limit, ended or not.
func (r *Runner) overrun(one *run) {
	decided := one.settled.CompareAndSwap(false, true) // before the call hears of it, and ends
	one.cancel(ErrTimeLimit)
	if !decided {
		return
	}
	time.AfterFunc(stopTime, func() { r.countStuck(one) })
	now := time.Now()
	_, hard := r.limits(one.Delivery)
	err := fmt.Errorf("%w (%v)", ErrTimeLimit, hard)
	outcome := celery.Outcome{State: celery.Failure, Err: err, ErrType: "TimeLimitExceeded", ErrModule: "billiard.exceptions"}
	r.log(one.Delivery, "exhausted", err)
	r.metrics.ran(one.Task, "failure", now.Sub(one.BeganAt))
	r.event(func() celery.Event { return unsuccessful("task-failed", one.Delivery, err) })
	one.traceEnd(celery.Failure, err)
	r.end(one, r.consumer.Dead(one.Delivery, outcome, "exhausted", now, r.resultTTL(one.Delivery)), "exhausted")
}

// countStuck counts a call that has not ended though it was told to.
func (r *Runner) countStuck(one *run) {
	if one.fate.CompareAndSwap(fateRunning, fateStuck) && r.stuck.Add(1) >= int64(r.c.Concurrency) {
		r.exhaust.Do(func() { close(r.exhausted) })
	}
}

// end hands the end of a run over and frees its slot. why is empty for a
// success.
func (r *Runner) end(one *run, ending celery.Ending, why string) {
	if why != "" {
		r.metrics.ended(one.Delivery, why)
		if one.span != nil {
			one.span.Set(tracing.Text(attributeOutcome, why))
		}
	}
	if why == "revoked" || why == "expired" {
		r.event(func() celery.Event {
			return celery.Event{Type: "task-revoked", Fields: map[string]any{
				"uuid": one.ID, "terminated": why == "revoked", "signum": nil, "expired": why == "expired",
			}}
		})
	}
	r.endings <- settled{one, ending}
	r.release(1)
	r.starts.Done()
}

// limits of one run of a delivery.
func (r *Runner) limits(d *celery.Delivery) (soft, hard time.Duration) {
	soft, hard = r.c.SoftTimeLimit, r.c.TimeLimit
	if d.TimeLimit > 0 {
		soft, hard = 0, d.TimeLimit
	}
	if d.SoftTimeLimit > 0 {
		soft = d.SoftTimeLimit
	}
	if soft >= hard {
		soft = 0
	}
	return soft, hard
}

func (r *Runner) resultTTL(d *celery.Delivery) time.Duration {
	if d.Message != nil && d.ResultTTL > 0 {
		return d.ResultTTL
	}
	return r.c.ResultTTL
}

// log says what became of a call that did not succeed; arguments are its user's
// affair and not logged.
func (r *Runner) log(d *celery.Delivery, what string, err error) {
	task, id, retries := "", "", 0
	if d.Message != nil {
		task, id, retries = d.Task, d.ID, d.Retries
	}
	r.c.Logger.Warn("a call did not succeed", "task", task, "id", id, "queue", d.Queue, "retries", retries, "what", what, "error", err.Error())
}
