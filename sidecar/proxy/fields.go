package proxy

import (
	"net/http"
	"strconv"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
)

// rateLimitDraft is the specification of the fields RateLimit and
// RateLimit-Policy that this file writes. Later drafts may rename parameters:
// nothing outside of this file knows them.
const rateLimitDraft = "draft-ietf-httpapi-ratelimit-headers-10"

// Names as the draft spells them, which HTTP/1.1 shows.
const (
	fieldRateLimit       = "RateLimit"
	fieldRateLimitPolicy = "RateLimit-Policy"
)

// quotaItem is one policy's item in both fields: its tightest limit.
type quotaItem struct {
	name          string
	quota         int64
	windowSeconds int64
	remaining     int64
	// resetSeconds until more can be taken; negative: not told.
	resetSeconds int64
}

// appendQuotaItems has an item for each policy. Of a refused request only the
// policies that refused tell when they free: Retry-After must not be earlier
// than any time told (section 6.3), and the others' times are not its reason.
func appendQuotaItems(items []quotaItem, c *claims, d limiter.Decision) []quotaItem {
	for i, p := range c.policies {
		q, ok := tightest(d, i)
		if !ok {
			continue
		}
		reset := q.Reset
		switch {
		case d.Admitted:
		case q.RetryAfter > 0:
			reset = max(q.Reset, q.RetryAfter)
		default:
			reset = -time.Second
		}
		items = append(items, quotaItem{
			name:          p.Service,
			quota:         q.Limit.Requests,
			windowSeconds: ceilSeconds(q.Limit.Window()),
			remaining:     max(q.Remaining, 0),
			resetSeconds:  ceilSeconds(reset),
		})
	}
	return items
}

// tightest is the limit of a take that refused for longest, or when none
// refused the one with the least left.
func tightest(d limiter.Decision, take int) (limiter.Quota, bool) {
	var best limiter.Quota
	found := false
	for _, q := range d.Quotas {
		if q.Take == take && (!found || tighter(q, best)) {
			best, found = q, true
		}
	}
	return best, found
}

func tighter(a, b limiter.Quota) bool {
	switch {
	case a.RetryAfter != b.RetryAfter:
		return laterThan(a.RetryAfter, b.RetryAfter)
	case a.Remaining != b.Remaining:
		return a.Remaining < b.Remaining
	}
	return a.Reset > b.Reset
}

// laterThan compares times until admission, where negative means never.
func laterThan(a, b time.Duration) bool {
	if a < 0 || b < 0 {
		return a < 0 && b >= 0
	}
	return a > b
}

// addRateLimitFields writes both fields. The spelling is another key than
// http.Header's canonical one, so that fields of an application that has
// quotas of its own stay beside them: both are lists.
func addRateLimitFields(h http.Header, items []quotaItem) {
	if len(items) == 0 {
		return
	}
	h[fieldRateLimitPolicy] = []string{string(appendPolicies(nil, items))}
	h[fieldRateLimit] = []string{string(appendStates(nil, items))}
}

// appendPolicies writes the value of RateLimit-Policy.
func appendPolicies(b []byte, items []quotaItem) []byte {
	for i, item := range items {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendParameter(appendSFString(b, item.name), "q", item.quota)
		b = appendParameter(b, "w", item.windowSeconds)
	}
	return b
}

// appendStates writes the value of RateLimit.
func appendStates(b []byte, items []quotaItem) []byte {
	for i, item := range items {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = appendParameter(appendSFString(b, item.name), "r", item.remaining)
		if item.resetSeconds >= 0 {
			b = appendParameter(b, "t", item.resetSeconds)
		}
	}
	return b
}

func appendParameter(b []byte, name string, value int64) []byte {
	b = append(b, ';')
	b = append(b, name...)
	b = append(b, '=')
	return strconv.AppendInt(b, value, 10)
}

// appendSFString writes a String of RFC 9651 section 3.3.3, which has no
// characters outside of printable ASCII.
func appendSFString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20 || c > 0x7e:
			b = append(b, '?')
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// setRetryAfter tells whole seconds, rounded up and at least 1. A negative d
// means never, which the field cannot say.
func setRetryAfter(h http.Header, d time.Duration) {
	if d >= 0 {
		h.Set("Retry-After", strconv.FormatInt(wholeSeconds(d), 10))
	}
}

// wholeSeconds is a time as Retry-After tells it.
func wholeSeconds(d time.Duration) int64 { return max(ceilSeconds(d), 1) }

// ceilSeconds rounds up to whole seconds; negative stays negative.
func ceilSeconds(d time.Duration) int64 { return ceil(d, time.Second) }

// ceilMillis rounds up to whole milliseconds; negative stays negative.
func ceilMillis(d time.Duration) int64 { return ceil(d, time.Millisecond) }

func ceil(d, unit time.Duration) int64 {
	if d < 0 {
		return -1
	}
	return int64((d + unit - 1) / unit)
}
