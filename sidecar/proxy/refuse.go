package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
)

// headerWeirError is on every answer that is the sidecar's own and not the
// application's or the provider's. Its value says why.
const headerWeirError = "Weir-Error"

// Values of Weir-Error.
const (
	errorQuotaExceeded = "quota-exceeded"
	errorStore         = "store-unavailable"
	errorUnnamed       = "identity-missing"
	errorUnreachable   = "upstream-unreachable"
	errorBadRequest    = "bad-request"
	errorMalformed     = "malformed-request"
	errorNotFound      = "unknown-service"
)

// Problem types registered by the draft that fields.go names.
const (
	typeQuotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	typeReducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
	typeBlank           = "about:blank" // RFC 9457 section 4.2.1: the status says it all
)

// storeRetryAfter is told while the store is away.
const storeRetryAfter = time.Second

// problem is the body of a refusal, RFC 9457.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// ViolatedPolicies are names of items of RateLimit-Policy.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
	// Policy is namespace/name of the one to wait longest for; Service, Limit
	// (requests) and Window (seconds) are its.
	Policy  string `json:"policy,omitempty"`
	Service string `json:"service,omitempty"`
	Limit   int64  `json:"limit,omitempty"`
	Window  int64  `json:"window,omitempty"`
	// RetryAfterMillis is rounded up: asked then, a lone caller is admitted.
	RetryAfterMillis int64 `json:"retryAfterMs,omitempty"`
}

// refusal is an answer of the sidecar's own, as HTTP and as gRPC tell it.
type refusal struct {
	weirError  string
	problem    problem
	grpcCode   grpcCode
	retryAfter time.Duration // 0: not told
	quotas     []quotaItem
}

func quotaExceeded(c claims, d limiter.Decision) *refusal {
	out := &refusal{
		weirError:  errorQuotaExceeded,
		grpcCode:   grpcResourceExhausted,
		retryAfter: d.RetryAfter,
		quotas:     appendQuotaItems(nil, c, d),
		problem: problem{
			Type:             typeQuotaExceeded,
			Title:            "Request cannot be satisfied as assigned quota has been exceeded",
			Status:           http.StatusTooManyRequests,
			RetryAfterMillis: max(ceilMillis(d.RetryAfter), 0),
		},
	}
	var worst limiter.Quota
	for i, p := range c.policies {
		if !refusedBy(d, i) {
			continue
		}
		q, _ := tightest(d, i)
		out.problem.ViolatedPolicies = append(out.problem.ViolatedPolicies, p.Service)
		if len(out.problem.ViolatedPolicies) == 1 || laterThan(q.RetryAfter, worst.RetryAfter) {
			worst = q
			out.problem.Policy, out.problem.Service = p.fullName, p.Service
		}
	}
	out.problem.Limit = worst.Limit.Requests
	out.problem.Window = ceilSeconds(worst.Limit.Window())
	out.problem.Detail = fmt.Sprintf("Service %q admits %d requests in any %d s for this caller. %s",
		out.problem.Service, out.problem.Limit, out.problem.Window, whenNext(d.RetryAfter))
	return out
}

func whenNext(d time.Duration) string {
	if d < 0 {
		return "This request asks for more than that."
	}
	return fmt.Sprintf("The next one is admitted in %s.", time.Duration(ceilMillis(d))*time.Millisecond)
}

func storeUnavailable() *refusal {
	return &refusal{
		weirError: errorStore, grpcCode: grpcUnavailable, retryAfter: storeRetryAfter,
		problem: problem{
			Type:   typeReducedCapacity,
			Title:  "Request cannot be satisfied due to temporary server capacity constraints",
			Status: http.StatusServiceUnavailable,
			Detail: "Quotas cannot be counted at present, and the policy denies requests then (onStoreFailure: Deny).",
		},
	}
}

func unnamed(p *policy) *refusal {
	return &refusal{
		weirError: errorUnnamed, grpcCode: grpcInvalidArgument,
		problem: problem{
			Type: typeBlank, Title: "Bad Request", Status: http.StatusBadRequest,
			Detail: fmt.Sprintf("Policy %s requires a caller's name, and the request has none. Send %s.", p.fullName, p.wanted()),
			Policy: p.fullName, Service: p.Service,
		},
	}
}

