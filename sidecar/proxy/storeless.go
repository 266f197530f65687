package proxy

import (
	"context"
	"math"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// local reports whether the policy goes on with this sidecar's share while the
// store does not answer.
func (p *policy) local() bool { return p.OnStoreFailure == ruleset.OnStoreFailureLocal }

// sharers are the sidecars that divide the policy's limits then; 0: none do. As
// many as can be, where that is not known: each has the least share.
func (p *policy) sharers() int64 {
	switch {
	case !p.local():
		return 0
	case p.Enforcers == 0:
		return math.MaxInt64
	}
	return p.Enforcers
}

// withoutStore is what onStoreFailure says, when the store did not decide on a
// request. One policy that denies is enough to refuse it; otherwise those with
// Local decide together from this sidecar's shares, as decide says, and those that
// allow let pass. It counts what no policy decides on any more.
func (p *Proxy) withoutStore(ctx context.Context, c *claims, err error, decide func([]limiter.Take) (limiter.Decision, error)) (limiter.Decision, outcome) {
	if ctx.Err() != nil {
		return limiter.Decision{}, outcomeGone
	}
	p.reportStore(err)
	if c.denied() {
		return limiter.Decision{}, outcomeUnavailable
	}
	takes, of := c.local()
	var d limiter.Decision
	if len(takes) > 0 {
		d, err = decide(takes)
		if err != nil {
			p.reportStore(err)
		}
	}
	if len(takes) == 0 || err != nil {
		for i := range c.policies {
			c.count(i, uncounted, d)
		}
		return limiter.Decision{}, outcomeUncounted
	}
	for i := range d.Quotas {
		d.Quotas[i].Take = of[d.Quotas[i].Take]
	}
	if !d.Admitted {
		return d, outcomeLimited
	}
	return d, outcomeAdmitted
}

// denied counts the request at the policies that refuse it without the store.
func (c *claims) denied() (denied bool) {
	for i, p := range c.policies {
		if p.OnStoreFailure == ruleset.OnStoreFailureDeny {
			c.count(i, unavailable, limiter.Decision{})
			denied = true
		}
	}
	return denied
}

// countLocal counts a request that is admitted without the store, where some
// policy decided on it.
func (c *claims) countLocal() {
	for i, p := range c.policies {
		if p.local() {
			c.count(i, admitted, limiter.Decision{})
		} else {
			c.count(i, uncounted, limiter.Decision{})
		}
	}
}

// local are the takes that this sidecar decides without the store, and which of
// the claims each is of.
func (c *claims) local() (takes []limiter.Take, of []int) {
	for i, p := range c.policies {
		if p.local() {
			takes, of = append(takes, c.takes[i]), append(of, i)
		}
	}
	return takes, of
}
