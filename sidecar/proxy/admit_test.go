package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// seen is an application that says which headers of ours arrived.
func seen(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("RateLimit", `"app";r=1`)
	_, _ = io.WriteString(w, r.Header.Get("X-User-ID"))
}

func inbound(change func(*ruleset.Policy)) func(*ruleset.Policy) {
	return func(p *ruleset.Policy) {
		p.Direction = ruleset.Inbound
		if change != nil {
			change(p)
		}
	}
}

func TestLimitIsHeldForEachCaller(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), basic("spotify", inbound(nil)))
	var wg sync.WaitGroup
	var mu sync.Mutex
	statuses := map[string]int{}
	for _, user := range []string{"alice", "bob"} {
		for i := range 10 {
			client := h.client(http1)
			if i%2 == 0 {
				client = h.client(http2)
			}
			wg.Go(func() {
				response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", user))
				mu.Lock()
				defer mu.Unlock()
				statuses[user+" "+strconv.Itoa(response.StatusCode)]++
			})
		}
	}
	wg.Wait()
	for what, want := range map[string]int{"alice 200": 3, "alice 429": 7, "bob 200": 3, "bob 429": 7} {
		if statuses[what] != want {
			t.Errorf("%s: %d times, want %d", what, statuses[what], want)
		}
	}
	h.wantCount(6, requests, "Inbound", "spotify", "admitted")
	h.wantCount(14, requests, "Inbound", "spotify", "limited")
}

func TestFieldsOfAnswers(t *testing.T) {
	t.Parallel()
	upstream := application(t, seen)
	one := func(p *ruleset.Policy) { p.Limits = []ruleset.Limit{{Requests: 1, WindowMillis: 60_000}} }
	h := serve(t, ruleset.Inbound, upstream, basic("spotify", inbound(one)))
	client := h.client(http1)
	response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	if got := strings.Join(response.Header.Values("RateLimit"), " / "); !strings.Contains(got, `"app";r=1`) || !strings.Contains(got, `"spotify";r=0;t=60`) {
		t.Errorf("admitted: RateLimit %s, want the application's and ours", got)
	}
	if got := response.Header.Get("RateLimit-Policy"); got != `"spotify";q=1;w=60` {
		t.Errorf("admitted: RateLimit-Policy %s", got)
	}
	response, body := do(t, client, ask(t, http.MethodPost, "http://app/", strings.NewReader("a body nobody reads")))
	var got problem
	if err := json.Unmarshal([]byte(body), &got); err != nil {
		t.Fatal(err)
	}
	after, _ := strconv.ParseInt(response.Header.Get("Retry-After"), 10, 64)
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get(headerWeirError) != errorQuotaExceeded ||
		after != ceilSeconds(time.Duration(got.RetryAfterMillis)*time.Millisecond) || got.Policy != "ns/spotify" || got.Limit != 1 {
		t.Errorf("refused: %d %v %+v", response.StatusCode, response.Header, got)
	}
	response, body = do(t, client, ask(t, http.MethodHead, "http://app/", nil))
	if response.StatusCode != http.StatusTooManyRequests || body != "" {
		t.Errorf("HEAD: %d %q, want 429 without a body", response.StatusCode, body)
	}
	response, _ = do(t, h.client(http2), ask(t, http.MethodPost, "http://app/a.B/C", nil, "Content-Type", "application/grpc"))
	if response.StatusCode != http.StatusOK || response.Header.Get("Grpc-Status") != "8" {
		t.Errorf("gRPC: %d %v, want grpc-status 8", response.StatusCode, response.Header)
	}

	out := serve(t, ruleset.Outbound, upstream, basic("spotify", func(p *ruleset.Policy) { p.Hosts = []string{"app"} }))
	response, _ = do(t, out.client(http1), ask(t, http.MethodGet, "http://app/", nil))
	if got := response.Header.Values("RateLimit"); len(got) != 1 || got[0] != `"app";r=1` {
		t.Errorf("Outbound: RateLimit %v, want only the provider's", got)
	}
}

// A client that waits as told is admitted.
func TestRetryAfterMillisIsEnough(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), basic("p", inbound(func(p *ruleset.Policy) {
		p.Limits = []ruleset.Limit{{Requests: 1, WindowMillis: 1000}}
	})))
	client := h.client(http1)
	do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	_, body := do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	var told problem
	if err := json.Unmarshal([]byte(body), &told); err != nil {
		t.Fatal(err)
	}
	<-time.After(time.Duration(told.RetryAfterMillis) * time.Millisecond)
	if response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil)); response.StatusCode != http.StatusOK {
		t.Errorf("asked after %d ms: %d, want 200", told.RetryAfterMillis, response.StatusCode)
	}
}

