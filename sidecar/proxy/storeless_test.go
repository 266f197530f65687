package proxy

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// shareless is what a store of tests says that is never asked for shares.
type shareless struct{}

func (shareless) TakeLocally([]limiter.Take, []limiter.Quota) (limiter.Decision, error) {
	return limiter.Decision{}, errors.New("this test has no policy with Local")
}

func (shareless) RemainingLocally([]limiter.Take) (limiter.Decision, error) {
	return shareless{}.TakeLocally(nil, nil)
}

func (shareless) Forget(string, string, []string) {}

// locally has a policy go on with one of so many shares.
func locally(enforcers int64) func(*ruleset.Policy) {
	return func(p *ruleset.Policy) {
		p.OnStoreFailure, p.Enforcers = ruleset.OnStoreFailureLocal, enforcers
		p.Limits = []ruleset.Limit{{Requests: 6, WindowMillis: minute}}
	}
}

// statuses of so many requests of a caller.
func (h *house) statuses(n int, identity string) (statuses []int) {
	client := h.client(http1)
	for range n {
		response, _ := do(h.t, client, ask(h.t, http.MethodGet, "http://app/", nil, "X-User-ID", identity))
		statuses = append(statuses, response.StatusCode)
	}
	return statuses
}

func count(statuses []int, status int) (n int) {
	for _, s := range statuses {
		if s == status {
			n++
		}
	}
	return n
}

// Two sidecars lose Redis: each admits its half, and what it admitted before
// counts in it; when Redis is back it knows of all.
func TestShareOfTheLimit(t *testing.T) {
	t.Parallel()
	policy := basic("p", inbound(locally(2)))
	one := serve(t, ruleset.Inbound, application(t, seen), policy)
	other := one.beside(policy)
	if got := one.statuses(2, "alice"); count(got, http.StatusOK) != 2 {
		t.Fatalf("with Redis %v, want all served", got)
	}
	one.redis.Kill()
	if got := one.statuses(4, "alice"); count(got, http.StatusOK) != 1 || count(got, http.StatusTooManyRequests) != 3 {
		t.Errorf("one sidecar: %v, want one served beside the two of before", got)
	}
	if got := other.statuses(5, "alice"); count(got, http.StatusOK) != 3 || count(got, http.StatusTooManyRequests) != 2 {
		t.Errorf("the other sidecar: %v, want three served", got)
	}
	response, body := do(t, one.client(http1), ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "alice"))
	if response.Header.Get("Retry-After") == "" || response.Header.Get(headerWeirError) != errorQuotaExceeded || !strings.Contains(body, `"p"`) {
		t.Errorf("refused with %v %s, want as with Redis", response.Header, body)
	}
	one.wantCount(3, requests, "p", "admitted")
	one.wantCount(4, requests, "p", "limited")
	one.wantCount(0, requests, "p", "uncounted")

	one.redis.Restart()
	asking := limiterOn(t, one.redis)
	counts := func(want int64) bool {
		n, err := taken(t.Context(), asking, "p", "alice", minute)
		return err == nil && n == want
	}
	eventually(t, "Redis, which came back empty, counts what was admitted without it", func() bool {
		return counts(4)
	})
	eventually(t, "the rest is admitted by Redis, and no more", func() bool {
		return count(one.statuses(6, "alice"), http.StatusOK) >= 0 && counts(6)
	})
	if got := append(one.statuses(3, "alice"), other.statuses(3, "alice")...); count(got, http.StatusTooManyRequests) != 6 {
		t.Errorf("with Redis again %v, want all refused", got)
	}
}

// Policies of one request need not agree on what to do.
func TestPoliciesThatDisagreeWithoutStore(t *testing.T) {
	t.Parallel()
	allow, deny := basic("allow", inbound(nil)), basic("deny", inbound(func(p *ruleset.Policy) { p.OnStoreFailure = ruleset.OnStoreFailureDeny }))
	local := basic("local", inbound(locally(3)))
	h := serve(t, ruleset.Inbound, application(t, seen), allow, local)
	h.redis.Kill()
	if got := h.statuses(3, "alice"); count(got, http.StatusOK) != 2 || got[2] != http.StatusTooManyRequests {
		t.Errorf("Allow and Local: %v, want the share of 2 served", got)
	}
	h.wantCount(2, requests, "allow", "uncounted")
	h.wantCount(0, requests, "allow", "admitted")
	h.wantCount(2, requests, "local", "admitted")
	h.wantCount(1, requests, "local", "limited")
	h.apply(allow, local, deny)
	if got := h.statuses(1, "bob"); got[0] != http.StatusServiceUnavailable {
		t.Errorf("Allow, Local and Deny: %v, want 503", got)
	}
	h.apply(basic("local", inbound(locally(0))))
	if got := h.statuses(3, "carol"); count(got, http.StatusOK) != 1 {
		t.Errorf("of sidecars that nobody has counted: %v, want one served", got)
	}
	watching := basic("watch", inbound(locally(3)))
	watching.Observe = true
	h.apply(watching)
	if got := h.statuses(3, "dora"); count(got, http.StatusOK) != 3 {
		t.Errorf("Observe: %v, want all served", got)
	}
	h.wantCount(2, requests, "watch", "admitted")
	h.wantCount(1, requests, "watch", "observed")
}

// The local API decides as the path of requests does.
func TestLocalAPIWithoutStore(t *testing.T) {
	t.Parallel()
	h := build(t, application(t, seen), basic("p", locally(3)))
	h.redis.Kill()
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if w, body := h.local("POST", "/v1/check", `{"service":"p"}`); w.Code != want {
			t.Errorf("check %d: %d %s, want %d", i, w.Code, body, want)
		}
	}
	if w, body := h.local("GET", "/v1/remaining?service=p", ""); w.Code != http.StatusOK || !strings.Contains(body, `"allowed":false`) || !strings.Contains(body, `"remaining":0`) {
		t.Errorf("remaining: %d %s, want none", w.Code, body)
	}
}

// Who waits goes on waiting, for a slot of this sidecar's share.
func TestWaitingGoesOnWithoutStore(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, 2000, func(p *ruleset.Policy) {
		p.OnStoreFailure, p.Enforcers = ruleset.OnStoreFailureLocal, 1
	}))
	c := h.crowd(http1)
	c.line("alice", "a", "b", "c")
	h.redis.Kill()
	for range 3 {
		if got := <-c.answers; got.status != http.StatusOK {
			t.Errorf("%s: %d, want 200", got.who, got.status)
		}
	}
	h.awaitWaiting(0)
}
