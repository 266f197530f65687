package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	waitSeconds = "weir_sidecar_wait_seconds"
	overflows   = "weir_sidecar_wait_overflows_total"
	minute      = 60_000 // milliseconds
)

// holding is an Inbound policy that holds requests beyond some a window.
func holding(name string, requests, windowMillis int64, change func(*ruleset.Policy)) ruleset.Policy {
	return basic(name, inbound(func(p *ruleset.Policy) {
		p.Limits = []ruleset.Limit{{Requests: requests, WindowMillis: windowMillis}}
		p.Wait = &ruleset.Wait{MaxWaitMillis: 5 * minute, MaxWaiting: 100}
		if change != nil {
			change(p)
		}
	}))
}

// waiting is the gauge of requests that wait, of all policies.
func (h *house) waiting() float64 {
	return h.sum("weir_sidecar_waiting_requests", func(m *dto.Metric) float64 { return m.GetGauge().GetValue() })
}

// sum adds up what of a metric's series have these label values.
func (h *house) sum(name string, value func(*dto.Metric) float64, labels ...string) float64 {
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	var sum float64
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && hasLabels(m, labels) {
				sum += value(m)
			}
		}
	}
	return sum
}

// wantWaits compares how many waits ended so.
func (h *house) wantWaits(want float64, ending string) {
	h.t.Helper()
	got := h.sum(waitSeconds, func(m *dto.Metric) float64 { return float64(m.GetHistogram().GetSampleCount()) }, ending)
	if got != want {
		h.t.Errorf("%v waits were %s, want %v", got, ending, want)
	}
}

// awaitWaiting waits until so many requests do.
func (h *house) awaitWaiting(n float64) {
	h.t.Helper()
	eventually(h.t, strconv.FormatFloat(n, 'f', 0, 64)+" requests wait", func() bool { return h.waiting() == n })
}

// answer to a request that somebody sent.
type answered struct {
	who    string
	status int
	header http.Header
	body   string
}

// crowd sends requests that wait, and receives their answers.
type crowd struct {
	*house
	client  *http.Client
	answers chan answered
}

func (h *house) crowd(protocols func(*http.Protocols)) *crowd {
	return &crowd{house: h, client: h.client(protocols), answers: make(chan answered, 1000)}
}

// send sends a request of a caller; who sent it is told with its answer.
func (c *crowd) send(who, caller string) {
	r := ask(c.t, http.MethodGet, "http://app/"+who, nil, "X-User-ID", caller)
	go func() {
		response, err := c.client.Do(r)
		if err != nil {
			c.answers <- answered{who: who, body: err.Error()}
			return
		}
		defer func() { _ = response.Body.Close() }()
		body, _ := io.ReadAll(response.Body)
		c.answers <- answered{who: who, status: response.StatusCode, header: response.Header, body: string(body)}
	}()
}

// line has requests of a caller wait one after the other, after the first took
// the only slot.
func (c *crowd) line(caller string, whos ...string) {
	c.t.Helper()
	c.send("first", caller)
	c.want("first", http.StatusOK)
	for i, who := range whos {
		c.send(who, caller)
		c.awaitWaiting(float64(i + 1))
	}
}

// want is the next answer, and its status.
func (c *crowd) want(who string, status int) answered {
	c.t.Helper()
	select {
	case got := <-c.answers:
		if got.who != who || got.status != status {
			c.t.Fatalf("the next answer is %s's, %d %s; want %s's, %d", got.who, got.status, got.body, who, status)
		}
		return got
	case <-time.After(patience):
		c.t.Fatalf("no answer, want %s's", who)
		return answered{}
	}
}

