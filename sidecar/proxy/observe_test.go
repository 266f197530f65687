package proxy

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// gate is a Taker that answers takes only once so many of them wait at the
// same time: a store so slow that waiting for one after the other shows.
type gate struct {
	shareless
	mu      sync.Mutex
	missing int
	open    chan struct{}
	err     error
	asked   int
}

func (g *gate) TakeInto(ctx context.Context, _ []limiter.Take, _ []limiter.Quota) (limiter.Decision, error) {
	g.mu.Lock()
	g.asked++
	if g.missing--; g.missing == 0 {
		close(g.open)
	}
	g.mu.Unlock()
	select {
	case <-g.open:
		return limiter.Decision{Admitted: g.err == nil}, g.err
	case <-ctx.Done():
		return limiter.Decision{}, ctx.Err()
	}
}

func (g *gate) Remaining(ctx context.Context, takes []limiter.Take) (limiter.Decision, error) {
	return g.TakeInto(ctx, takes, nil)
}

// before puts a proxy with this Taker in front of an application.
func (g *gate) before(t *testing.T, policies ...ruleset.Policy) *house {
	g.open = make(chan struct{})
	return before(t, g, policies...)
}

// before puts a proxy with a Taker in front of an application.
func before(t *testing.T, taker Taker, policies ...ruleset.Policy) *house {
	h := &house{t: t, upstream: addrPort(application(t, seen)), registry: prometheus.NewRegistry()}
	h.proxy = New(Config{
		Taker: taker, Registerer: h.registry,
		Destination: func(net.Conn) (netip.AddrPort, error) { return h.upstream, nil },
	})
	h.apply(policies...)
	h.addr = h.listen(ruleset.Inbound)
	return h
}

func TestObservingPoliciesDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	var policies []ruleset.Policy
	for i := range 5 {
		policies = append(policies, basic("p"+strconv.Itoa(i), inbound(func(p *ruleset.Policy) { p.Observe = true })))
	}
	h := (&gate{missing: len(policies)}).before(t, policies...)
	do(t, h.client(http1), ask(t, http.MethodGet, "http://app/", nil)) // or the client's patience ends
	for _, p := range policies {
		h.wantCount(1, requests, p.Name, "admitted")
	}
}

func TestStoreThatDidNotAnswerIsNotAskedAgainForARequest(t *testing.T) {
	t.Parallel()
	store := &gate{missing: 1, err: limiter.ErrStore}
	h := store.before(t, basic("enforce", inbound(nil)), basic("observe", inbound(func(p *ruleset.Policy) { p.Observe = true })))
	do(t, h.client(http1), ask(t, http.MethodGet, "http://app/", nil))
	store.mu.Lock()
	asked := store.asked
	store.mu.Unlock()
	if asked != 1 {
		t.Errorf("the store was asked %d times, want once", asked)
	}
	h.wantCount(1, requests, "enforce", "uncounted")
	h.wantCount(1, requests, "observe", "uncounted")
}
