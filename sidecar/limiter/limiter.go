package limiter

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9/logging"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// ErrStore is wrapped by every error of Take and Remaining that means "Redis
// did not decide within the store timeout", or was not asked, because it did not
// decide before. The caller then does what the policy's onStoreFailure says:
// TakeLocally is for Local.
var ErrStore = errors.New("the store did not decide")

// Take asks for Cost units of one identity's quota of a service. All its
// limits must admit.
type Take struct {
	Namespace string
	Service   string
	// Identity is the caller's name, at most MaxIdentityBytes; empty for all
	// unnamed callers together.
	Identity string
	// Limits with distinct windows, at least one.
	Limits []ruleset.Limit
	// Cost in units, at most MaxCost; 0 means 1.
	Cost int64
	// Sharers are the sidecars, this one included, that divide the limits among
	// themselves while Redis does not decide. 0: the take is not remembered for
	// that; see TakeLocally.
	Sharers int64
}

// Decision answers some takes together: all were admitted, or none was.
type Decision struct {
	Admitted bool
	// RetryAfter is 0 when admitted. Otherwise it is when the same takes would
	// be admitted, if nobody else took meanwhile: not a microsecond earlier.
	// Negative when they never would (a cost above a limit).
	RetryAfter time.Duration
	// Quotas has one entry for each limit of each take, in their order.
	Quotas []Quota
	// Remembered: this process decided by itself, from a lease or as a refusal
	// that still holds. Redis was not asked.
	Remembered bool
}

// Quota is the state of one limit of one take after the decision.
type Quota struct {
	// Take is the index of the take.
	Take  int
	Limit ruleset.Limit
	// Remaining units that could be taken now.
	Remaining int64
	// Reset is the time until Remaining grows; 0 when nothing is taken.
	Reset time.Duration
	// RetryAfter is the time until this limit alone would admit the take; 0
	// when it admits now, negative when it never would.
	RetryAfter time.Duration
}

// Options of a Limiter.
type Options struct {
	// Logger receives what an operator would act on; nil: slog.Default().
	Logger *slog.Logger
	// Registerer of the metrics; nil: they are not published.
	Registerer prometheus.Registerer
	// Audit records every admission; nil: none is recorded. It must outlive the
	// Limiter.
	Audit *audit.Log
}

// Limiter decides takes in the store that Use named last. Its methods may be
// called at the same time.
type Limiter struct {
	log     *slog.Logger
	metrics *metrics
	// clock is nil: Redis has the time. Tests of the script's arithmetic give
	// their own, in microseconds.
	clock func() int64
	// nanos is nil but in such tests: the time of the memory.
	nanos func() int64
	// healthInterval is the time between two health checks.
	healthInterval time.Duration
	// sweepInterval is how often leases that have ended are given back.
	sweepInterval time.Duration

	// using lets one Use after the other choose.
	using   sync.Mutex
	mu      sync.RWMutex
	backend *backend       // nil: no store
	closing sync.WaitGroup // backends that are not closed yet

	// ledger is what this process admitted lately, in whichever store.
	ledger *ledger
	// audit is nil where nothing is recorded.
	audit *audit.Log

	stateMu sync.Mutex
	state   *health   // of the backend in use; nil: none
	since   time.Time // see Away
}

// New returns a Limiter without a store: Use names one. It silences the Redis
// client's own log in this process, which prints addresses; the Limiter logs
// and returns what that would have said.
func New(opts Options) *Limiter {
	logging.Disable()
	log := opts.Logger
	if log == nil {
		log = slog.Default()
	}
	return &Limiter{
		log: log, metrics: newMetrics(opts.Registerer), healthInterval: 5 * time.Second, sweepInterval: time.Second,
		ledger: newLedger(), audit: opts.Audit,
	}
}

// Use decides from now on in another store; nil: in none. It does not wait for
// the first store to answer. When the store in use is replaced, the new one has
// its timeout to answer before, so that no call pays for its first connection.
// Calls under way end in the old one, whose connections are closed after the
// last of them. An equal store changes nothing. A store that cannot be used is
// an error that says which field is wrong, and the old one stays.
func (l *Limiter) Use(store *ruleset.Store) error {
	l.using.Lock()
	defer l.using.Unlock()
	old := l.inUse()
	if store == nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.swap(nil)
		return nil
	}
	if old != nil && old.store == *store {
		return nil
	}
	b, err := newBackend(*store, l.micros, l.ledger, l.audit)
	if err != nil {
		return err
	}
	b.health = &health{limiter: l, backend: b}
	if store.InsecureSkipVerify {
		l.log.Warn("The Redis server's certificate is not verified: anyone on the way can read and answer. " +
			"Give the store a caBundle instead of insecureSkipVerify.")
	}
	if l.nanos != nil {
		l.ledger.now, b.memory.now = l.nanos, l.nanos
	}
	if old != nil {
		_ = b.ping(b.ctx) // one that does not answer is used all the same: it is what the operator says
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.swap(b)
	l.watch(b)
	b.calls.Go(func() { b.sweepMemory(l.sweepInterval) })
	return nil
}