// taken is how many units of a caller's quota are.
func (h *house) taken(service, caller string, windowMillis int64) int64 {
	h.t.Helper()
	n, err := taken(h.t.Context(), limiterOn(h.t, h.redis), service, caller, windowMillis)
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// taken is how many units of a caller's quota are, as a limiter knows.
func taken(ctx context.Context, l *limiter.Limiter, service, caller string, windowMillis int64) (int64, error) {
	const most = 1_000_000
	d, err := l.Remaining(ctx, []limiter.Take{{
		Namespace: "ns", Service: service, Identity: caller, Limits: []ruleset.Limit{{Requests: most, WindowMillis: windowMillis}},
	}})
	if err != nil {
		return 0, err
	}
	return most - d.Quotas[0].Remaining, nil
}

func TestWaitingIsFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
		c := h.crowd(protocols)
		c.line("alice", "a", "b", "c", "d")
		for i, who := range []string{"a", "b", "c", "d"} {
			h.apply(holding("p", int64(i+2), minute, nil)) // one slot more
			c.want(who, http.StatusOK)
			h.awaitWaiting(float64(3 - i))
		}
		h.wantCount(5, requests, "p", "admitted")
		h.wantCount(0, requests, "p", "limited")
		h.wantWaits(4, "forwarded")
		if got := h.taken("p", "alice", minute); got != 5 {
			t.Errorf("%d units are taken, want 5", got)
		}
	})
}

func TestWaitingEndsWhenTheSlotIsFree(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, 150, nil))
	c := h.crowd(http1)
	start := time.Now()
	for range 5 {
		c.send("one", "alice")
	}
	for range 5 {
		c.want("one", http.StatusOK)
	}
	if took := time.Since(start); took < 4*150*time.Millisecond {
		t.Errorf("five requests passed in %v: more than one in 150 ms", took)
	}
	h.awaitWaiting(0)
}

// slots is a store that has some, and refuses without.
type slots struct {
	shareless
	free atomic.Int64
}

// inAMinute is the refusal of a quota of one request a minute.
func inAMinute() limiter.Decision {
	return limiter.Decision{RetryAfter: time.Minute, Quotas: []limiter.Quota{{
		Limit: ruleset.Limit{Requests: 1, WindowMillis: minute}, Reset: time.Minute, RetryAfter: time.Minute,
	}}}
}

func (s *slots) TakeInto(context.Context, []limiter.Take, []limiter.Quota) (limiter.Decision, error) {
	if s.free.Add(-1) < 0 {
		s.free.Add(1)
		return inAMinute(), nil
	}
	return limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: ruleset.Limit{Requests: 1, WindowMillis: minute}}}}, nil
}

func (s *slots) Remaining(context.Context, []limiter.Take) (limiter.Decision, error) {
	d := inAMinute()
	if s.free.Load() > 0 {
		d.Admitted, d.RetryAfter, d.Quotas[0].RetryAfter, d.Quotas[0].Remaining = true, 0, 0, 1
	}
	return d, nil
}

// A slot becomes free that nobody has foretold, and a request comes before the
// one that waits has heard of it.
func TestNobodyOvertakesTheWaiting(t *testing.T) {
	t.Parallel()
	store := &slots{}
	h := before(t, store, holding("p", 1, minute, nil))
	c := h.crowd(http1)
	c.send("early", "alice")
	h.awaitWaiting(1)
	store.free.Store(1)
	c.send("late", "alice")
	c.want("early", http.StatusOK)
	h.awaitWaiting(1)
	store.free.Store(1)
	c.want("late", http.StatusOK)
}

func TestWaitingHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		c := (&house{t: t, addr: h.addr}).crowd(protocols)
		name := t.Name()
		c.send("first", name)
		c.want("first", http.StatusOK)
		c.send("held", name)
		eventually(t, "it waits", func() bool { return h.waiting() > 0 })
		c.send("other", name+" other")
		c.want("other", http.StatusOK)
	})
}

func TestSoManyWaitAndNoMore(t *testing.T) {
	t.Parallel()
	policy := holding("p", 1, minute, func(p *ruleset.Policy) { p.Wait.MaxWaiting = 2 })
	h := serve(t, ruleset.Inbound, application(t, seen), policy)
	c := h.crowd(http1)
	c.line("alice", "a", "b")
	c.send("full", "alice")
	wantExact(t, c.want("full", http.StatusTooManyRequests), minute/2)
	h.wantCount(1, overflows, "p", "policy")
	h.wantCount(1, requests, "p", "limited")
}

