package report

import (
	"hash/maphash"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// maxNew refusals of an interval are told, each of another caller.
	maxNew = 4
	// fewCallers are told with every report; more in one of so many, since they are
	// what costs Redis most: at once where none were told for so long.
	fewCallers  = 8
	callersEach = 5
)

// Options of a Recorder.
type Options struct {
	// Pod that is told of a refusal; empty: the host's name.
	Pod string
	// Logger; nil: slog.Default.
	Logger *slog.Logger
	// Registerer of the metrics; nil: they are not published.
	Registerer prometheus.Registerer
}

// Recorder counts what happens at policies, and sends it. Its methods may be
// called at the same time.
type Recorder struct {
	pod  string
	log  *slog.Logger
	sent map[bool]prometheus.Counter

	mu       sync.Mutex // guards the rest
	policies map[Policy]*Recording
	store    *ruleset.Store // to use from the next report on

	// Of whoever sends.
	connection *limiter.Connection
	inUse      *ruleset.Store
	failing    bool
	// stop ends the sending, and stopped says that it has; nil: it never began.
	stop, stopped chan struct{}
}

// New returns a Recorder that counts, and sends nothing before Start.
func New(options Options) *Recorder {
	if options.Logger == nil {
		options.Logger = slog.Default()
	}
	if options.Pod == "" {
		options.Pod, _ = os.Hostname()
	}
	reports := promauto.With(options.Registerer).NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_reports_total",
		Help: "Reports of what happened at policies, for the operator's page and API: sent, or dropped because Redis did not take them in time.",
	}, []string{"result"})
	return &Recorder{
		pod: options.Pod, log: options.Logger, policies: map[Policy]*Recording{},
		sent: map[bool]prometheus.Counter{true: reports.WithLabelValues("sent"), false: reports.WithLabelValues("dropped")},
	}
}

// Follow returns the Recordings of some services of a namespace, in their order.
// What was recorded of others is sent once more, and forgotten.
func (r *Recorder) Follow(namespace string, services []string) []*Recording {
	if r == nil {
		return make([]*Recording, len(services))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, recording := range r.policies {
		recording.gone = true
	}
	followed := make([]*Recording, len(services))
	for i, service := range services {
		policy := Policy{Namespace: namespace, Service: service}
		if r.policies[policy] == nil {
			r.policies[policy] = &Recording{policy: policy, now: &interval{callers: &sketch{}}, spare: &interval{callers: &sketch{}}, held: callersEach}
		}
		followed[i] = r.policies[policy]
		followed[i].gone = false
	}
	return followed
}

// taken are the intervals in which something happened. Recordings that are gone
// are forgotten.
func (r *Recorder) taken(last bool) map[*Recording]*interval {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := map[*Recording]*interval{}
	for policy, recording := range r.policies {
		if i := recording.take(last || recording.gone); i != nil {
			taken[recording] = i
		}
		if recording.gone {
			delete(r.policies, policy)
		}
	}
	return taken
}

// Use sends reports to another store from now on; nil: to none, and they are
// dropped. It waits for nothing.
func (r *Recorder) Use(store *ruleset.Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.store = store
}

// Recording is what happens at one policy. A nil one records nothing.
type Recording struct {
	policy Policy
	gone   bool // guarded by the Recorder's

	mu  sync.Mutex
	now *interval
	// spare is the next one, while the last is sent.
	spare *interval
	// held is for how many reports no callers were told.
	held int
}

// interval is what is sent together.
type interval struct {
	Counts
	callers  *sketch
	refusals [maxNew]refusal
	refused  int
}

// refusal is a Refusal whose name is copied, as a caller's.
type refusal struct {
	Refusal
	hash uint64
	name []byte
}

var seed = maphash.MakeSeed()

// Admitted counts a request that was admitted, at a cost in units.
func (r *Recording) Admitted(identity string, cost int64, withoutRedis bool) {
	if r == nil {
		return
	}
	hash := maphash.String(seed, identity)
	r.mu.Lock()
	r.now.Counts.Admitted++
	if withoutRedis {
		r.now.WithoutRedis++
	}
	r.now.callers.ask(hash, identity, cost)
	r.mu.Unlock()
}

// Limited counts a request that was refused, or would have been, and the limit's
// quota that says so.
func (r *Recording) Limited(identity string, cost int64, by limiter.Quota, observed, withoutRedis bool) {
	if r == nil {
		return
	}
	hash := maphash.String(seed, identity)
	r.mu.Lock()
	r.now.Counts.Limited++
	if withoutRedis {
		r.now.WithoutRedis++
	}
	r.now.callers.ask(hash, identity, cost).limited += cost
	if r.now.refused < maxNew {
		r.now.refuse(hash, identity, by, observed)
	}
	r.mu.Unlock()
}

// Undecided counts a request that passed or was refused uncounted, because Redis
// did not decide.
func (r *Recording) Undecided() {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.now.WithoutRedis++
	r.mu.Unlock()
}

// refuse keeps the first refusal of a caller.
func (i *interval) refuse(hash uint64, identity string, by limiter.Quota, observed bool) {
	for n := range i.refused {
		if i.refusals[n].hash == hash {
			return
		}
	}
	kept := &i.refusals[i.refused]
	i.refused++
	now := time.Now()
	*kept = refusal{hash: hash, name: append(kept.name[:0], identity...), Refusal: Refusal{
		Requests: by.Limit.Requests, Window: by.Limit.Window(), At: now, Observed: observed,
	}}
	if by.RetryAfter >= 0 {
		kept.Frees = now.Add(by.RetryAfter)
	}
}

// take takes what was counted, with the callers if they are few, or it is their
// turn, or there is no later one. It is to be given back when it is sent. Nil:
// nothing has happened.
func (r *Recording) take(last bool) *interval {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken, callers := r.now, len(r.now.callers.callers)
	hold := callers > fewCallers && r.held+1 < callersEach && !last
	if r.held++; callers > 0 && !hold {
		r.held = 0
	}
	if taken.Counts == (Counts{}) && (callers == 0 || hold) {
		return nil
	}
	r.now = r.spare
	if hold {
		taken.callers, r.now.callers = r.now.callers, taken.callers
	}
	return taken
}

// giveBack empties an interval, and keeps its memory.
func (r *Recording) giveBack(taken *interval) {
	taken.Counts, taken.refused = Counts{}, 0
	taken.callers.reset()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spare = taken
}
