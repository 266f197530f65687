package proxy

import (
	"net/http"
	"strconv"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/tracing"
)

// Attributes of a request's span beside OpenTelemetry's semantic conventions.
// No identity, no target and no other field is among them.
const (
	attributePolicy   = "weir.policy"   // the one that decided
	attributeService  = "weir.service"  // its quota
	attributeDecision = "weir.decision" // as in weir_sidecar_requests_total
	// Of its tightest limit.
	attributeLimit     = "weir.limit.requests"
	attributeWindow    = "weir.limit.window_ms"
	attributeRemaining = "weir.limit.remaining"
	// attributeRetry, of a refusal: when the next slot frees.
	attributeRetry = "weir.retry_after_ms"
	// attributeRemembered: decided without asking Redis.
	attributeRemembered = "weir.remembered"
	attributeEnding     = "weir.ending" // of a wait
)

// trace begins the span of a request that has met policies, if it is to be
// recorded. As Envoy's, it is a client's where the pod calls and a server's
// where it is called.
func (a *admission) trace(t *tracing.Tracer, d ruleset.Direction, r *request) {
	kind := tracing.Client
	if d == ruleset.Inbound {
		kind = tracing.Server
	}
	method := knownMethod(r.method)
	name := method
	if name == otherMethod {
		name = "HTTP"
	}
	if _, a.span = t.Start(r.traceContext(), kind, name); a.span == nil {
		return
	}
	a.span.Set(tracing.Text("http.request.method", method))
	if host := normalHost(r.host); host != "" && len(host) <= maxHostBytes {
		a.span.Set(tracing.Text("server.address", host))
	}
}

const otherMethod = "_OTHER"

// knownMethod is a method that semantic conventions know, so that spans have few
// names.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace, http.MethodPatch:
		return method
	}
	return otherMethod
}

// traceContext is what the request says of its trace. Several traceparents are
// none.
func (r *request) traceContext() tracing.Context {
	var parent, state string
	for i := range r.fields {
		switch f := &r.fields[i]; {
		case sameName(f.name, tracing.ParentField):
			if parent != "" {
				return tracing.Context{}
			}
			parent = f.value
		case sameName(f.name, tracing.StateField):
			if state != "" { // several lines are one list
				state += ","
			}
			state += f.value
		}
	}
	return tracing.Parse(parent, state)
}

// verdict is what one policy did with a request.
type verdict struct {
	policy   *policy
	decision decision
	quota    limiter.Quota // of its tightest limit
	counted  bool          // there is one
}

// record says in the span what was decided. A request that met several policies
// has an event for each.
func (a *admission) record(d limiter.Decision, o outcome) {
	if o == outcomeGone {
		a.span.Fail("cancelled")
		return
	}
	verdicts := a.verdicts(d, o)
	if len(verdicts) == 0 {
		return
	}
	decisive := verdicts[0]
	for _, v := range verdicts {
		if len(verdicts) > 1 {
			a.span.Event("policy", v.attributes()...)
		}
		if v.outweighs(&decisive) {
			decisive = v
		}
	}
	a.span.Set(decisive.attributes()...)
	if o == outcomeLimited && d.RetryAfter > 0 {
		a.span.Set(tracing.Number(attributeRetry, ceilMillis(d.RetryAfter)))
	}
	if len(a.asked.enforce.takes) > 0 && (o == outcomeAdmitted || o == outcomeLimited) {
		a.span.Set(tracing.Flag(attributeRemembered, d.Remembered))
	}
}