func (l *Limiter) inUse() *backend {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.backend
}

// micros is the time that the script is told; 0: none.
func (l *Limiter) micros() int64 {
	if l.clock == nil {
		return 0
	}
	return l.clock()
}

// swap replaces the backend; the caller holds l.mu, so no call starts in the
// old one afterwards.
func (l *Limiter) swap(b *backend) {
	if old := l.backend; old != nil {
		old.stop()
		l.closing.Go(old.close)
	}
	l.backend = b
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	if l.state = nil; b != nil {
		l.state = b.health
	} else {
		l.metrics.up.Set(0)
	}
	l.since = time.Time{}
	l.metrics.since.Set(0)
}

// Close ends the use of the store and returns when every call has ended and
// every connection is closed. Take returns ErrStore afterwards.
func (l *Limiter) Close() {
	l.using.Lock()
	defer l.using.Unlock()
	l.mu.Lock()
	l.swap(nil)
	l.mu.Unlock()
	l.closing.Wait()
}

// acquire returns the backend of a call, to be released with calls.Done.
func (l *Limiter) acquire() *backend {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.backend != nil {
		l.backend.calls.Add(1)
	}
	return l.backend
}

// Take takes all the costs, or nothing. Its error wraps ErrStore when the store
// did not decide within its timeout; it wraps context.Canceled when the caller
// gave up, and neither when a take is wrong: it has no limit, a limit below 1
// request or 1 ms, two limits of one window, a negative cost or one above
// MaxCost, a name that makes no key, or the identity of another take of the
// same call. No takes are admitted.
func (l *Limiter) Take(ctx context.Context, takes []Take) (Decision, error) {
	return l.TakeInto(ctx, takes, nil)
}

// TakeInto is Take that writes the Decision's Quotas into the memory of a slice,
// if it is large enough.
func (l *Limiter) TakeInto(ctx context.Context, takes []Take, quotas []Quota) (Decision, error) {
	b := l.acquire()
	if b != nil {
		defer b.calls.Done()
		if decision, ok := b.memory.answer(takes, quotas); ok {
			l.metrics.remember(decision.Admitted)
			decision.Remembered = true
			if decision.Admitted {
				b.memory.recorder.flush()
			}
			return decision, nil
		}
	}
	c, err := newCall(ctx, takes)
	if err != nil || len(takes) == 0 {
		return Decision{Admitted: err == nil}, err
	}
	if b != nil {
		if err := b.away(c.quotas); err != nil {
			l.metrics.failures.Inc()
			return Decision{}, err
		}
	}
	c.decision.Quotas = quotas
	start := time.Now()
	decision, err := c.decide(b, start, (*call).take)
	l.metrics.observe(time.Since(start), decision.Admitted, err)
	if decision.Admitted {
		b.memory.recorder.flush()
	}
	return decision, err
}

// Remaining says what Take would answer, and takes nothing: Admitted is whether
// the takes would be admitted now. Its errors are Take's.
func (l *Limiter) Remaining(ctx context.Context, takes []Take) (Decision, error) {
	c, err := newCall(ctx, takes)
	if err != nil || len(takes) == 0 {
		return Decision{Admitted: err == nil}, err
	}
	b := l.acquire()
	if b != nil {
		defer b.calls.Done()
		if err := b.away(c.quotas); err != nil {
			l.metrics.failures.Inc()
			return Decision{}, err
		}
	}
	decision, err := c.decide(b, time.Now(), (*call).peek)
	if errors.Is(err, ErrStore) {
		l.metrics.failures.Inc()
	}
	return decision, err
}

// within has f ask the store in use, whose timeout bounds ctx.
func (l *Limiter) within(ctx context.Context, f func(context.Context, *backend) error) error {
	b := l.acquire()
	if b == nil {
		return errNoStore
	}
	defer b.calls.Done()
	ctx, cancel := context.WithTimeout(ctx, b.store.Timeout())
	defer cancel()
	return f(ctx, b)
}

// Ping returns nil when the store (each master of a Redis Cluster) answers
// within its timeout. Its error wraps ErrStore.
func (l *Limiter) Ping(ctx context.Context) error {
	b := l.acquire()
	if b == nil {
		return errNoStore
	}
	defer b.calls.Done()
	return b.ping(ctx)
}

// decide asks the store of a backend, which is nil when there is none, from now on.
func (c *call) decide(b *backend, now time.Time, verb func(*call) (Decision, error)) (Decision, error) {
	if b == nil {
		return Decision{}, errNoStore
	}
	c.to(b, now.Add(b.store.Timeout()))
	decision, err := verb(c)
	if err != nil {
		return Decision{}, b.Explain(err)
	}
	return decision, nil
}