// wanted says what would have named the caller: the first of the sources.
func (p *policy) wanted() string {
	switch s := &p.sources[0]; {
	case s.header != "":
		return "the header " + s.spelled
	case s.claim != "":
		return fmt.Sprintf("a JSON Web Token with the claim %q as bearer token in the header Authorization", s.claim)
	case s.cookie != "":
		return "the cookie " + s.cookie
	case s.parameter != "":
		return fmt.Sprintf("the parameter %q in the URL's query", s.parameter)
	case s.address != nil:
		return "it through the proxies that append to the header X-Forwarded-For"
	}
	return "a bearer token in the header Authorization"
}

func unreachable() *refusal {
	return &refusal{
		weirError: errorUnreachable, grpcCode: grpcUnavailable,
		problem: problem{
			Type: typeBlank, Title: "Bad Gateway", Status: http.StatusBadGateway,
			Detail: "The request's destination could not be reached or did not answer.",
		},
	}
}

// unreadable refuses what cannot be forwarded without guessing.
func unreadable(wrong *malformed) *refusal {
	return &refusal{
		weirError: errorMalformed, grpcCode: grpcInvalidArgument,
		problem: problem{
			Type: typeBlank, Title: http.StatusText(wrong.status), Status: wrong.status, Detail: wrong.detail,
		},
	}
}

// answer is a refusal as a response: status, fields in their order and body.
type answer struct {
	status int
	fields []field
	body   []byte
}

// answer says the refusal in the client's way: gRPC's, or HTTP's.
func (f *refusal) answer(grpc bool) answer {
	out := answer{status: f.problem.Status, fields: make([]field, 0, 8)}
	if f.retryAfter > 0 {
		out.add("Retry-After", strconv.FormatInt(wholeSeconds(f.retryAfter), 10))
	}
	if len(f.quotas) > 0 {
		out.add(fieldRateLimitPolicy, string(appendPolicies(nil, f.quotas)))
		out.add(fieldRateLimit, string(appendStates(nil, f.quotas)))
	}
	out.add(headerWeirError, f.weirError)
	if grpc {
		f.grpcAnswer(&out)
		return out
	}
	encoded, err := json.Marshal(&f.problem)
	if err != nil {
		panic(err) // only our own struct, which encodes
	}
	out.body = encoded
	out.add("Content-Type", "application/problem+json")
	out.add("Content-Length", strconv.Itoa(len(encoded)))
	return out
}

func (a *answer) add(name, value string) { a.fields = append(a.fields, field{name, value}) }

// appendHTTP1 writes the answer as HTTP/1.1 has it. The last one of a
// connection says so, and one that is not, to HTTP/1.0, too.
func (a *answer) appendHTTP1(b []byte, bodiless, keepAlive, last bool) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(a.status), 10)
	b = append(append(append(b, ' '), http.StatusText(a.status)...), "\r\n"...)
	for _, line := range a.fields {
		b = appendLine(b, line.name, line.value)
	}
	b = append(b, "Date: "...)
	b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
	b = append(b, "\r\n"...)
	switch {
	case last:
		b = append(b, "Connection: close\r\n"...)
	case keepAlive:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	if bodiless {
		return b
	}
	return append(b, a.body...)
}

// write answers a request of net/http's.
func (f *refusal) write(w http.ResponseWriter, r *http.Request) {
	out := f.answer(strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"))
	h := w.Header()
	for _, line := range out.fields {
		h[line.name] = []string{line.value}
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // a HEAD has no body: net/http drops it; a client that is gone needs none
}

func writeJSON(w http.ResponseWriter, status int, contentType string, body any) {
	encoded, err := json.Marshal(body)
	if err != nil {
		panic(err) // only our own structs, which encode
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(encoded)))
	w.WriteHeader(status)
	_, _ = w.Write(encoded) // a HEAD has no body: net/http drops it; a client that is gone needs none
}
