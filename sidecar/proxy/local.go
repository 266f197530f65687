package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxCheckBytes bounds the body of a check.
const maxCheckBytes = 4 << 10

// checkRequest asks to take from a service's quota.
type checkRequest struct {
	Service  string `json:"service"`
	Identity string `json:"identity"`
	// Cost in units, from 1 to the smallest of the caller's limits; absent: 1.
	Cost *int64 `json:"cost"`
}

// checkResponse says whether the cost was (check) or would be (remaining)
// admitted.
type checkResponse struct {
	Allowed  bool         `json:"allowed"`
	Service  string       `json:"service"`
	Identity string       `json:"identity,omitempty"`
	Quotas   []localQuota `json:"quotas"`
	// RetryAfterMillis until the same would be admitted; absent when it is.
	RetryAfterMillis int64 `json:"retryAfterMs,omitempty"`
	// Store is "unavailable" when nothing could be counted.
	Store string `json:"store,omitempty"`
}

// localQuota is the state of one limit.
type localQuota struct {
	Limit         int64 `json:"limit"`
	WindowSeconds int64 `json:"windowSeconds"`
	Remaining     int64 `json:"remaining"`
	ResetMillis   int64 `json:"resetMs"`
}

// LocalHandler is the API for the pod's own applications. It has no
// authentication: serve it on loopback only.
//
//	POST /v1/check {"service":"spotify","identity":"alice","cost":1}
//	GET  /v1/remaining?service=spotify&identity=alice
//
// A check takes as a request does, counts in the same metrics and answers 200,
// or 429 with a request's headers: it never waits, whatever onLimit says, and is
// not behind requests that do. remaining takes nothing and answers 200. In
// mode Observe both allow whatever they count. 503 when the store does not
// answer and the policy denies then. Problems are application/problem+json.
func (p *Proxy) LocalHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/check", p.check)
	mux.HandleFunc("GET /v1/remaining", p.remaining)
	return mux
}

func (p *Proxy) check(w http.ResponseWriter, r *http.Request) {
	request, err := decodeCheck(http.MaxBytesReader(w, r.Body, maxCheckBytes))
	if err != nil {
		badRequest(err).write(w, r)
		return
	}
	asked, response, ok := p.localPlan(w, r, request)
	if !ok {
		return
	}
	p.note(r.Context(), &plan{bypassed: asked.bypassed, missed: asked.missed}, outcomeAdmitted)
	if len(asked.observe.takes) > 0 {
		p.observeLocally(w, r, asked.observe, response)
		return
	}
	decision, outcome := p.take(r.Context(), &asked.enforce)
	respondLocally(w, r, asked.enforce, decision, outcome, response)
}

// observeLocally takes for a policy that only observes: allowed either way.
func (p *Proxy) observeLocally(w http.ResponseWriter, r *http.Request, c claims, response checkResponse) {
	decision, err := p.taker.TakeInto(r.Context(), c.takes, nil)
	if c.withoutStore = err != nil; c.withoutStore {
		p.reportStore(err)
		if c.policies[0].local() {
			decision, err = p.taker.TakeLocally(c.takes, nil)
		}
	}
	switch {
	case err != nil:
		c.count(0, uncounted, decision)
		respondLocally(w, r, c, decision, outcomeUncounted, response)
		return
	case decision.Admitted:
		c.count(0, admitted, decision)
	default:
		c.count(0, observed, decision)
	}
	respondLocally(w, r, c, decision, outcomeAdmitted, response)
}

func (p *Proxy) remaining(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	for name, values := range query {
		if name != "service" && name != "identity" || len(values) > 1 {
			badRequest(fmt.Errorf("query parameter %q: only one service and one identity are known", name)).write(w, r)
			return
		}
	}
	request := checkRequest{Service: query.Get("service"), Identity: query.Get("identity")}
	asked, response, ok := p.localPlan(w, r, request)
	if !ok {
		return
	}
	claims, observing := asked.enforce, false
	if len(asked.observe.takes) > 0 {
		claims, observing = asked.observe, true
	}
	if len(claims.takes) == 0 {
		respondLocally(w, r, claims, limiter.Decision{Admitted: true}, outcomeAdmitted, response)
		return
	}
	decision, err := p.taker.Remaining(r.Context(), claims.takes)
	if err != nil && claims.policies[0].local() {
		p.reportStore(err)
		decision, err = p.taker.RemainingLocally(claims.takes)
	}
	switch {
	case err == nil:
		response.Allowed = decision.Admitted || observing
		response.fill(decision)
		addRateLimitFields(w.Header(), appendQuotaItems(nil, &claims, decision))
		writeJSON(w, http.StatusOK, "application/json", response)
	case claims.policies[0].OnStoreFailure == ruleset.OnStoreFailureDeny && !observing:
		p.reportStore(err)
		storeUnavailable().write(w, r)
	default:
		p.reportStore(err)
		respondLocally(w, r, claims, decision, outcomeUncounted, response)
	}
}

