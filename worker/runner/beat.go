package runner

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

const (
	// restoreInterval is how often due and abandoned messages are looked for;
	// a call with an eta starts this much late at most.
	restoreInterval = time.Second
	// afterOutage is how long every worker has to send heartbeats again.
	afterOutage = 3 * time.Second
	// announceAfter is how long a call runs before its result says STARTED: most
	// have ended by then, and cost one write less.
	announceAfter = 100 * time.Millisecond
)

// every calls f at an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}

// refresh is the heartbeat of everything that is not acknowledged.
func (r *Runner) refresh(ctx context.Context) {
	every(ctx, r.c.Lease/3, func() { r.refreshAll(ctx) })
}

func (r *Runner) refreshAll(ctx context.Context) {
	var tags []string
	for _, one := range r.snapshot() {
		tags = append(tags, one.Tag)
	}
	for len(tags) > 0 {
		batch := tags[:min(len(tags), 1000)]
		tags = tags[len(batch):]
		lost, err := r.consumer.Refresh(ctx, batch)
		r.broker.heard(err)
		if len(lost) > 0 && err == nil {
			r.c.Logger.Debug("others hold what runs here, or it has just ended", "tags", len(lost))
		}
	}
}

// restore puts back what is due, and what dead workers held. When Redis was away
// nobody could send heartbeats: then all send theirs first.
func (r *Runner) restore(ctx context.Context) {
	every(ctx, restoreInterval, func() {
		if !r.broker.steady() {
			r.refreshAll(ctx)
			return
		}
		restored, err := r.consumer.Restore(ctx, r.c.MaxCrashes)
		r.broker.heard(err)
		r.metrics.restored(restored)
		if restored.Overdue+restored.Dead > 0 {
			r.c.Logger.Warn("put back what other workers held when they ended", "messages", restored.Overdue, "deadLetters", restored.Dead)
		}
	})
}

// announce writes STARTED for calls that run for a while.
func (r *Runner) announce(ctx context.Context) {
	value := map[string]any{"hostname": r.c.Hostname}
	every(ctx, announceAfter, func() {
		now := time.Now()
		var deliveries []*celery.Delivery
		for _, one := range r.snapshot() {
			if !one.started && now.Sub(one.BeganAt) >= announceAfter && !one.settled.Load() {
				one.started = true
				deliveries = append(deliveries, one.Delivery)
			}
		}
		if len(deliveries) > 0 {
			r.broker.heard(r.consumer.Started(ctx, deliveries, value, now, r.resultTTL))
		}
	})
}

// health is whether the broker answers, said once each time it changes.
type health struct {
	logger *slog.Logger
	mu     sync.Mutex
	// asked is true after the first answer; failing is since when it does not.
	asked   bool
	failing time.Time
	heardAt time.Time // the last answer
	back    time.Time // when it answered again
	refused time.Time // when a refusal was logged last
	pause   time.Duration
}

const (
	shortestPause = 50 * time.Millisecond
	longestPause  = 2 * time.Second
	// maxSilence is how long an exchange may take until the broker counts as
	// away: something is asked each second.
	maxSilence = 10 * time.Second
	// complaintInterval is how often a refusal is logged, at most.
	complaintInterval = 10 * time.Second
)

// heard takes the error of an exchange, nil for none.
func (h *health) heard(err error) {
	if errors.Is(err, context.Canceled) {
		return // the worker ends
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case err == nil || celery.IsRefusal(err):
		if !h.failing.IsZero() {
			h.back = time.Now()
			h.logger.Info("Redis answers again", "after", time.Since(h.failing).Round(time.Millisecond).String())
		}
		h.asked, h.failing, h.pause, h.heardAt = true, time.Time{}, 0, time.Now()
	case h.failing.IsZero():
		h.failing = time.Now()
		h.logger.Warn("Redis does not answer; calls that run go on, and what ends is kept until it does", "error", err.Error())
	}
	if err != nil && celery.IsRefusal(err) && time.Since(h.refused) >= complaintInterval {
		h.refused = time.Now()
		h.logger.Error("Redis refuses what it was asked", "error", err.Error())
	}
}

// steady says whether the broker has answered for a while.
func (h *health) steady() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failing.IsZero() && time.Since(h.back) >= afterOutage
}

func (h *health) up() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked && h.failing.IsZero() && time.Since(h.heardAt) < maxSilence
}

// backoff is the next pause after a failure, with jitter.
func (h *health) backoff() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pause = min(max(2*h.pause, shortestPause), longestPause)
	return h.pause - random(h.pause/2)
}
