package proxy

import (
	"context"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// client is whom a request came from.
type client interface {
	// watch returns a context that ends with ctx, and when nobody needs the
	// request to wait any longer. stop ends the watching, and must be called.
	watch(ctx context.Context) (watched context.Context, stop func())
}

// askAgain is after how long the first of a line asks for its slot again, where
// that is foretold for later: sidecars give back what they leased of larger
// limits and did not use. Of smaller ones the limiter remembers the refusal.
const askAgain = time.Second

// waits reports whether any of the policies holds requests that exceed its
// limit.
func (c *claims) waits() bool {
	for _, p := range c.policies {
		if p.Wait != nil {
			return true
		}
	}
	return false
}

// worthHolding reports whether a request that was refused so, and arrived then, is to
// wait: every policy that refused holds requests, and will still do so when
// the slot is free. Otherwise the wait would be in vain.
func (c *claims) worthHolding(d limiter.Decision, arrived time.Time) bool {
	slot := time.Now().Add(d.RetryAfter)
	held := false
	for i, p := range c.policies {
		switch {
		case !refusedBy(d, i):
		case p.Wait == nil || slot.After(arrived.Add(p.Wait.MaxWait())):
			return false
		default:
			held = true
		}
	}
	return held && d.RetryAfter >= 0
}

// slowest is the claim whose quota refused for longest.
func (c *claims) slowest(d limiter.Decision) int {
	slowest, longest := 0, time.Duration(-1)
	for i := range c.takes {
		if q, ok := tightest(d, i); ok && q.RetryAfter > longest {
			slowest, longest = i, q.RetryAfter
		}
	}
	return slowest
}

// nextIn says of a slot that is free that it belongs to those before: of the
// claim's quota more becomes free as the decision tells then.
func (c *claims) nextIn(d *limiter.Decision, claim int) {
	d.Admitted = false
	at, _ := tightest(*d, claim)
	d.RetryAfter = max(at.Reset, time.Millisecond)
	for i := range d.Quotas {
		if q := &d.Quotas[i]; *q == at {
			q.RetryAfter = d.RetryAfter
		}
	}
}

// takeInTurn takes as Proxy.take does, where policies wait: not before those
// who arrived earlier, and when refused, again as soon as there is a slot. An
// edit of the policies meanwhile makes the admission's plan anew.
func (a *admission) takeInTurn(ctx context.Context, p *Proxy, direction ruleset.Direction, r *request, from client) (limiter.Decision, outcome) {
	arrived := time.Now()
	c := &a.asked.enforce
	var refused limiter.Decision
	if !p.lines.waited(c) {
		d, o := p.ask(ctx, c)
		if o != outcomeLimited || !c.worthHolding(d, arrived) {
			c.countLimited(d, o)
			return d, o
		}
		refused = d
	}
	h := hold{p: p, a: a, from: from, w: newWaiter(arrived)}
	d, o := h.wait(ctx, direction, r, refused)
	p.lines.leave(h.w)
	h.report(o)
	a.asked.enforce.countLimited(d, o)
	return d, o
}

// hold is a request that waits.
type hold struct {
	p    *Proxy
	a    *admission
	from client
	w    *waiter
	// claim whose line it stands in.
	claim int
	// watched ends when nobody waits for the answer; nil before it has slept.
	watched context.Context
	// cancelled: it has ended.
	cancelled bool
}

// wait returns what was decided in the end. refused is the denial that begins
// it; it has no quotas when others waited already.
func (h *hold) wait(ctx context.Context, direction ruleset.Direction, r *request, refused limiter.Decision) (limiter.Decision, outcome) {
	var at step
	if len(refused.Quotas) > 0 {
		at = h.refused(refused)
	} else {
		at = h.turn(ctx)
	}
	if at.outcome != outcomeHeld {
		return at.decision, at.outcome
	}
	var stop func()
	h.watched, stop = h.from.watch(ctx)
	defer stop()
	for at.outcome == outcomeHeld {
		h.sleep(at.until)
		switch {
		case ctx.Err() != nil:
			return limiter.Decision{}, outcomeGone
		case h.cancelled: // yet the client may read its answer
			at = h.unserved(ctx)
			return at.decision, at.outcome
		}
		if t := h.p.table.Load(); t != h.a.table {
			h.a.plan(t, direction, r)
			if h.a.asked.rejecting != nil {
				return limiter.Decision{}, outcomeUnnamed
			}
		}
		at = h.turn(ctx)
	}
	return at.decision, at.outcome
}

// step is where a waiting request has come: outcomeHeld, and when to look
// again, or its decision.
type step struct {
	decision limiter.Decision
	outcome  outcome
	until    time.Time
}

// turn takes, if nobody is before the request.
func (h *hold) turn(ctx context.Context) step {
	c := &h.a.asked.enforce
	before, full := h.p.lines.queue(h.w, c)
	if before >= 0 {
		h.claim = before
		if full == "" {
			return h.behind(ctx)
		}
		c.policies[before].overflows[full].Inc()
		return h.unserved(ctx)
	}
	d, o := h.p.ask(ctx, c)
	switch o {
	case outcomeLimited:
		return h.refused(d)
	case outcomeUncounted, outcomeUnavailable:
		// Each would wait for the store's timeout after the one before it.
		h.p.lines.dissolve(h.w)
	}
	return step{decision: d, outcome: o}
}

// refused has the request wait for the slot that a denial tells, if that is not
// in vain: first in the line that takes longest, or by its arrival.
func (h *hold) refused(d limiter.Decision) step {
	c := &h.a.asked.enforce
	if !c.worthHolding(d, h.w.arrived) {
		return step{decision: d, outcome: outcomeLimited}
	}
	h.claim = c.slowest(d)
	if full := h.p.lines.join(h.w, c, h.claim); full != "" {
		c.policies[h.claim].overflows[full].Inc()
		return step{decision: d, outcome: outcomeLimited}
	}
	// Another sidecar may have the slot by then.
	return step{outcome: outcomeHeld, until: time.Now().Add(min(max(d.RetryAfter, time.Millisecond), askAgain))}
}

// behind has the request wait for those before it, if that is not in vain.
func (h *hold) behind(ctx context.Context) step {
	c := &h.a.asked.enforce
	d, o := h.p.peek(ctx, c)
	until := h.w.arrived.Add(c.policies[h.claim].Wait.MaxWait())
	early := time.Now().Before(until)
	switch {
	case early && (o == outcomeAdmitted || o == outcomeLimited && c.worthHolding(d, h.w.arrived)):
		return step{outcome: outcomeHeld, until: until}
	case o == outcomeAdmitted:
		c.nextIn(&d, h.claim)
		o = outcomeLimited
	}
	return step{decision: d, outcome: o}
}

// unserved refuses the request, which waits no longer, with what is true now.
func (h *hold) unserved(ctx context.Context) step {
	d, o := h.p.peek(ctx, &h.a.asked.enforce)
	if o == outcomeAdmitted {
		h.a.asked.enforce.nextIn(&d, h.claim)
		o = outcomeLimited
	}
	return step{decision: d, outcome: o}
}

// sleep returns at the time, and earlier when there is something to look at.
func (h *hold) sleep(until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	if h.p.table.Load() == h.a.table { // or the edit came before the waiter was in line to hear of it
		select {
		case <-h.watched.Done():
		case <-h.w.turn:
		case <-timer.C:
		}
	}
	h.cancelled = h.watched.Err() != nil
}

// report counts a wait that has ended.
func (h *hold) report(o outcome) {
	if h.watched == nil {
		return // there was no place for it, or no hope
	}
	ending := endedRefused
	switch {
	case h.cancelled, o == outcomeGone:
		ending = endedCancelled
	case o == outcomeAdmitted || o == outcomeUncounted:
		ending = endedForwarded
	}
	h.w.policy.waits[ending].Observe(time.Since(h.w.arrived).Seconds())
	h.a.recordWait(h.w, ending)
}

// peek says what ask would, and neither takes nor counts.
func (p *Proxy) peek(ctx context.Context, c *claims) (limiter.Decision, outcome) {
	if len(c.takes) == 0 {
		return limiter.Decision{Admitted: true}, outcomeAdmitted
	}
	d, err := p.taker.Remaining(ctx, c.takes)
	switch {
	case err != nil:
		return p.withoutStore(ctx, c, err, p.taker.RemainingLocally)
	case d.Admitted:
		return d, outcomeAdmitted
	}
	return d, outcomeLimited
}