func TestOutboundMatchesAndStrips(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Outbound, application(t, seen), basic("spotify", func(p *ruleset.Policy) {
		p.Hosts = []string{"api.spotify.com"}
		p.Match = []ruleset.Match{{Path: &ruleset.Path{Type: ruleset.PathPrefix, Value: "/v1"}}}
		p.Sources[0].Header.Strip = true
		p.Limits[0].Requests = 1
	}))
	client := h.client(http1)
	for _, c := range []struct {
		reason, url, body string
		status            int
	}{
		{"counted, and the header stripped", "http://API.spotify.com:80/v1/me", "", 200},
		{"the second is refused, however the path is spelled", "http://api.spotify.com/x/%2e%2e/%76%31/me", "", 429},
		{"another path is neither counted nor changed", "http://api.spotify.com/v2", "alice", 200},
		{"another host neither", "http://other.com/v1/me", "alice", 200},
	} {
		response, body := do(t, client, ask(t, http.MethodGet, c.url, nil, "X-User-ID", "alice"))
		if response.StatusCode != c.status || c.status == 200 && body != c.body {
			t.Errorf("%s: %d %q, want %d %q", c.reason, response.StatusCode, body, c.status, c.body)
		}
	}
}

func TestUnnamedUnlimitedAndObserved(t *testing.T) {
	t.Parallel()
	one := func(more func(*ruleset.Policy)) func(*ruleset.Policy) {
		return inbound(func(p *ruleset.Policy) {
			p.Limits = []ruleset.Limit{{Requests: 1, WindowMillis: 60_000}}
			p.Sources[0].Header.Strip = true
			more(p)
		})
	}
	for _, c := range []struct {
		reason   string
		change   func(*ruleset.Policy)
		user     string
		statuses []int // of requests in turn
		decision string
		counted  float64
	}{
		{"unnamed callers share one quota", func(*ruleset.Policy) {}, "", []int{200, 429}, "limited", 1},
		{"or bypass", func(p *ruleset.Policy) { p.IfMissing = ruleset.IfMissingBypass }, "", []int{200, 200}, "bypassed", 2},
		{"or are rejected", func(p *ruleset.Policy) { p.IfMissing = ruleset.IfMissingReject }, "", []int{400, 400}, "rejected", 2},
		{"named ones are not", func(p *ruleset.Policy) { p.IfMissing = ruleset.IfMissingReject }, "alice", []int{200, 429}, "limited", 1},
		{"observing limits nothing", func(p *ruleset.Policy) { p.Observe = true }, "alice", []int{200, 200, 200}, "observed", 2},
		{
			"nor rejects",
			func(p *ruleset.Policy) { p.Observe, p.IfMissing = true, ruleset.IfMissingReject },
			"",
			[]int{200},
			"observed", 1,
		},
		{
			"an override without limits",
			func(p *ruleset.Policy) { p.Overrides = []ruleset.Override{{Identities: []string{"vip"}}} },
			"vip",
			[]int{200, 200}, "bypassed", 2,
		},
		{
			"an override with another limit",
			func(p *ruleset.Policy) {
				p.Overrides = []ruleset.Override{{Identities: []string{"vip"}, Limits: []ruleset.Limit{{Requests: 2, WindowMillis: 60_000}}}}
			},
			"vip", []int{200, 200, 429}, "admitted", 2,
		},
	} {
		h := serve(t, ruleset.Inbound, application(t, seen), basic("p", one(c.change)))
		client := h.client(http1)
		for i, want := range c.statuses {
			response, body := do(t, client, ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", c.user))
			if response.StatusCode != want {
				t.Errorf("%s: request %d got %d, want %d", c.reason, i, response.StatusCode, want)
			}
			if want == 200 && body != "" {
				t.Errorf("%s: X-User-ID %q arrived, want it stripped", c.reason, body)
			}
		}
		h.wantCount(c.counted, requests, c.decision)
	}
}

// A request that one policy refuses takes nothing from another.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	limit := func(n int64) func(*ruleset.Policy) {
		return inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = n })
	}
	h := serve(t, ruleset.Inbound, application(t, seen), basic("narrow", limit(1)), basic("wide", limit(3)))
	client := h.client(http1)
	for range 5 {
		do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	}
	h.wantCount(1, requests, "narrow", "admitted")
	h.wantCount(4, requests, "narrow", "limited")
	h.wantCount(1, requests, "wide", "admitted")
	h.wantCount(0, requests, "wide", "limited")
	h.apply(basic("wide", limit(3)))
	response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	if got := response.Header.Values("RateLimit"); !strings.Contains(strings.Join(got, ","), `"wide";r=1;`) {
		t.Errorf("wide has %v, want 1 of 3 left after two admissions", got)
	}
	if h.count(requests, "narrow", "limited") != -1 {
		t.Error("the series of a policy that is gone are still there")
	}
	h.wantCount(2, requests, "wide", "admitted")
}

