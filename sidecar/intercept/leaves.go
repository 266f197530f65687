package intercept

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// maxLeaves bounds the names that leaves are kept for, the ones that are
	// refused included.
	maxLeaves = 256
	// maxAsking bounds the requests to the operator at one time.
	maxAsking = 8
	// issueTimeout bounds one of them.
	issueTimeout = 10 * time.Second
	// After a failure the operator is not asked for the name again before
	// firstBackoff, which doubles up to longestBackoff.
	firstBackoff   = time.Second
	longestBackoff = 30 * time.Second
	// leastRenewal bounds how often a leaf is renewed, however short its life.
	leastRenewal = time.Second
	// rotationSpread is how long all pods together take to renew their leaves
	// when the authorities have changed.
	rotationSpread = 10 * time.Second
	// logInterval is the least time between two lines that say the same.
	logInterval = time.Minute
)

// errUntrusted says that clients of this pod cannot verify the leaf.
var errUntrusted = errors.New("this pod's processes began before they could know who signed the leaf; replace the pod")

// leaves are the leaves by server name, each asked for by one goroutine at a time.
type leaves struct {
	issue func(context.Context, []byte) ([]byte, error)
	known *x509.CertPool // what the pod's processes know; nil: nothing
	log   *slog.Logger
	// answered is called after every answer, without mu.
	answered func()
	slots    chan struct{}
	spread   time.Duration
	ctx      context.Context // until close
	close    context.CancelFunc

	mu      sync.Mutex
	entries *lru[*entry]
	wanted  map[string]bool // kept without anybody asking
	logged  time.Time       // when a failure was
}

// entry is what is known of one name.
type entry struct {
	name string
	leaf *leaf
	// asking is closed when the answer that is waited for has come; nil when none is.
	asking chan struct{}
	// stale: asked before the authorities changed, so asked again.
	stale   bool
	used    bool // since the leaf came
	failure error
	backoff time.Duration
	retryAt time.Time
	timer   *time.Timer // for the next question, or nil
}

func newLeaves(issue func(context.Context, []byte) ([]byte, error), known *x509.CertPool, log *slog.Logger, answered func()) *leaves {
	l := &leaves{
		issue: issue, known: known, log: log, answered: answered,
		slots: make(chan struct{}, maxAsking), spread: rotationSpread, entries: newLRU[*entry](maxLeaves),
	}
	l.ctx, l.close = context.WithCancel(context.Background())
	return l
}

