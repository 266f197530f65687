package proxy

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// maxHeld bounds the requests that a sidecar holds, of all callers together:
// over HTTP/1.1 each keeps the buffer with its head and has a goroutine watch
// its client, 27 KiB beside what a connection costs (measured), of the 128 MiB
// that a sidecar has.
const maxHeld = 1024

// lines are the requests that wait for a slot: one line for each service and
// caller, in the order of their arrival. A request stands in one line at most,
// whatever the number of policies that it meets, so none holds up another that
// it does not share a caller with, and no two can wait for each other.
type lines struct {
	// held counts the requests in all lines. Who finds it 0 need not look.
	held atomic.Int64

	mu sync.Mutex // guards the rest, and what it says of lines and waiters
	of map[lineKey]*line
}

// lineKey says whose quota a line waits for.
type lineKey struct{ service, identity string }

// line is never empty.
type line struct {
	key lineKey
	// waiters by arrival. Only the first may take.
	waiters []*waiter
}

// waiter is one request that waits.
type waiter struct {
	arrived time.Time
	// turn receives when the waiter should look again: it is the first now, or
	// the rules have changed.
	turn chan struct{}
	// in is its line, nil before it has one; lines.mu guards it.
	in *line
	// policy is the one whose line it has stood in last.
	policy *policy
}

func newWaiter(arrived time.Time) *waiter {
	return &waiter{arrived: arrived, turn: make(chan struct{}, 1)}
}

// wake has the waiter look again.
func (w *waiter) wake() {
	select {
	case w.turn <- struct{}{}:
	default: // it will
	}
}

// waited reports whether anybody waits for a quota that the claims would take
// from: who comes now must not be served before.
func (l *lines) waited(c *claims) bool {
	if l.held.Load() == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, p := range c.policies {
		if p.Wait != nil && l.of[c.lineKey(i)] != nil {
			return true
		}
	}
	return false
}

// lineKey is that of the line for a claim. Its identity may be a part of the
// request's buffer.
func (c *claims) lineKey(i int) lineKey { return lineKey{c.policies[i].Service, c.takes[i].Identity} }

// queue looks whether one that arrived before w waits for a quota that w would
// take from too. If so, w stands in that line afterwards, and the index is that
// of its claim; otherwise it is -1 and it is w's turn. A bound that keeps w out
// of the line is not empty.
func (l *lines) queue(w *waiter, c *claims) (claim int, full bound) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.in != nil && !c.meets(w.in.key) { // an edit has renamed the caller
		l.remove(w)
	}
	for i, p := range c.policies {
		if p.Wait == nil {
			continue
		}
		line := l.of[c.lineKey(i)]
		if line == nil || line.waiters[0] == w || line.waiters[0].arrived.After(w.arrived) {
			continue
		}
		return i, l.put(w, c, i)
	}
	return -1, ""
}

// meets reports whether a claim that may wait has the key.
func (c *claims) meets(key lineKey) bool {
	for i, p := range c.policies {
		if p.Wait != nil && c.lineKey(i) == key {
			return true
		}
	}
	return false
}

// join has w stand in the line of a claim that refused it.
func (l *lines) join(w *waiter, c *claims, claim int) bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.put(w, c, claim)
}

// bound says which number of waiting requests is reached; none: empty.
type bound string

const (
	boundPolicy  bound = "policy"  // maxWaiting of one caller
	boundSidecar bound = "sidecar" // maxHeld
)

// put moves w to the line of a claim, by its arrival.
func (l *lines) put(w *waiter, c *claims, claim int) bound {
	p, key := c.policies[claim], c.lineKey(claim)
	if w.in != nil && w.in.key == key {
		return ""
	}
	to := l.of[key]
	switch {
	case to != nil && int64(len(to.waiters)) >= p.Wait.MaxWaiting:
		return boundPolicy
	case w.in == nil && l.held.Load() >= maxHeld:
		return boundSidecar
	}
	l.remove(w)
	if to == nil {
		key.identity = strings.Clone(key.identity) // outlives the request's buffer
		to = &line{key: key}
		if l.of == nil {
			l.of = map[lineKey]*line{}
		}
		l.of[key] = to
	}
	at := len(to.waiters)
	for at > 0 && to.waiters[at-1].arrived.After(w.arrived) {
		at--
	}
	to.waiters = slices.Insert(to.waiters, at, w)
	w.in, w.policy = to, p
	l.held.Add(1)
	p.waiting.Inc()
	return ""
}

// leave takes w out of its line, if it is in one.
func (l *lines) leave(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(w)
}

// remove takes w out of its line. If it was the first, the next is.
func (l *lines) remove(w *waiter) {
	from := w.in
	if from == nil {
		return
	}
	w.in = nil
	l.held.Add(-1)
	w.policy.waiting.Dec()
	at := slices.Index(from.waiters, w)
	from.waiters = slices.Delete(from.waiters, at, at+1)
	switch {
	case len(from.waiters) == 0:
		delete(l.of, from.key)
	case at == 0:
		from.waiters[0].wake()
	}
}

// dissolve has everybody in w's line try at once, each for itself.
func (l *lines) dissolve(w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.in == nil {
		return
	}
	for _, other := range slices.Clone(w.in.waiters) {
		l.remove(other)
		other.wake()
	}
}

// wake has everybody look again.
func (l *lines) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, line := range l.of {
		for _, w := range line.waiters {
			w.wake()
		}
	}
}