func TestBadRulesetLeavesTheOldOneInForce(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), basic("p", inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = 1 })))
	client := h.client(http1)
	do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	bad := &ruleset.Ruleset{Version: "v2", Policies: []ruleset.Policy{basic("p", func(p *ruleset.Policy) { p.Limits = nil })}}
	if err := h.proxy.Apply(bad); err == nil || !strings.Contains(err.Error(), "v2") {
		t.Fatalf("Apply: %v, want an error that names v2", err)
	}
	if response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil)); response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("answer %d, want the old limit's 429", response.StatusCode)
	}
}

func TestProbesAreNotCounted(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), basic("p", inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = 1 })))
	one, two := h.client(http1), h.client(http2)
	do(t, one, ask(t, http.MethodGet, "http://app/", nil))
	for _, c := range []struct {
		reason  string
		client  *http.Client
		method  string
		path    string
		headers []string
		want    int
	}{
		{"the HTTP probe", one, http.MethodGet, "/healthz?full=1", nil, 200},
		{"the gRPC probe", two, http.MethodPost, healthCheckMethod, []string{"Content-Type", "application/grpc"}, 200},
		{"another query", one, http.MethodGet, "/healthz?full=2", nil, 429},
		{"another method", one, http.MethodPost, "/healthz?full=1", nil, 429},
		{"a kubelet by name only", one, http.MethodGet, "/", []string{"User-Agent", "kube-probe/1.37"}, 429},
	} {
		response, _ := do(t, c.client, ask(t, c.method, "http://app"+c.path, nil, c.headers...))
		if response.StatusCode != c.want || c.want == 200 && response.Header.Get(headerWeirError) != "" {
			t.Errorf("%s: %d, want %d", c.reason, response.StatusCode, c.want)
		}
	}
	h.wantCount(1, requests, "p", "admitted")
}

func TestStoreFailure(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), basic("allow", inbound(func(p *ruleset.Policy) { p.Sources[0].Header.Strip = true })))
	client := h.client(http1)
	h.redis.Kill()
	response, body := do(t, client, ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "alice"))
	if response.StatusCode != http.StatusOK || body != "" || strings.Contains(response.Header.Get("RateLimit"), "allow") {
		t.Errorf("Allow: %d %q %v, want 200, stripped, without fields of ours", response.StatusCode, body, response.Header)
	}
	h.wantCount(1, requests, "allow", "uncounted")

	deny := basic("deny", inbound(func(p *ruleset.Policy) { p.OnStoreFailure = ruleset.OnStoreFailureDeny }))
	h.apply(basic("allow", inbound(nil)), deny)
	response, _ = do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" || response.Header.Get(headerWeirError) != errorStore {
		t.Errorf("Deny: %d %v, want our 503", response.StatusCode, response.Header)
	}
	h.wantCount(1, requests, "deny", "unavailable")
	h.wantCount(1, requests, "allow", "uncounted") // as before: refused elsewhere
	response, _ = do(t, h.client(http2), ask(t, http.MethodPost, "http://app/", nil, "Content-Type", "application/grpc"))
	if response.Header.Get("Grpc-Status") != "14" {
		t.Errorf("Deny, gRPC: %v, want grpc-status 14", response.Header)
	}
	observing := basic("watch", inbound(func(p *ruleset.Policy) { p.Observe, p.OnStoreFailure = true, ruleset.OnStoreFailureDeny }))
	h.apply(observing)
	if response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil)); response.StatusCode != http.StatusOK {
		t.Errorf("Observe: %d, want 200 whatever the store does", response.StatusCode)
	}

	h.apply(deny)
	h.redis.Restart()
	eventually(t, "limits hold again without a restart", func() bool {
		response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "carol"))
		return response.StatusCode == http.StatusTooManyRequests
	})
}