// get returns a leaf for the name that clients of this pod verify, errUntrusted
// when there is none, or why there is no leaf. It waits for the operator until
// ctx ends.
func (l *leaves) get(ctx context.Context, name string) (*leaf, error) {
	if l.known == nil {
		return nil, errUntrusted
	}
	l.mu.Lock()
	e, ok := l.entries.get(name)
	if !ok {
		e = l.add(name)
	}
	e.used = true
	if e.current() == nil && e.asking == nil && !time.Now().Before(e.retryAt) {
		l.ask(e)
	}
	leaf, asking, failure := e.current(), e.asking, e.failure
	l.mu.Unlock()
	switch {
	case leaf != nil:
		return leaf.orUntrusted()
	case asking == nil:
		return nil, failure
	}
	select {
	case <-asking:
	case <-ctx.Done():
		return nil, errors.Join(errors.New("waiting for the operator to sign a leaf"), ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if leaf := e.current(); leaf != nil {
		return leaf.orUntrusted()
	}
	return nil, e.failure
}

// current is the leaf while it is valid.
func (e *entry) current() *leaf {
	if e.leaf == nil || !time.Now().Before(e.leaf.expires) {
		return nil
	}
	return e.leaf
}

func (f *leaf) orUntrusted() (*leaf, error) {
	if !f.trusted {
		return nil, errUntrusted
	}
	return f, nil
}

// add adds a name; mu is held.
func (l *leaves) add(name string) *entry {
	e := &entry{name: name}
	if forgotten, full := l.entries.add(name, e); full {
		forgotten.stop()
	}
	return e
}

func (e *entry) stop() {
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
}

// ask asks the operator in the background; mu is held.
func (l *leaves) ask(e *entry) {
	e.stop()
	e.asking, e.stale = make(chan struct{}), false
	go func() {
		leaf, err := l.obtain(e.name)
		l.take(e, leaf, err)
	}()
}

func (l *leaves) obtain(name string) (*leaf, error) {
	ctx, cancel := context.WithTimeout(l.ctx, issueTimeout)
	defer cancel()
	select {
	case l.slots <- struct{}{}:
		defer func() { <-l.slots }()
		return l.request(ctx, name)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take takes the operator's answer, or the lack of one.
func (l *leaves) take(e *entry, leaf *leaf, err error) {
	l.mu.Lock()
	close(e.asking)
	e.asking, e.failure = nil, err
	if err == nil {
		e.leaf, e.used, e.backoff, e.retryAt = leaf, false, 0, time.Time{}
	} else {
		e.backoff = min(max(2*e.backoff, firstBackoff), longestBackoff)
		e.retryAt = time.Now().Add(e.backoff)
	}
	l.report(e.name, err)
	l.schedule(e)
	l.mu.Unlock()
	l.answered()
}

// report logs failures, one in logInterval of however many; mu is held.
func (l *leaves) report(name string, err error) {
	if err == nil || l.ctx.Err() != nil || time.Since(l.logged) < logInterval {
		return
	}
	l.logged = time.Now()
	l.log.Warn("no leaf from the operator: connections to the host pass uncounted once it has none", "host", name, "error", err)
}

// schedule sets the time of the next question, if there is to be one; mu is held.
func (l *leaves) schedule(e *entry) {
	if !l.holds(e) {
		return
	}
	switch {
	case e.stale:
		l.ask(e)
	case e.failure == nil:
		l.later(e, renewal(time.Until(e.leaf.expires), rand.Float64()))
	case l.wanted[e.name] || e.current() != nil:
		l.later(e, e.backoff+rand.N(e.backoff/4))
	}
}

// holds reports whether the name has not been forgotten meanwhile; mu is held.
func (l *leaves) holds(e *entry) bool {
	held, ok := l.entries.elements[e.name]
	return ok && held.Value.(*item[*entry]).value == e && l.ctx.Err() == nil
}

func (l *leaves) later(e *entry, delay time.Duration) {
	e.stop()
	e.timer = time.AfterFunc(delay, func() { l.due(e) })
}

// renewal is when a leaf is renewed that is valid for so long: at two thirds,
// or up to a tenth before, so that pods which began together spread.
func renewal(life time.Duration, random float64) time.Duration {
	return max(time.Duration(float64(life)*(2./3-random/10)), leastRenewal)
}

// due asks again, or forgets a name that nobody uses.
func (l *leaves) due(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.holds(e) || e.asking != nil:
	case !l.wanted[e.name] && !e.used:
		l.entries.remove(e.name)
	default:
		l.ask(e)
	}
}

// follow keeps the leaves that the table wants, forgets those of hosts that it
// does not name, and asks for everything anew when the authorities changed.
func (l *leaves) follow(t *table, rotated bool) {
	if l.known == nil {
		return // no leaf of this pod would verify
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wanted = map[string]bool{}
	for name, e := range l.entries.all() {
		if !t.names(name) {
			e.stop()
			l.entries.remove(name)
			continue
		}
		e.retryAt, e.backoff = time.Time{}, 0 // what was refused may be allowed now
		switch {
		case rotated && e.asking != nil:
			e.stale = true
		case rotated && e.leaf != nil && !e.leaf.trusted:
			l.ask(e)
		case rotated && e.leaf != nil:
			e.used = true // so it is not forgotten instead
			l.later(e, rand.N(l.spread))
		}
	}
	wanted := t.wanted()
	for _, name := range wanted[:min(len(wanted), maxLeaves)] {
		l.wanted[name] = true
		e, ok := l.entries.get(name)
		if !ok {
			e = l.add(name)
		}
		if e.current() == nil && e.asking == nil {
			l.ask(e)
		}
	}
}

// untrusted are the names whose leaf clients of this pod cannot verify.
func (l *leaves) untrusted() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var names []string
	for name, e := range l.entries.all() {
		if e.leaf != nil && !e.leaf.trusted {
			names = append(names, name)
		}
	}
	return names
}

// settle waits for the first answer for every name that is wanted.
func (l *leaves) settle(ctx context.Context) {
	for {
		asking := l.unanswered()
		if asking == nil {
			return
		}
		select {
		case <-asking:
		case <-ctx.Done():
			return
		}
	}
}

func (l *leaves) unanswered() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, e := range l.entries.all() {
		if l.wanted[name] && e.asking != nil && e.failure == nil {
			return e.asking
		}
	}
	return nil
}

// earliestExpiry is when the first of the leaves expires.
func (l *leaves) earliestExpiry() (earliest time.Time, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.entries.all() {
		if e.leaf != nil && (!ok || e.leaf.expires.Before(earliest)) {
			earliest, ok = e.leaf.expires, true
		}
	}
	return earliest, ok
}