// Who finds no place although there is a slot is told when there is another.
func TestAFreeSlotBelongsToThoseWhoWait(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t, holding("p", 1, minute, nil))
	c := claims{policies: compiled.policies, takes: make([]limiter.Take, 1)}
	store := &slots{}
	store.free.Store(1)
	d, _ := store.Remaining(t.Context(), c.takes)
	c.nextIn(&d, 0)
	if d.Admitted || d.RetryAfter != time.Minute || !refusedBy(d, 0) {
		t.Errorf("%+v, want a refusal for a minute", d)
	}
}

// wantExact checks that a 429 tells the same time everywhere, of at least so
// many milliseconds.
func wantExact(t *testing.T, got answered, least int64) {
	t.Helper()
	var told problem
	if err := json.Unmarshal([]byte(got.body), &told); err != nil {
		t.Fatal(err)
	}
	seconds := wholeSeconds(time.Duration(told.RetryAfterMillis) * time.Millisecond)
	if told.RetryAfterMillis <= least || got.header.Get("Retry-After") != strconv.FormatInt(seconds, 10) || told.Service != "p" {
		t.Errorf("told %+v and Retry-After %s, want a time of more than %d ms", told, got.header.Get("Retry-After"), least)
	}
}

func TestNobodyWaitsInVain(t *testing.T) {
	t.Parallel()
	second := func(p *ruleset.Policy) { p.Wait.MaxWaitMillis = 1000 }
	h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, second))
	c := h.crowd(http1)
	c.line("alice")
	c.send("in vain", "alice")
	wantExact(t, c.want("in vain", http.StatusTooManyRequests), minute/2)
	response, _ := do(t, h.client(http2), ask(t, http.MethodPost, "http://app/a.B/C", nil, "X-User-ID", "alice", "Content-Type", "application/grpc"))
	if response.Header.Get("Grpc-Status") != "8" {
		t.Errorf("gRPC: %v, want grpc-status 8", response.Header)
	}
	h.wantWaits(0, "refused")
}

// Two wait for a slot that is only one's: the other's would come too late.
func TestWaitingIsBoundedInTime(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, 4000, func(p *ruleset.Policy) { p.Wait.MaxWaitMillis = 5000 }))
		c := h.crowd(protocols)
		c.line("alice", "a", "b", "c")
		for range 3 { // in whatever order: those that are refused need no upstream
			switch got := <-c.answers; {
			case got.who == "a":
				if got.status != http.StatusOK {
					t.Errorf("a: %d, want 200", got.status)
				}
			case got.status != http.StatusTooManyRequests:
				t.Errorf("%s: %d, want 429", got.who, got.status)
			default:
				wantExact(t, got, 2000)
			}
		}
		h.wantCount(2, requests, "p", "limited")
		h.wantWaits(1, "forwarded")
		h.wantWaits(2, "refused")
		h.awaitWaiting(0)
	})
}

// A request that does not wait for a policy's slot is refused, whoever else does.
func TestAPolicyThatRejectsDecides(t *testing.T) {
	t.Parallel()
	rejecting := basic("rejecting", inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = 1 }))
	h := serve(t, ruleset.Inbound, application(t, seen), rejecting, holding("p", 1, minute, nil))
	c := h.crowd(http1)
	c.line("alice")
	c.send("second", "alice")
	c.want("second", http.StatusTooManyRequests)
	h.wantCount(1, requests, "rejecting", "limited")
	h.wantWaits(0, "refused")
}

func TestWaitingForSeveralPolicies(t *testing.T) {
	t.Parallel()
	only := func(path string) func(*ruleset.Policy) {
		return func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{
				{Path: &ruleset.Path{Type: ruleset.PathPrefix, Value: path}},
				{Path: &ruleset.Path{Type: ruleset.PathPrefix, Value: "/both"}},
			}
		}
	}
	h := serve(t, ruleset.Inbound, application(t, seen), holding("a", 2, 200, only("/a")), holding("b", 3, 300, only("/b")))
	c := h.crowd(http1)
	paths := []string{"both", "a", "b", "both", "both", "b", "a", "both", "both", "a", "b", "both"}
	for _, path := range paths {
		c.send(path, "alice")
	}
	for range paths {
		if got := <-c.answers; got.status != http.StatusOK {
			t.Fatalf("%s: %d %s, want 200 in the end", got.who, got.status, got.body)
		}
	}
	h.awaitWaiting(0)
	h.proxy.lines.mu.Lock()
	defer h.proxy.lines.mu.Unlock()
	if n := len(h.proxy.lines.of); n > 0 {
		t.Errorf("%d lines are left, want none", n)
	}
}

