package tasks

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"

	"github.com/weir-dev/weir/worker/celery"
)

const (
	tick = time.Second
	// maxListed messages of each priority of a queue: those that are taken next.
	maxListed = 20_000
	// newestListed are looked for each second when a queue has changed.
	newestListed = 200
	// queueInterval is how often a queue that changes is read, maxListed of it.
	queueInterval = 10 * time.Second
	// inspectInterval is how often workers are asked what they run, and
	// inspectWait how long for answers.
	inspectInterval = 10 * time.Second
	inspectWait     = time.Second
	// findInterval is how often queues and results are looked for that nobody
	// told of.
	findInterval = 2 * time.Minute
	// An unfinished task is looked up when it was not seen for so long: what runs
	// on a Celery worker may be seen nowhere.
	unseenFor        = 30 * time.Second
	unseenRunningFor = time.Hour
)

// Options of a Watcher.
type Options struct {
	// Broker in force now; an error: there is none, or it failed a moment ago.
	Broker func() (*celery.Broker, error)
	// Queues that PeriodicTasks name.
	Queues func() []string
	// Limit of tasks; DefaultLimit when zero.
	Limit  int
	Logger logr.Logger
}

// Watcher keeps an Index.
type Watcher struct {
	*Index
	o       Options
	workers workers
	queues  queues
	// beat is another one when something was seen that is no task.
	beat atomic.Uint64

	mu      sync.Mutex
	down    error
	since   time.Time // of down
	reading bool

	heardMu sync.Mutex
	heard   []celery.Heard
	written map[string]bool // ids of results
	// again: what happened was not heard.
	again atomic.Bool
}

// NewWatcher returns one; Start has it watch.
func NewWatcher(o Options) *Watcher {
	if o.Limit <= 0 {
		o.Limit = DefaultLimit
	}
	return &Watcher{
		Index: NewIndex(o.Limit), o: o, reading: true, written: map[string]bool{},
		workers: workers{byName: map[string]*Worker{}}, queues: queues{byName: map[string]*queue{}},
	}
}

// Queues by name.
func (w *Watcher) Queues() []Queue { return w.queues.list() }

// Workers by name.
func (w *Watcher) Workers() []Worker { return w.workers.list(time.Now()) }

// Version is another one when something has changed.
func (w *Watcher) Version() uint64 { return w.Index.Version() + w.beat.Load() }

// Health is why Redis does not answer, nil when it does, and since when. Reading:
// what Redis has is not all known yet.
func (w *Watcher) Health() (down error, since time.Time, reading bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down, w.since, w.reading
}

// Start watches until ctx ends.
func (w *Watcher) Start(ctx context.Context) error {
	var broker *celery.Broker
	stop := func() {}
	defer func() { stop() }()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		current, err := w.o.Broker()
		if err == nil && current != broker {
			stop()
			broker = current
			stop = w.attend(ctx, broker)
		}
		if err == nil {
			err = w.look(ctx, broker)
		}
		w.said(err)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// said keeps whether Redis answers.
func (w *Watcher) said(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(err, context.Canceled) {
		return
	}
	switch {
	case err != nil && w.down == nil:
		w.since = time.Now()
		w.o.Logger.Error(err, "Redis does not answer")
	case err == nil && w.down != nil:
		w.o.Logger.Info("Redis answers again", "after", time.Since(w.since).Round(time.Second).String())
	}
	if (err == nil) != (w.down == nil) {
		w.beat.Add(1)
	}
	w.down = err
}

// attend listens to a broker, and reads what it has, until it is stopped.
func (w *Watcher) attend(ctx context.Context, b *celery.Broker) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() {
		b.Listen(ctx, celery.Listener{Events: w.hear, Result: w.hearResult, Began: func() { w.again.Store(true) }})
	})
	running.Go(func() { every(ctx, 200*time.Millisecond, func() { w.apply(ctx, b) }) })
	running.Go(func() { every(ctx, inspectInterval, func() { w.inspect(ctx, b) }) })
	running.Go(func() {
		var found time.Time
		every(ctx, tick, func() {
			if w.again.Swap(false) || time.Since(found) > findInterval {
				if w.find(ctx, b) == nil {
					found = time.Now()
				} else {
					w.again.Store(true)
				}
			}
			w.reread(ctx, b)
		})
	})
	return func() { cancel(); running.Wait() }
}

// every calls f at once and then at an interval.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		f()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// maxHeard between two applications; more is not heard, but found.
const maxHeard = 100_000

func (w *Watcher) hear(heard []celery.Heard) {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	if len(w.heard) < maxHeard {
		w.heard = append(w.heard, heard...)
	} else {
		w.again.Store(true)
	}
}

func (w *Watcher) hearResult(id string) {
	w.heardMu.Lock()
	defer w.heardMu.Unlock()
	if len(w.written) < maxHeard {
		w.written[id] = true
	} else {
		w.again.Store(true)
	}
}

// apply what was heard.
func (w *Watcher) apply(ctx context.Context, b *celery.Broker) {
	w.heardMu.Lock()
	heard, written := w.heard, w.written
	w.heard, w.written = nil, map[string]bool{}
	w.heardMu.Unlock()
	now := time.Now()
	if len(heard) > 0 {
		w.events(heard, now)
		w.workers.events(heard, now)
		w.beat.Add(1)
	}
	ids := make([]string, 0, len(written))
	for id := range written {
		ids = append(ids, id)
	}
	if w.lookUp(ctx, b, ids) != nil {
		w.again.Store(true)
	}
}

