package proxy

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// local asks the local API.
func (h *house) local(method, target, body string) (*httptest.ResponseRecorder, string) {
	w := httptest.NewRecorder()
	h.proxy.LocalHandler().ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	return w, w.Body.String()
}

func TestLocalAPI(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Outbound, application(t, seen),
		basic("spotify", func(p *ruleset.Policy) {
			p.Limits = append(p.Limits, ruleset.Limit{Requests: 9, WindowMillis: 3_600_000})
			p.Overrides = []ruleset.Override{{Identities: []string{"vip"}}}
		}),
		basic("named", func(p *ruleset.Policy) { p.IfMissing = ruleset.IfMissingReject }),
		basic("watched", func(p *ruleset.Policy) { p.Observe = true; p.Limits[0].Requests = 1 }),
	)
	millis := regexp.MustCompile(`("(?:resetMs|retryAfterMs)":)[1-9][0-9]*`)
	for _, c := range []struct {
		reason, method, target, body string
		status                       int
		want                         string // with N for positive milliseconds
	}{
		{
			"a check takes", "POST", "/v1/check", `{"service":"spotify","identity":"alice","cost":2}`, 200,
			`{"allowed":true,"service":"spotify","identity":"alice","quotas":[{"limit":3,"windowSeconds":60,"remaining":1,"resetMs":N},{"limit":9,"windowSeconds":3600,"remaining":7,"resetMs":N}]}`,
		},
		{
			"remaining takes nothing", "GET", "/v1/remaining?service=spotify&identity=alice", "", 200,
			`{"allowed":true,"service":"spotify","identity":"alice","quotas":[{"limit":3,"windowSeconds":60,"remaining":1,"resetMs":N},{"limit":9,"windowSeconds":3600,"remaining":7,"resetMs":N}]}`,
		},
		{
			"too much is refused, and takes nothing", "POST", "/v1/check", `{"service":"spotify","identity":"alice","cost":2}`, 429,
			`{"allowed":false,"service":"spotify","identity":"alice","quotas":[{"limit":3,"windowSeconds":60,"remaining":1,"resetMs":N},{"limit":9,"windowSeconds":3600,"remaining":7,"resetMs":N}],"retryAfterMs":N}`,
		},
		{"the cost is 1 when absent", "POST", "/v1/check", `{"service":"spotify","identity":"alice"}`, 200, ""},
		{"and then there is none", "GET", "/v1/remaining?service=spotify&identity=alice", "", 200, `{"allowed":false,"service":"spotify","identity":"alice","quotas":[{"limit":3,"windowSeconds":60,"remaining":0,"resetMs":N},{"limit":9,"windowSeconds":3600,"remaining":6,"resetMs":N}],"retryAfterMs":N}`},
		{"nobody is everybody unnamed", "POST", "/v1/check", `{"service":"spotify"}`, 200, ""},
		{"unlimited", "POST", "/v1/check", `{"service":"spotify","identity":"vip","cost":1000000}`, 200, `{"allowed":true,"service":"spotify","identity":"vip","quotas":[]}`},
		{"observed within", "POST", "/v1/check", `{"service":"watched"}`, 200, ""},
		{"observed beyond", "POST", "/v1/check", `{"service":"watched"}`, 200, `{"allowed":true,"service":"watched","quotas":[{"limit":1,"windowSeconds":60,"remaining":0,"resetMs":N}],"retryAfterMs":N}`},
		{"an unknown service", "POST", "/v1/check", `{"service":"x"}`, 404, "named, spotify, watched"},
		{"an unknown service to look at", "GET", "/v1/remaining?service=x", "", 404, "named, spotify, watched"},
		{"no service", "POST", "/v1/check", `{}`, 400, "service: required"},
		{"no identity where one must be", "POST", "/v1/check", `{"service":"named"}`, 400, "identity: required"},
		{"no cost", "POST", "/v1/check", `{"service":"spotify","cost":0}`, 400, "cost: must be from 1 to 3"},
		{"a cost that is never admitted", "POST", "/v1/check", `{"service":"spotify","cost":4}`, 400, "cost: must be from 1 to 3"},
		{"a cost beyond numbers", "POST", "/v1/check", `{"service":"spotify","cost":1e99}`, 400, "cost: number 1e99 does not fit"},
		{"a wrong type", "POST", "/v1/check", `{"service":7}`, 400, "service: number does not fit"},
		{"an unknown field", "POST", "/v1/check", `{"service":"spotify","user":"a"}`, 400, `unknown field \"user\"`},
		{"no JSON", "POST", "/v1/check", `service=spotify`, 400, "body: invalid character"},
		{"nothing", "POST", "/v1/check", "", 400, "body: EOF"},
		{"more after it", "POST", "/v1/check", `{"service":"spotify"}{}`, 400, "more than one"},
		{"too large", "POST", "/v1/check", `{"service":"` + strings.Repeat("x", maxCheckBytes) + `"}`, 400, "larger than 4096"},
		{"an unknown parameter", "GET", "/v1/remaining?service=spotify&user=a", "", 400, "user"},
		{"another method", "GET", "/v1/check", "", 405, ""},
	} {
		w, body := h.local(c.method, c.target, c.body)
		got := millis.ReplaceAllString(body, "${1}N")
		switch {
		case w.Code != c.status:
			t.Errorf("%s: %d %s, want %d", c.reason, w.Code, body, c.status)
		case c.status < 400 || c.status == 429:
			if c.want != "" && got != c.want {
				t.Errorf("%s:\n got %s\nwant %s", c.reason, got, c.want)
			}
		case !strings.Contains(got, c.want):
			t.Errorf("%s: %s, want it to say %q", c.reason, body, c.want)
		}
		if c.status == 429 && (w.Header().Get("Retry-After") == "" || len(w.Header()[fieldRateLimit]) == 0 || w.Header().Get(headerWeirError) == "") {
			t.Errorf("%s: headers %v, want those of a refused request", c.reason, w.Header())
		}
	}
	h.wantCount(1, requests, "watched", "observed")
	h.wantCount(1, requests, "spotify", "limited")

	h.redis.Kill()
	w, body := h.local("POST", "/v1/check", `{"service":"spotify"}`)
	if w.Code != http.StatusOK || !strings.Contains(body, `"allowed":true`) || !strings.Contains(body, `"store":"unavailable"`) {
		t.Errorf("Allow without store: %d %s", w.Code, body)
	}
	h.apply(basic("spotify", func(p *ruleset.Policy) { p.OnStoreFailure = ruleset.OnStoreFailureDeny }))
	for _, c := range [][3]string{{"POST", "/v1/check", `{"service":"spotify"}`}, {"GET", "/v1/remaining?service=spotify", ""}} {
		if w, body := h.local(c[0], c[1], c[2]); w.Code != http.StatusServiceUnavailable {
			t.Errorf("Deny without store, %s: %d %s, want 503", c[1], w.Code, body)
		}
	}
}
