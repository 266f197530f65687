package proxy

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/tracing"
)

// claims are the takes of one request, each with the policy it is for.
type claims struct {
	policies []*policy
	takes    []limiter.Take
	// states is the memory of the last decision's quotas.
	states []limiter.Quota
	// decided is what each policy in mode Observe did, where that is recorded.
	decided []decision
	// withoutStore: the last decision is of this sidecar's shares.
	withoutStore bool
}

func (c *claims) reset() { c.policies, c.takes, c.decided = c.policies[:0], c.takes[:0], nil }

func (c *claims) add(namespace string, who caller, limits []ruleset.Limit, cost int64) {
	c.policies = append(c.policies, who.policy)
	c.takes = append(c.takes, limiter.Take{
		Namespace: namespace, Service: who.policy.Service, Identity: who.identity, Limits: limits, Cost: cost,
		Sharers: who.policy.sharers(),
	})
}

// plan is what a request's policies ask, before any store is asked.
type plan struct {
	// rejecting is a policy that refuses the request unnamed.
	rejecting *policy
	enforce   claims
	observe   claims
	// bypassed policies pass it uncounted; missed are policies in mode
	// Observe that would have refused it unnamed.
	bypassed, missed []*policy
}

// reset empties the plan and keeps its memory.
func (a *plan) reset() {
	a.rejecting = nil
	a.enforce.reset()
	a.observe.reset()
	a.bypassed, a.missed = a.bypassed[:0], a.missed[:0]
}

// sort puts the callers of one request where their policies' rules want them.
func (a *plan) sort(namespace string, callers []caller, cost int64) {
	a.reset()
	for _, who := range callers {
		p := who.policy
		if who.identity == "" && p.IfMissing != ruleset.IfMissingShared {
			switch {
			case p.IfMissing == ruleset.IfMissingBypass:
				a.bypassed = append(a.bypassed, p)
			case p.Observe:
				a.missed = append(a.missed, p)
			case a.rejecting == nil:
				a.rejecting = p
			}
			continue
		}
		limits := p.limitsFor(who.identity)
		switch {
		case len(limits) == 0:
			a.bypassed = append(a.bypassed, p)
		case p.Observe:
			a.observe.add(namespace, who, limits, cost)
		default:
			a.enforce.add(namespace, who, limits, cost)
		}
	}
}

// admission decides on one request after another, and keeps its memory. What it
// found last holds until the next one.
type admission struct {
	// table is what the rest was found in.
	table *table
	// policies that hold for the request.
	policies []*policy
	callers  []caller
	asked    plan
	// quotas of an admitted Inbound request, told to its client.
	quotas []quotaItem
	// refused is the memory of a refusal.
	refused refusal
	// span of the request; nil: not recorded.
	span *tracing.Span
}

// errGone: the client went away before there was an answer for it.
var errGone = errors.New("the client is gone")

// plan finds what the policies of a table ask of the request.
func (a *admission) plan(t *table, direction ruleset.Direction, r *request) {
	a.table = t
	a.policies = t.match(a.policies[:0], direction, r)
	a.callers = identify(a.callers[:0], a.policies, r)
	a.asked.sort(t.namespace, a.callers, 1)
}

// admit takes from every quota that the request meets, and waits for that where
// policies say so. It returns why the request is refused, nil when it is
// admitted; or errGone.
func (a *admission) admit(ctx context.Context, p *Proxy, direction ruleset.Direction, r *request, from client) (*refusal, error) {
	a.quotas, a.span = a.quotas[:0], nil
	a.plan(p.table.Load(), direction, r)
	if direction == ruleset.Outbound && r.method == http.MethodConnect {
		return a.admitTunnel(ctx, p, r, from)
	}
	return a.admitPlanned(ctx, p, direction, r, from)
}

// admitTunnel decides on a request for a tunnel, in which no request will be
// seen: the policies that name its host count that, or deny it.
func (a *admission) admitTunnel(ctx context.Context, p *Proxy, r *request, from client) (*refusal, error) {
	policies := a.table.outbound.byHost(nil, normalHost(r.host), r.names)
	if denied(policies) {
		return tunnelDenied(), nil
	}
	refused, err := a.admitPlanned(ctx, p, ruleset.Outbound, r, from)
	if refused == nil && err == nil {
		for _, policy := range policies {
			policy.unseen.Inc()
		}
	}
	return refused, err
}

func (a *admission) admitPlanned(ctx context.Context, p *Proxy, direction ruleset.Direction, r *request, from client) (*refusal, error) {
	if len(a.policies) == 0 {
		return nil, nil
	}
	if t := p.tracer.Load(); t != nil {
		a.trace(t, direction, r)
	}
	decision, outcome := a.decide(ctx, p, direction, r, from)
	refused, err := a.carryOut(ctx, p, direction, decision, outcome)
	if a.span != nil {
		a.record(decision, outcome)
	}
	return refused, err
}

// decide asks the store, if the request is not refused without.
func (a *admission) decide(ctx context.Context, p *Proxy, direction ruleset.Direction, r *request, from client) (limiter.Decision, outcome) {
	switch enforce := &a.asked.enforce; {
	case a.asked.rejecting != nil:
		return limiter.Decision{}, outcomeUnnamed
	case enforce.waits():
		return a.takeInTurn(ctx, p, direction, r, from)
	default:
		return p.take(ctx, enforce)
	}
}

