package limiter

import (
	"sync"
	"time"
)

// health is whether a backend's store decides, as far as is known.
type health struct {
	limiter *Limiter
	backend *backend

	mu      sync.Mutex
	checked bool
	// since the store does not decide; zero: it does.
	since time.Time
	// refusal is the last error that a server answered with since the last check.
	refusal error
}

// watch checks a backend's health now and at every interval, until its close.
func (l *Limiter) watch(b *backend) {
	b.calls.Go(func() {
		ticker := time.NewTicker(l.healthInterval)
		defer ticker.Stop()
		for {
			b.health.check()
			select {
			case <-b.ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
}

// check asks once.
func (h *health) check() {
	err := h.backend.ping(h.backend.ctx)
	h.mu.Lock()
	if err == nil {
		err = h.refusal
	}
	h.refusal = nil
	h.mu.Unlock()
	if err == nil {
		err = h.backend.broken()
	}
	switch {
	case h.backend.ctx.Err() != nil:
	case err != nil:
		h.down(err)
	default:
		h.up()
	}
}

// refused notes an error that a server answered a take with: some decisions are
// made without it until a check finds no further ones.
func (h *health) refused(why error) {
	h.mu.Lock()
	h.refusal = why
	h.mu.Unlock()
	h.down(why)
}

// down and up say what changed, once.
func (h *health) down(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.checked && !h.since.IsZero() {
		return
	}
	h.checked, h.since = true, time.Now()
	if h.publish() {
		h.limiter.log.Warn("Redis does not answer: policies do as their onStoreFailure says.", "error", why)
	}
}

func (h *health) up() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.checked && h.since.IsZero() {
		return
	}
	first, away := !h.checked, time.Since(h.since)
	h.checked, h.since = true, time.Time{}
	if h.publish() && !first {
		h.limiter.log.Info("Redis answers again.", "away", away.Round(time.Millisecond).String())
	}
}

// publish sets the gauges, unless the store is not the one in use. The caller
// holds h.mu.
func (h *health) publish() (inUse bool) {
	h.limiter.stateMu.Lock()
	defer h.limiter.stateMu.Unlock()
	if h.limiter.state != h {
		return false
	}
	h.limiter.metrics.away(h.since)
	h.limiter.since = h.since
	return true
}

// Away is since when the store in use does not decide; the zero time while it
// does, or while there is none.
func (l *Limiter) Away() time.Time {
	l.stateMu.Lock()
	defer l.stateMu.Unlock()
	return l.since
}
