package intercept

import (
	"slices"
	"sync"
	"time"
)

const (
	// maxHistory bounds the hosts that are remembered.
	maxHistory = 1024
	// remembered is how long a host's connections pass after a refusal.
	remembered = 10 * time.Minute
	// maxStrikes in a row are a refusal: connections that clients gave up
	// after our answer without a word. One may be a client out of time, or one
	// that connects ahead and then has nothing to say.
	maxStrikes = 3
)

// history is what earlier connections to hosts have shown.
type history struct {
	mu    sync.Mutex
	hosts *lru[*past]
}

// past is what is known of one host.
type past struct {
	reason  Outcome // why its connections pass
	until   time.Time
	strikes int
	logged  []Outcome
}

func newHistory() *history { return &history{hosts: newLRU[*past](maxHistory)} }

// of returns what is known of the host, for changing it; mu is held.
func (h *history) of(host string) *past {
	r, ok := h.hosts.get(host)
	if !ok {
		r = &past{}
		h.hosts.add(host, r)
	}
	return r
}

// verdict is why connections to the host pass; empty when they do not.
func (h *history) verdict(host string) Outcome {
	h.mu.Lock()
	defer h.mu.Unlock()
	r, ok := h.hosts.get(host)
	if !ok || !time.Now().Before(r.until) {
		return ""
	}
	return r.reason
}

// remember lets connections to the host pass for a while.
func (h *history) remember(host string, reason Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(host).pass(reason)
}

func (r *past) pass(reason Outcome) {
	r.reason, r.until, r.strikes = reason, time.Now().Add(remembered), 0
}

// strike notes that a client gave up after our answer, and whether that makes
// it a refusal.
func (h *history) strike(host string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(host)
	r.strikes++
	if r.strikes < maxStrikes {
		return false
	}
	r.pass(Pinned)
	return true
}

// used notes that a client went on after our answer.
func (h *history) used(host string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r, ok := h.hosts.get(host); ok {
		r.strikes = 0
	}
}

// firstTime reports whether an outcome is one to log, and seen first for the host.
func (h *history) firstTime(host string, outcome Outcome) bool {
	if advice[outcome] == "" {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.of(host)
	if slices.Contains(r.logged, outcome) {
		return false
	}
	r.logged = append(r.logged, outcome)
	return true
}
