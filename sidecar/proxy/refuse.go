package proxy

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unsafe"

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

// refusal is an answer of the sidecar's own, as HTTP and as gRPC tell it.
type refusal struct {
	weirError  string
	problem    problem
	grpcCode   grpcCode
	retryAfter time.Duration // 0: not told
	quotas     []quotaItem
	text       []byte // the memory of the problem's detail
}

// quotaExceeded makes f the refusal of claims by a decision.
func (f *refusal) quotaExceeded(c *claims, d limiter.Decision) *refusal {
	*f = refusal{
		weirError:  errorQuotaExceeded,
		grpcCode:   grpcResourceExhausted,
		retryAfter: d.RetryAfter,
		quotas:     appendQuotaItems(f.quotas[:0], c, d),
		problem: problem{
			Type:             typeQuotaExceeded,
			Title:            "Request cannot be satisfied as assigned quota has been exceeded",
			Status:           http.StatusTooManyRequests,
			ViolatedPolicies: f.problem.ViolatedPolicies[:0],
			RetryAfterMillis: max(ceilMillis(d.RetryAfter), 0),
		},
		text: f.text[:0],
	}
	var worst limiter.Quota
	for i, p := range c.policies {
		if !refusedBy(d, i) {
			continue
		}
		q, _ := tightest(d, i)
		f.problem.ViolatedPolicies = append(f.problem.ViolatedPolicies, p.Service)
		if len(f.problem.ViolatedPolicies) == 1 || laterThan(q.RetryAfter, worst.RetryAfter) {
			worst = q
			f.problem.Policy, f.problem.Service = p.fullName, p.Service
		}
	}
	f.problem.Limit = worst.Limit.Requests
	f.problem.Window = ceilSeconds(worst.Limit.Window())
	f.text = strconv.AppendQuote(append(f.text, "Service "...), f.problem.Service)
	f.text = strconv.AppendInt(append(f.text, " admits "...), f.problem.Limit, 10)
	f.text = strconv.AppendInt(append(f.text, " requests in any "...), f.problem.Window, 10)
	f.text = append(append(f.text, " s for this caller. "...), whenNext(d.RetryAfter)...)
	f.problem.Detail = viewOf(f.text)
	return f
}

func whenNext(d time.Duration) string {
	if d < 0 {
		return "This request asks for more than that."
	}
	return "The next one is admitted in " + (time.Duration(ceilMillis(d)) * time.Millisecond).String() + "."
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

// tunnelDenied refuses a tunnel, within which nothing can be counted.
func tunnelDenied() *refusal {
	f := storeUnavailable()
	f.problem.Detail = "Requests within a tunnel cannot be counted, and a policy that names its host denies them then (onStoreFailure: Deny)."
	return f
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

// answer is a refusal as a response: status, fields in their order and body. Its
// memory serves one response after another.
type answer struct {
	status int
	fields []field
	body   []byte
	// values has those of the fields that are not constant.
	values []byte
	// message is the whole, as HTTP/1.1 has it.
	message []byte
}

// say makes a the refusal as the client reads it: gRPC's way, or HTTP's.
func (a *answer) say(f *refusal, grpc bool) {
	a.status = f.problem.Status
	a.fields, a.values, a.body = a.fields[:0], a.values[:0], a.body[:0]
	if f.retryAfter > 0 {
		a.number("Retry-After", wholeSeconds(f.retryAfter))
	}
	if len(f.quotas) > 0 {
		from := len(a.values)
		a.values = appendPolicies(a.values, f.quotas)
		a.addFrom(fieldRateLimitPolicy, from)
		from = len(a.values)
		a.values = appendStates(a.values, f.quotas)
		a.addFrom(fieldRateLimit, from)
	}
	a.add(headerWeirError, f.weirError)
	if grpc {
		f.grpcAnswer(a)
		return
	}
	a.body = f.problem.appendJSON(a.body)
	a.add("Content-Type", "application/problem+json")
	a.number("Content-Length", int64(len(a.body)))
}

func (a *answer) add(name, value string) { a.fields = append(a.fields, field{name, value}) }

func (a *answer) number(name string, value int64) {
	from := len(a.values)
	a.values = strconv.AppendInt(a.values, value, 10)
	a.addFrom(name, from)
}

// addFrom adds a field whose value has been appended to the values.
func (a *answer) addFrom(name string, from int) { a.add(name, viewOf(a.values[from:])) }

// viewOf is a string that lives as long as the bytes do not change.
func viewOf(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// asHTTP1 is the answer as HTTP/1.1 has it. The last one of a connection says
// so, and one that is not, to HTTP/1.0, too.
func (a *answer) asHTTP1(bodiless, keepAlive, last bool) []byte {
	b := append(a.message[:0], "HTTP/1.1 "...) //nolint:gocritic // the message is set at the end
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
	if !bodiless {
		b = append(b, a.body...)
	}
	a.message = b
	return b
}

// write answers a request of net/http's, and returns the status.
func (f *refusal) write(w http.ResponseWriter, r *http.Request) int {
	var out answer
	out.say(f, strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"))
	h := w.Header()
	for _, line := range out.fields {
		h[line.name] = []string{line.value}
	}
	w.WriteHeader(out.status)
	_, _ = w.Write(out.body) // a HEAD has no body: net/http drops it; a client that is gone needs none
	return out.status
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
