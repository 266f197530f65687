package limiter

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// health is what the last check of a backend found.
type health struct {
	limiter *Limiter
	backend *backend
	checked bool
	up      bool
	warned  bool // of evictions
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
		return
	case !first:
		h.limiter.log.Info("Redis answers again.")
	}
	h.warnOfEviction()
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

// warnOfEviction says once that the store forgets what it must remember. A
// server that does not tell its settings, as many managed ones, is believed.
func (h *health) warnOfEviction() {
	if h.warned {
		return
	}
	ctx, cancel := context.WithTimeout(h.backend.ctx, h.backend.store.Timeout())
	defer cancel()
	var mu sync.Mutex
	var policy string
	_ = h.backend.each(ctx, func(ctx context.Context, node *redis.Client) error {
		answer, err := node.ConfigGet(ctx, "maxmemory-policy").Result()
		if found := answer["maxmemory-policy"]; err == nil && found != "" && found != "noeviction" {
			mu.Lock()
			defer mu.Unlock()
			policy = found
		}
		return nil
	})
	if policy != "" {
		h.warned = true
		h.limiter.log.Warn("Redis evicts keys when its memory is full, and with them counts of admitted requests: "+
			"limits are then exceeded. Give Weir a Redis of its own with maxmemory-policy noeviction.",
			"maxmemory-policy", policy)
	}
}