// decodeCheck reads one JSON object and nothing else. Errors name the field.
func decodeCheck(body io.Reader) (checkRequest, error) {
	var request checkRequest
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&request)
	var tooLarge *http.MaxBytesError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &tooLarge):
		return request, fmt.Errorf("body: larger than %d bytes", maxCheckBytes)
	case errors.As(err, &wrongType) && wrongType.Field != "":
		return request, fmt.Errorf("%s: %s does not fit", wrongType.Field, wrongType.Value)
	case err != nil:
		return request, fmt.Errorf("body: %s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return request, errors.New("body: more than one JSON object")
	}
	return request, nil
}

// localPlan finds the service's policy and what it asks. When it returns
// false it has answered.
func (p *Proxy) localPlan(w http.ResponseWriter, r *http.Request, request checkRequest) (plan, checkResponse, bool) {
	t := p.table.Load()
	var none checkResponse
	if request.Service == "" {
		badRequest(errors.New("service: required")).write(w, r)
		return plan{}, none, false
	}
	policy := t.services[request.Service]
	if policy == nil {
		unknownService(t).write(w, r)
		return plan{}, none, false
	}
	who := caller{policy: policy, identity: boundedIdentity(strings.TrimSpace(request.Identity))}
	cost := int64(1)
	if request.Cost != nil {
		cost = *request.Cost
		most := smallest(policy.limitsFor(who.identity))
		if cost < 1 || most > 0 && cost > most {
			badRequest(costError(most)).write(w, r)
			return plan{}, none, false
		}
	}
	var asked plan
	asked.sort(t.namespace, []caller{who}, cost)
	if asked.rejecting != nil {
		badRequest(fmt.Errorf("identity: required by policy %s (ifMissing: Reject)", policy.fullName)).write(w, r)
		return plan{}, none, false
	}
	return asked, checkResponse{Service: policy.Service, Identity: who.identity, Quotas: []localQuota{}}, true
}

func costError(most int64) error {
	if most == 0 {
		return errors.New("cost: must be at least 1")
	}
	return fmt.Errorf("cost: must be from 1 to %d, the smallest of the caller's limits", most)
}

// smallest number of requests among the limits; 0 when there are none.
func smallest(limits []ruleset.Limit) int64 {
	var least int64
	for _, l := range limits {
		if least == 0 || l.Requests < least {
			least = l.Requests
		}
	}
	return least
}

func respondLocally(w http.ResponseWriter, r *http.Request, c claims, d limiter.Decision, o outcome, response checkResponse) {
	status := http.StatusOK
	switch o {
	case outcomeGone:
		panic(http.ErrAbortHandler)
	case outcomeUnavailable:
		storeUnavailable().write(w, r)
		return
	case outcomeUncounted:
		response.Store = "unavailable"
	case outcomeLimited:
		status = http.StatusTooManyRequests
		w.Header().Set(headerWeirError, errorQuotaExceeded)
		setRetryAfter(w.Header(), d.RetryAfter)
	case outcomeAdmitted, outcomeUnnamed, outcomeHeld:
	}
	response.Allowed = o != outcomeLimited
	response.fill(d)
	addRateLimitFields(w.Header(), appendQuotaItems(nil, &c, d))
	writeJSON(w, status, "application/json", response)
}

func (r *checkResponse) fill(d limiter.Decision) {
	for _, q := range d.Quotas {
		r.Quotas = append(r.Quotas, localQuota{
			Limit: q.Limit.Requests, WindowSeconds: ceilSeconds(q.Limit.Window()),
			Remaining: max(q.Remaining, 0), ResetMillis: ceilMillis(q.Reset),
		})
	}
	r.RetryAfterMillis = max(ceilMillis(d.RetryAfter), 0)
}

func badRequest(err error) *refusal {
	return &refusal{weirError: errorBadRequest, grpcCode: grpcInvalidArgument, problem: problem{
		Type: typeBlank, Title: "Bad Request", Status: http.StatusBadRequest, Detail: err.Error(),
	}}
}

// unknownService names the services that this pod has, which its
// applications may know.
func unknownService(t *table) *refusal {
	names := make([]string, 0, len(t.policies))
	for _, p := range t.policies {
		names = append(names, p.Service)
	}
	slices.Sort(names)
	detail := "No policy selects this pod."
	if len(names) > 0 {
		detail = "This pod's services are: " + strings.Join(names, ", ") + "."
	}
	return &refusal{weirError: errorNotFound, problem: problem{
		Type: typeBlank, Title: "Not Found", Status: http.StatusNotFound, Detail: detail,
	}}
}