func TestEditsWakeTheWaiting(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		next   []ruleset.Policy
		status int
	}{
		{"deleted", nil, http.StatusOK},
		{"more requests", []ruleset.Policy{holding("p", 4, minute, nil)}, http.StatusOK},
		{"unlimited", []ruleset.Policy{holding("p", 1, minute, func(p *ruleset.Policy) {
			p.Overrides = []ruleset.Override{{Identities: []string{"alice"}}}
		})}, http.StatusOK},
		{"observed", []ruleset.Policy{holding("p", 1, minute, func(p *ruleset.Policy) { p.Observe = true })}, http.StatusOK},
		{"rejecting", []ruleset.Policy{holding("p", 1, minute, func(p *ruleset.Policy) { p.Wait = nil })}, http.StatusTooManyRequests},
		{"less patient", []ruleset.Policy{holding("p", 1, minute, func(p *ruleset.Policy) { p.Wait.MaxWaitMillis = 1 })}, http.StatusTooManyRequests},
		{"nobody is named, which is rejected", []ruleset.Policy{holding("p", 1, minute, func(p *ruleset.Policy) {
			p.Sources = []ruleset.Source{{BearerToken: true}}
			p.IfMissing = ruleset.IfMissingReject
		})}, http.StatusBadRequest},
		{"another's name", []ruleset.Policy{holding("p", 3, minute, func(p *ruleset.Policy) {
			p.Sources = []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "Host"}}}
		})}, http.StatusOK},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
			crowd := h.crowd(http1)
			crowd.line("alice", "a", "b", "c")
			h.apply(c.next...)
			for range 3 {
				if got := <-crowd.answers; got.status != c.status {
					t.Errorf("%s: %d %s, want %d", got.who, got.status, got.body, c.status)
				}
			}
			h.awaitWaiting(0)
		})
	}
}

func TestStoreFailureWhileWaiting(t *testing.T) {
	t.Parallel()
	for what, status := range map[ruleset.OnStoreFailure]int{
		ruleset.OnStoreFailureAllow: http.StatusOK,
		ruleset.OnStoreFailureDeny:  http.StatusServiceUnavailable,
	} {
		t.Run(string(what), func(t *testing.T) {
			t.Parallel()
			policy := func(limit int64) ruleset.Policy {
				return holding("p", limit, minute, func(p *ruleset.Policy) { p.OnStoreFailure = what })
			}
			h := serve(t, ruleset.Inbound, application(t, seen), policy(1))
			c := h.crowd(http1)
			c.line("alice", "a", "b", "c")
			h.redis.Kill()
			h.apply(policy(2)) // of the limit before, the refusal is remembered
			for range 3 {
				if got := <-c.answers; got.status != status {
					t.Errorf("%s: %d, want %d", got.who, got.status, status)
				}
			}
			h.awaitWaiting(0)
		})
	}
}

// failing is a store that refuses, and once it has broken, fails the first take
// at once and others when so many of them come together.
type failing struct {
	gate
	broken atomic.Bool
	failed atomic.Bool
}

func (f *failing) TakeInto(ctx context.Context, takes []limiter.Take, quotas []limiter.Quota) (limiter.Decision, error) {
	switch {
	case !f.broken.Load():
		return inAMinute(), nil
	case !f.failed.Swap(true):
		return limiter.Decision{}, limiter.ErrStore
	}
	return f.gate.TakeInto(ctx, takes, quotas)
}

func (f *failing) Remaining(context.Context, []limiter.Take) (limiter.Decision, error) {
	if f.broken.Load() {
		return limiter.Decision{}, errors.New("the test breaks the store when all wait")
	}
	return inAMinute(), nil
}