// lookUp asks the backend about tasks.
func (w *Watcher) lookUp(ctx context.Context, b *celery.Broker, ids []string) error {
	for page := range slices.Chunk(ids, 500) {
		results, err := b.ReadResults(ctx, page)
		if err != nil {
			return err
		}
		w.Results(results, time.Now())
	}
	return nil
}

// look at what is seen each second: queues, and what is held.
func (w *Watcher) look(ctx context.Context, b *celery.Broker) error {
	w.queues.know(w.o.Queues(), maxNamed)
	w.queues.know(w.queueNames(), maxQueues)
	names := w.queues.names()
	for page := range slices.Chunk(names, 50) {
		depths, err := b.Depths(ctx, page)
		if celery.IsRefusal(err) {
			continue // a key of another type
		}
		if err != nil {
			return err
		}
		for i, name := range page {
			now := time.Now()
			if !w.queues.observe(name, depths[i], w.age(depths[i].Heads, now), now) {
				continue
			}
			w.beat.Add(1)
			newest, err := b.Waiting(ctx, name, newestListed, true)
			if err != nil {
				return err
			}
			w.messages(name, newest, now)
		}
	}
	var all []celery.Held
	now := time.Now()
	err := b.EachHeld(ctx, func(h celery.Held) { all = append(all, h) })
	if celery.IsRefusal(err) {
		err = nil
	}
	w.heldMessages(all, now)
	return err
}

// age of the oldest of the messages that are taken next.
func (w *Watcher) age(heads []celery.Head, now time.Time) time.Duration {
	oldest := time.Duration(0)
	for _, head := range heads {
		at := head.EnqueuedAt
		if at.IsZero() {
			at = w.firstSeen(head.ID)
		}
		if !at.IsZero() {
			oldest = max(oldest, now.Sub(at))
		}
	}
	return oldest
}

// find queues and results that nobody told of.
func (w *Watcher) find(ctx context.Context, b *celery.Broker) error {
	names, err := b.Queues(ctx)
	if err != nil {
		return err
	}
	w.queues.know(names, maxQueues)
	err = b.EachResult(ctx, func(page []celery.Result) error {
		w.Results(page, time.Now())
		return nil
	})
	if err == nil {
		w.mu.Lock()
		w.reading = false
		w.mu.Unlock()
		w.beat.Add(1)
	}
	return err
}

// reread the queues that have changed, and look up what was not seen any more.
func (w *Watcher) reread(ctx context.Context, b *celery.Broker) {
	began := time.Now()
	due, same := w.queues.due(queueInterval, began)
	for _, name := range due {
		at := time.Now()
		w.queues.read(name, at) // what changes from now on makes it due again
		waiting, err := b.Waiting(ctx, name, maxListed, false)
		if err != nil {
			w.queues.unread(name)
			continue
		}
		w.messages(name, waiting, at)
	}
	down, _, _ := w.Health()
	if down != nil {
		return
	}
	unseen := w.unconfirmed(func(t *Task) time.Time { return w.expectedSince(t, same, began) })
	if len(unseen) == 0 || w.lookUp(ctx, b, unseen) != nil {
		return
	}
	w.gone(unseen, began)
}

// expectedSince is since when a task should have been seen.
func (w *Watcher) expectedSince(t *Task, same []string, now time.Time) time.Time {
	if t.State == Waiting && slices.Contains(same, t.Queue) {
		return time.Time{}
	}
	if t.State == Running {
		if worker, known := w.workers.get(t.Worker); known && !worker.inspected.IsZero() {
			return worker.inspected.Add(-unseenFor)
		}
		return now.Add(-unseenRunningFor)
	}
	return now.Add(-unseenFor)
}

// inspect asks workers what they are, and what they run.
func (w *Watcher) inspect(ctx context.Context, b *celery.Broker) {
	if active, err := b.Inspect(ctx, "active", inspectWait); err == nil {
		w.active(active, time.Now())
	}
	for method, take := range map[string]func(map[string]json.RawMessage, time.Time){"stats": w.workers.stats, "active_queues": w.workers.queues} {
		if answers, err := b.Inspect(ctx, method, inspectWait); err == nil {
			take(answers, time.Now())
		}
	}
	w.beat.Add(1)
}

// active takes the answers to "active".
func (w *Watcher) active(answers map[string]json.RawMessage, now time.Time) {
	var heard []celery.Heard
	for hostname, answer := range answers {
		var calls []celery.ActiveCall
		if json.Unmarshal(answer, &calls) != nil {
			continue
		}
		w.workers.change(hostname, now, func(one *Worker) { one.Active, one.inspected = len(calls), now })
		for i := range calls {
			call := &calls[i]
			if call.StartedAt().IsZero() {
				continue
			}
			if known, is := w.Get(call.ID); is && (known.State.Ended() || known.State == Running && !known.StartedAt.IsZero()) {
				w.confirm(call.ID, now)
				continue
			}
			heard = append(heard, celery.Heard{
				Type: "task-started", Hostname: hostname, UUID: call.ID, Name: call.Name, Args: call.Args, Kwargs: call.Kwargs,
				Timestamp: call.TimeStart,
			})
		}
	}
	w.events(heard, now)
}