// carryOut makes the refusal, or counts what is admitted where it was not yet.
func (a *admission) carryOut(ctx context.Context, p *Proxy, direction ruleset.Direction, d limiter.Decision, o outcome) (*refusal, error) {
	switch o {
	case outcomeUnnamed:
		a.asked.rejecting.count(rejected)
		return unnamed(a.asked.rejecting), nil
	case outcomeGone:
		return nil, errGone
	case outcomeUnavailable:
		return storeUnavailable(), nil
	case outcomeLimited:
		return a.refused.quotaExceeded(&a.asked.enforce, d), nil
	case outcomeAdmitted:
		if direction == ruleset.Inbound && len(a.asked.enforce.takes) > 0 {
			a.quotas = appendQuotaItems(a.quotas, &a.asked.enforce, d)
		}
	case outcomeUncounted, outcomeHeld:
	}
	if a.span != nil {
		a.asked.observe.decided = make([]decision, len(a.asked.observe.policies))
	}
	p.note(ctx, &a.asked, o)
	return nil, nil
}

// outcome of the takes of one request.
type outcome int

const (
	outcomeAdmitted outcome = iota
	outcomeLimited
	// outcomeUncounted: the store did not answer, and every policy allows that.
	outcomeUncounted
	// outcomeUnavailable: the store did not answer, and a policy denies then.
	outcomeUnavailable
	// outcomeGone: the client went away before the answer.
	outcomeGone
	// outcomeUnnamed: a policy refuses the request, which names no caller.
	outcomeUnnamed
	// outcomeHeld: not decided yet, the request waits.
	outcomeHeld
)

// take takes for policies that enforce, and counts what they decided.
func (p *Proxy) take(ctx context.Context, c *claims) (limiter.Decision, outcome) {
	d, o := p.ask(ctx, c)
	c.countLimited(d, o)
	return d, o
}

// ask takes, and counts what was decided unless the request is limited: it may
// ask again.
func (p *Proxy) ask(ctx context.Context, c *claims) (limiter.Decision, outcome) {
	if len(c.takes) == 0 {
		return limiter.Decision{Admitted: true}, outcomeAdmitted
	}
	d, err := p.taker.TakeInto(ctx, c.takes, c.states)
	if d.Quotas != nil {
		c.states = d.Quotas
	}
	if err != nil {
		d, o := p.withoutStore(ctx, c, err, func(takes []limiter.Take) (limiter.Decision, error) {
			return p.taker.TakeLocally(takes, c.states)
		})
		if d.Quotas != nil {
			c.states = d.Quotas
		}
		c.withoutStore = true
		if o == outcomeAdmitted {
			c.countLocal()
		}
		return d, o
	}
	c.withoutStore = false
	if !d.Admitted {
		return d, outcomeLimited
	}
	for i := range c.policies {
		c.count(i, admitted, d)
	}
	return d, outcomeAdmitted
}

// countLimited counts a request that is refused for good.
func (c *claims) countLimited(d limiter.Decision, o outcome) {
	if o != outcomeLimited {
		return
	}
	for i := range c.policies {
		if refusedBy(d, i) {
			c.count(i, limited, d)
		}
	}
}

// note counts at the policies that cannot refuse, once the request is
// admitted.
func (p *Proxy) note(ctx context.Context, asked *plan, o outcome) {
	for _, policy := range asked.bypassed {
		policy.count(bypassed)
	}
	for _, policy := range asked.missed {
		policy.count(observed)
	}
	if o == outcomeUncounted { // a store that has just not answered is not waited for again
		for i := range asked.observe.policies {
			asked.observe.observed(i, uncounted, limiter.Decision{}, true)
		}
		return
	}
	if len(asked.observe.policies) > 0 {
		p.observe(ctx, &asked.observe)
	}
}

// observe takes for policies in mode Observe. Each takes by itself: what one
// would have refused must not keep another from counting. All take at the same
// time, so that the request waits for the store no longer than for one.
func (p *Proxy) observe(ctx context.Context, c *claims) {
	var taking sync.WaitGroup
	for i := range c.policies {
		taking.Go(func() {
			d, err := p.taker.TakeInto(ctx, c.takes[i:i+1], nil)
			withoutStore := err != nil
			if err != nil && ctx.Err() == nil {
				p.reportStore(err)
				if c.policies[i].local() {
					d, err = p.taker.TakeLocally(c.takes[i:i+1], nil)
				}
			}
			switch {
			case err != nil:
				c.observed(i, uncounted, d, true)
			case d.Admitted:
				c.observed(i, admitted, d, withoutStore)
			default:
				c.observed(i, observed, d, withoutStore)
			}
		})
	}
	taking.Wait()
}

// observed counts what one of the policies in mode Observe did by a decision on
// its take alone.
func (c *claims) observed(i int, what decision, d limiter.Decision, withoutStore bool) {
	alone := claims{policies: c.policies[i : i+1], takes: c.takes[i : i+1], withoutStore: withoutStore}
	alone.count(0, what, d)
	if c.decided != nil {
		c.decided[i] = what
	}
}

// reportStore logs an error of the taker. That the store is away is the
// limiter's to report, once; anything else is a defect.
func (p *Proxy) reportStore(err error) {
	if errors.Is(err, limiter.ErrStore) {
		p.log.Debug("the store did not decide", "error", err)
		return
	}
	p.log.Error("taking failed: treated as a store that does not answer", "error", err)
}

// refusedBy reports whether a limit of the take refused.
func refusedBy(d limiter.Decision, take int) bool {
	for _, q := range d.Quotas {
		if q.Take == take && q.RetryAfter != 0 {
			return true
		}
	}
	return false
}
