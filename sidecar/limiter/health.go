package limiter

import (
	"time"
)

// health is what the last check of a backend found.
type health struct {
	limiter *Limiter
	backend *backend
	checked bool
	up      bool
}

// watch checks a backend's health now and at every interval, until its close.
func (l *Limiter) watch(b *backend) {
	b.calls.Go(func() {
		ticker := time.NewTicker(l.healthInterval)
		defer ticker.Stop()
		for h := (health{limiter: l, backend: b}); ; {
			h.check()
			select {
			case <-b.ctx.Done():
				return
			case <-ticker.C:
			}
		}
	})
}

// check asks once and says what changed.
func (h *health) check() {
	err := h.backend.ping(h.backend.ctx)
	up := err == nil
	if !h.publish(up) || h.checked && up == h.up {
		return
	}
	first := !h.checked
	h.checked, h.up = true, up
	switch {
	case !up:
		h.limiter.log.Warn("Redis does not answer: policies do as their onStoreFailure says.", "error", err)
	case !first:
		h.limiter.log.Info("Redis answers again.")
	}
}

// publish sets the gauge, unless the store is no longer the one in use.
func (h *health) publish(up bool) (inUse bool) {
	h.limiter.mu.RLock()
	defer h.limiter.mu.RUnlock()
	if h.limiter.backend != h.backend {
		return false
	}
	value := 0.0
	if up {
		value = 1
	}
	h.limiter.metrics.up.Set(value)
	return true
}