// verdicts are those of the policies that the metrics count.
func (a *admission) verdicts(d limiter.Decision, o outcome) []verdict {
	if o == outcomeUnnamed {
		return []verdict{{policy: a.asked.rejecting, decision: rejected}}
	}
	var verdicts []verdict
	for i, p := range a.asked.enforce.policies {
		v := verdict{policy: p, decision: admitted}
		v.quota, v.counted = tightest(d, i)
		switch {
		case o == outcomeUncounted, o == outcomeAdmitted && !v.counted: // Allow, beside one that decided locally
			v.decision = uncounted
		case o == outcomeUnavailable && p.OnStoreFailure == ruleset.OnStoreFailureDeny, o == outcomeLimited && refusedBy(d, i):
			v.decision = limited
			if o == outcomeUnavailable {
				v.decision = unavailable
			}
		case o != outcomeAdmitted: // another one refused it
			continue
		}
		verdicts = append(verdicts, v)
	}
	if o != outcomeAdmitted && o != outcomeUncounted {
		return verdicts
	}
	for i, p := range a.asked.observe.policies {
		verdicts = append(verdicts, verdict{policy: p, decision: a.asked.observe.decided[i]})
	}
	for _, p := range a.asked.missed {
		verdicts = append(verdicts, verdict{policy: p, decision: observed})
	}
	for _, p := range a.asked.bypassed {
		verdicts = append(verdicts, verdict{policy: p, decision: bypassed})
	}
	return verdicts
}

// outweighs reports whether v, and not other, is why the request fared as it
// did.
func (v *verdict) outweighs(other *verdict) bool {
	if a, b := v.weight(), other.weight(); a != b {
		return a > b
	}
	return v.counted && (!other.counted || tighter(v.quota, other.quota))
}

func (v *verdict) weight() int {
	switch v.decision {
	case limited, rejected, unavailable:
		return 4
	case uncounted:
		return 3
	case observed:
		return 2
	case admitted:
		return 1
	}
	return 0
}

func (v *verdict) attributes() []tracing.Attribute {
	attributes := []tracing.Attribute{
		tracing.Text(attributePolicy, v.policy.fullName),
		tracing.Text(attributeService, v.policy.Service),
		tracing.Text(attributeDecision, decisionNames[v.decision]),
	}
	if v.counted {
		attributes = append(attributes,
			tracing.Number(attributeLimit, v.quota.Limit.Requests),
			tracing.Number(attributeWindow, v.quota.Limit.WindowMillis),
			tracing.Number(attributeRemaining, max(v.quota.Remaining, 0)))
	}
	return attributes
}

// recordWait has the time that a request was held as a part of its span.
func (a *admission) recordWait(w *waiter, e ending) {
	if a.span == nil {
		return
	}
	a.span.Child("wait", w.arrived,
		tracing.Text(attributePolicy, w.policy.fullName),
		tracing.Text(attributeService, w.policy.Service),
		tracing.Text(attributeEnding, endingNames[e]))
}

// respond notes the status that the client gets. What counts as failed is
// semantic conventions' to say: for a client, what is not a success.
func respond(span *tracing.Span, d ruleset.Direction, status int) {
	if span == nil {
		return
	}
	span.Set(tracing.Number("http.response.status_code", int64(status)))
	if status >= 500 || d == ruleset.Outbound && status >= 400 {
		span.Fail(strconv.Itoa(status))
	}
}

// respond notes the status that the client of the request under way gets.
func (s *session) respond(status int) {
	if span := s.traced.Load(); span != nil {
		respond(span, s.server.direction, status)
	}
}

// endTraced ends the span of the request under way.
func (s *session) endTraced() {
	if s.traced.Load() == nil {
		return
	}
	if span := s.traced.Swap(nil); span != nil {
		span.End()
	}
}

// lostTraced ends the span of a request that nobody has answered.
func (s *session) lostTraced() {
	if span := s.traced.Swap(nil); span != nil {
		span.Fail("connection_lost")
		span.End()
	}
}

// tracedField reports whether a field is replaced, or goes no further, where the
// request is recorded: a state of no parent is nobody's.
func (a *admission) tracedField(name string) bool {
	return a.span != nil && (sameName(name, tracing.ParentField) || sameName(name, tracing.StateField) && a.span.Root())
}

// appendTraced writes the field that makes the request's span the parent of what
// follows.
func (a *admission) appendTraced(b []byte) []byte {
	if a.span == nil {
		return b
	}
	next := a.span.Context()
	b = append(b, tracing.ParentField+": "...)
	return append(next.AppendParent(b), "\r\n"...)
}

// traceHeader does the same to a request of net/http's.
func (a *admission) traceHeader(h http.Header) {
	if a.span == nil {
		return
	}
	next := a.span.Context()
	h["Traceparent"] = []string{next.Parent()}
	if a.span.Root() {
		delete(h, "Tracestate")
	}
}
