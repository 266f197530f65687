// Package runner takes calls from Celery's queues and runs them: many at once,
// each acknowledged after it has ended, tried again when it fails, and given
// back when the worker ends.
package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
)

// Config of a runner.
type Config struct {
	Broker   *celery.Broker
	Registry Registry
	// Queues, all alike.
	Queues []string
	// Concurrency is how many calls run at once.
	Concurrency int
	// Hostname is the worker's node name, as weir@pod.
	Hostname string
	// Grace is how long running calls may go on after the end was asked for.
	Grace time.Duration

	// Retry, SoftTimeLimit (0: none), TimeLimit and ResultTTL hold for messages
	// that say nothing else.
	Retry                    celery.RetryPolicy
	SoftTimeLimit, TimeLimit time.Duration
	ResultTTL                time.Duration
	// MaxCrashes is how many workers may die with a message.
	MaxCrashes int
	// DeadLetters that are kept for a queue.
	DeadLetters int
	// Lease is how long this worker may be silent before others take what it
	// runs.
	Lease time.Duration

	Registerer prometheus.Registerer
	Logger     *slog.Logger
	// Tracer records runs; nil: none.
	Tracer *tracing.Tracer
}

// Runner is one worker.
type Runner struct {
	c        Config
	consumer *celery.Consumer
	sender   *celery.Sender
	metrics  *metrics
	started  time.Time

	slots   chan struct{} // one for each call that may run
	endings chan settled  // to be carried out by settle
	starts  sync.WaitGroup
	// stuck counts calls that did not end at their hard time limit.
	stuck atomic.Int64
	// exhausted is closed when so many are stuck that none is left to work.
	exhausted chan struct{}
	exhaust   sync.Once

	pace pace // of recent runs
	// passed is when a message went on to other workers last, in Unix nanoseconds.
	passed atomic.Int64

	mu      sync.Mutex
	running map[string]*run // by tag, until they are acknowledged
	totals  map[string]int64

	watched atomic.Bool // somebody listens to events
	events  chan celery.Event
	broker  health
}

// New checks the configuration. Nothing runs yet.
func New(c Config) (*Runner, error) {
	if c.Concurrency < 1 || c.Concurrency > 10_000 {
		return nil, fmt.Errorf("the concurrency is %d: want 1 to 10000", c.Concurrency)
	}
	if c.Lease <= 0 {
		c.Lease = celery.DefaultLease
	}
	if c.MaxCrashes <= 0 {
		c.MaxCrashes = celery.DefaultMaxCrashes
	}
	if c.ResultTTL <= 0 {
		c.ResultTTL = celery.DefaultResultTTL
	}
	if c.TimeLimit <= 0 {
		c.TimeLimit = celery.DefaultTimeLimit
	}
	consumer, err := c.Broker.NewConsumer(celery.ConsumerOptions{Queues: c.Queues, Lease: c.Lease, DeadLetters: c.DeadLetters, Hostname: c.Hostname})
	if err != nil {
		return nil, err
	}
	r := &Runner{
		c: c, consumer: consumer, sender: c.Broker.NewSender(c.Hostname),
		started:   time.Now(),
		slots:     make(chan struct{}, c.Concurrency),
		endings:   make(chan settled, celery.MaxEndings),
		exhausted: make(chan struct{}),
		running:   map[string]*run{},
		totals:    map[string]int64{},
		events:    make(chan celery.Event, 4096),
	}
	r.broker.logger = c.Logger
	r.pace.slow()
	r.metrics = newMetrics(c.Registerer, r)
	return r, nil
}

// Ready says whether the broker answered last.
func (r *Runner) Ready() bool { return r.broker.up() }

// ErrStuck ends a worker all of whose calls ignore their time limits. It must be
// started anew: Go cannot end them.
var ErrStuck = errors.New("as many calls as may run at once have not ended at their time limit")

// Run takes and runs calls until ctx ends; then those that run have the grace
// time to end, and what is left is given back.
func (r *Runner) Run(ctx context.Context) error {
	// What keeps calls alive outlives them.
	background, stop := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	for _, loop := range []func(context.Context){r.refresh, r.restore, r.announce, r.sendEvents, r.observe, r.control} {
		loops.Go(func() { loop(background) })
	}
	settling := make(chan struct{})
	finishing, abandon := context.WithCancel(context.Background())
	go func() { defer close(settling); r.settle(finishing) }()

	calls, endCalls := context.WithCancelCause(context.Background())
	r.take(ctx, calls)
	err := r.drain(endCalls)
	close(r.endings)
	select {
	case <-settling:
	case <-time.After(lastWords):
		r.c.Logger.Error("Redis does not answer: what has ended stays unacknowledged, and others will run it again after the lease", "lease", r.c.Lease.String())
	}
	abandon()
	stop()
	loops.Wait()
	return err
}

const (
	// lastWords is how long the end of a worker may wait for Redis.
	lastWords = 4 * time.Second
	// stopTime is what calls have to end after their contexts did.
	stopTime = time.Second
)

// drain waits for the calls that run, then ends them.
func (r *Runner) drain(endCalls context.CancelCauseFunc) error {
	stuck := false
	ended := make(chan struct{})
	go func() { r.starts.Wait(); close(ended) }()
	select {
	case <-r.exhausted:
		stuck = true
	default:
	}
	select {
	case <-ended:
	case <-time.After(r.c.Grace):
		endCalls(ErrShutdown)
		select {
		case <-ended:
		case <-time.After(stopTime):
			r.giveBackRunning()
			<-ended // each end is decided now, and on its way
		}
	}
	endCalls(ErrShutdown)
	if stuck {
		return ErrStuck
	}
	return nil
}

// take fills free slots with messages until ctx ends. Calls run in the context
// calls.
func (r *Runner) take(ctx, calls context.Context) {
	waiter := r.consumer.NewWaiter(ctx)
	for {
		free := r.freeSlots(ctx)
		if free == 0 {
			return
		}
		deliveries, err := r.consumer.Take(ctx, free+r.pace.ahead(r.c.Concurrency))
		if ctx.Err() == nil {
			r.broker.heard(err)
		}
		r.release(max(0, free-len(deliveries)))
		for i := range deliveries {
			if i >= free && !r.slotSoon(ctx) {
				r.pace.slow()
				r.giveBack(deliveries[i:])
				break
			}
			r.starts.Add(1)
			r.start(calls, &deliveries[i])
		}
		if len(deliveries) > 0 {
			continue
		}
		if err != nil {
			sleep(ctx, r.broker.backoff())
			continue
		}
		select {
		case <-ctx.Done():
		case <-waiter.Idle():
		case <-time.After(time.Second):
		}
		if time.Since(time.Unix(0, r.passed.Load())) < passedOn {
			sleep(ctx, giveWay)
		}
	}
}

// freeSlots waits for one slot and takes all that are free; 0 when ctx ends.
func (r *Runner) freeSlots(ctx context.Context) int {
	select {
	case <-ctx.Done():
		return 0
	case <-r.exhausted:
		return 0
	case r.slots <- struct{}{}:
	}
	if ctx.Err() != nil {
		r.release(1)
		return 0
	}
	for free := 1; ; free++ {
		select {
		case r.slots <- struct{}{}:
		default:
			return free
		}
	}
}

func (r *Runner) release(slots int) {
	for range slots {
		<-r.slots
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