// Else the last would wait for the store's timeout as often as there are others.
func TestALineDoesNotWaitForAStoreOneByOne(t *testing.T) {
	t.Parallel()
	policy := holding("p", 1, minute, func(p *ruleset.Policy) { p.OnStoreFailure = ruleset.OnStoreFailureDeny })
	store := &failing{gate: gate{missing: 3, err: limiter.ErrStore, open: make(chan struct{})}}
	h := before(t, store, policy)
	c := h.crowd(http1)
	for i := range 4 {
		c.send("one", "alice")
		h.awaitWaiting(float64(i + 1))
	}
	store.broken.Store(true)
	h.proxy.lines.mu.Lock()
	for _, line := range h.proxy.lines.of {
		line.waiters[0].wake() // as its slot is due
	}
	h.proxy.lines.mu.Unlock()
	for range 4 {
		c.want("one", http.StatusServiceUnavailable)
	}
}

// Sidecars that know nothing of each other do not exceed the limit together,
// and each caller of each is served.
func TestWaitingInSeveralSidecars(t *testing.T) {
	t.Parallel()
	const each, limit, window = 8, 3, 300
	policy := holding("p", limit, window, nil)
	first := serve(t, ruleset.Inbound, application(t, seen), policy)
	houses := []*house{first, first.beside(policy), first.beside(policy)}
	crowds := make([]*crowd, len(houses))
	start := time.Now()
	for i, h := range houses {
		crowds[i] = h.crowd([]func(*http.Protocols){http1, http2, http1}[i])
		for range each {
			crowds[i].send("one", "alice")
		}
	}
	for _, c := range crowds {
		for range each {
			c.want("one", http.StatusOK)
		}
		c.awaitWaiting(0)
	}
	windows := (len(houses)*each - 1) / limit // that must have passed before the last was admitted
	if took := time.Since(start); took < time.Duration(windows)*window*time.Millisecond {
		t.Errorf("%d requests passed in %v: more than %d in %d ms", len(houses)*each, took, limit, window)
	}
}

func TestSidecarHoldsSoManyAndNoMore(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t, holding("p", 1, minute, nil))
	newMetrics(prometheus.NewRegistry()).follow(&table{}, compiled)
	var lines lines
	join := func(caller string) (*waiter, bound) {
		c := claims{policies: compiled.policies, takes: []limiter.Take{{Identity: caller}}}
		w := newWaiter(time.Now())
		return w, lines.join(w, &c, 0)
	}
	var last *waiter
	for i := range maxHeld {
		w, full := join(strconv.Itoa(i))
		if full != "" {
			t.Fatalf("after %d the bound %q is reached", i, full)
		}
		last = w
	}
	if _, full := join("one more"); full != boundSidecar {
		t.Errorf("bound %q, want %q", full, boundSidecar)
	}
	lines.leave(last)
	if _, full := join("one more"); full != "" {
		t.Errorf("bound %q after one has left, want none", full)
	}
}

// admitting is a store that has room.
type admitting struct {
	shareless
	decision limiter.Decision
}

func (s *admitting) TakeInto(context.Context, []limiter.Take, []limiter.Quota) (limiter.Decision, error) {
	return s.decision, nil
}

func (s *admitting) Remaining(context.Context, []limiter.Take) (limiter.Decision, error) {
	return s.decision, nil
}

// Not parallel, as what others allocate counts.
func TestRequestsThatNeedNotWaitAllocateNothing(t *testing.T) {
	policy := holding("p", 1, minute, nil)
	p := New(Config{Taker: &admitting{decision: limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: policy.Limits[0]}}}}})
	if err := p.Apply(&ruleset.Ruleset{Namespace: "ns", Policies: []ruleset.Policy{policy}}); err != nil {
		t.Fatal(err)
	}
	s := &session{seen: request{method: "GET", host: "app", path: "/", fields: []field{{"X-User-ID", "alice"}}}}
	ctx := t.Context()
	if allocated := testing.AllocsPerRun(100, func() {
		if refused, err := s.admit(ctx, p, ruleset.Inbound, &s.seen, s); refused != nil || err != nil {
			t.Fatal(refused, err)
		}
	}); allocated != 0 {
		t.Errorf("%v allocations, want none", allocated)
	}
	if len(s.quotas) != 1 {
		t.Errorf("%d quotas, want one", len(s.quotas))
	}
}
