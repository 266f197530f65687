package proxy

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestIdentify(t *testing.T) {
	t.Parallel()
	header := func(name string) ruleset.Source {
		return ruleset.Source{Header: &ruleset.HeaderSource{Name: name}}
	}
	bearer, address := ruleset.Source{BearerToken: true}, ruleset.Source{ClientIP: &ruleset.ClientIPSource{IPv6PrefixLength: 64}}
	const hashOfToken = "sha256:3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0" // of "token"
	remote := netip.MustParseAddr("::ffff:10.1.2.3")
	long := strings.Repeat("x", 257)
	for _, c := range []struct {
		reason  string
		sources []ruleset.Source
		headers http.Header
		want    string
	}{
		{"header, whatever its case in the policy", []ruleset.Source{header("x-user-id")}, http.Header{"X-User-Id": {"alice"}}, "alice"},
		{"space around it does not count", []ruleset.Source{header("X-User-ID")}, http.Header{"X-User-Id": {" \talice "}}, "alice"},
		{"empty is missing", []ruleset.Source{header("X-User-ID")}, http.Header{"X-User-Id": {" "}}, ""},
		{"the first line that says anything", []ruleset.Source{header("X-User-ID")}, http.Header{"X-User-Id": {"", "bob", "eve"}}, "bob"},
		{"the next source when one is missing", []ruleset.Source{header("X-User-ID"), header("X-Team")}, http.Header{"X-Team": {"red"}}, "red"},
		{"as long as may be", []ruleset.Source{header("X-User-ID")}, http.Header{"X-User-Id": {long[:256]}}, long[:256]},
		{"longer is hashed", []ruleset.Source{header("X-User-ID")}, http.Header{"X-User-Id": {long}}, hashed(long)},
		{"bearer token, hashed", []ruleset.Source{bearer}, http.Header{"Authorization": {"Bearer token"}}, hashOfToken},
		{"the scheme has no case", []ruleset.Source{bearer}, http.Header{"Authorization": {"bEARER  token "}}, hashOfToken},
		{"another scheme", []ruleset.Source{bearer}, http.Header{"Authorization": {"Basic token"}}, ""},
		{"no token", []ruleset.Source{bearer}, http.Header{"Authorization": {"Bearer"}}, ""},
		{"the connection's address, unmapped", []ruleset.Source{address}, nil, "10.1.2.3"},
		{"the host", []ruleset.Source{header("Host")}, nil, "example.com"},
		{"nobody", []ruleset.Source{header("X-User-ID")}, nil, ""},
		{"a claim of the bearer token", []ruleset.Source{{JWTClaim: "sub"}}, http.Header{"Authorization": {"bearer " + tokenOf(`{"sub":"alice"}`)}}, "alice"},
		{"not of another scheme", []ruleset.Source{{JWTClaim: "sub"}}, http.Header{"Authorization": {"Basic " + tokenOf(`{"sub":"alice"}`)}}, ""},
		{"a long claim is hashed", []ruleset.Source{{JWTClaim: "sub"}}, http.Header{"Authorization": {"Bearer " + tokenOf(`{"sub":"`+long+`"}`)}}, hashed(long)},
		{"a cookie", []ruleset.Source{{Cookie: "session"}}, http.Header{"Cookie": {"a=1; session=alice"}}, "alice"},
		{"a parameter of the query", []ruleset.Source{{QueryParameter: "user"}}, nil, "al ice"},
		{"the address before one proxy", []ruleset.Source{{ClientIP: &ruleset.ClientIPSource{TrustedHops: 1, IPv6PrefixLength: 64}}}, http.Header{"X-Forwarded-For": {"6.6.6.6, 1.1.1.1"}}, "1.1.1.1"},
		{"the next source when a token cannot be read", []ruleset.Source{{JWTClaim: "sub"}, bearer}, http.Header{"Authorization": {"Bearer token"}}, hashOfToken},
		{"all kinds in turn, the last that yields", []ruleset.Source{
			header("X-User-ID"), bearer, {JWTClaim: "sub"}, {Cookie: "session"}, {QueryParameter: "id"}, address,
		}, nil, "10.1.2.3"},
	} {
		compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) { p.Sources = c.sources }))
		r := httptest.NewRequest(http.MethodGet, "/?user=al+ice", nil)
		if c.headers != nil {
			r.Header = c.headers
		}
		var seen request
		seen.requestOf(r, remote)
		if got := identify(nil, compiled.policies, &seen)[0].identity; got != c.want {
			t.Errorf("%s: identity %q, want %q", c.reason, got, c.want)
		}
	}
}

func TestStripAfterAllHaveRead(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t,
		basic("first", func(p *ruleset.Policy) {
			p.Sources = []ruleset.Source{
				{Header: &ruleset.HeaderSource{Name: "X-User-ID", Strip: true}},
				{Header: &ruleset.HeaderSource{Name: "X-Fallback", Strip: true}}, // removed though not needed
			}
		}),
		basic("second", nil),
	)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{"X-User-Id": {"alice", "eve"}, "X-Fallback": {"bob"}, "X-Other": {"stays"}}
	var seen request
	seen.requestOf(r, netip.Addr{})
	for _, who := range identify(nil, compiled.policies, &seen) {
		if who.identity != "alice" {
			t.Errorf("policy %s sees %q, want alice", who.policy.Name, who.identity)
		}
	}
	strip(r, compiled.policies)
	if len(r.Header) != 1 || r.Header.Get("X-Other") != "stays" {
		t.Errorf("headers left: %v, want only X-Other", r.Header)
	}
}

// What must not reach the upstream must not as a trailer either, announced or
// slipped in beside one that is.
func TestStripTrailers(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, r.Header, r.Trailer)
	})
	h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(func(p *ruleset.Policy) { p.Sources[0].Header.Strip = true })))
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		r := ask(t, http.MethodPost, "http://app/", io.NopCloser(strings.NewReader("body")), "User-Agent", "")
		r.Trailer = http.Header{"X-User-Id": {"alice"}, "X-Sum": {"42"}}
		if _, body := do(t, h.client(protocols), r); strings.Contains(body, "alice") || !strings.Contains(body, "X-Sum:[42]") {
			t.Errorf("announced: arrived %s, want X-Sum 42 and no alice", body)
		}
	})
	got := h.raw("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n" +
		"1\r\nx\r\n0\r\nX-Sum: 42\r\nX-User-ID: alice\r\n\r\n")
	if strings.Contains(got, "alice") || !strings.Contains(got, "X-Sum:[42]") {
		t.Errorf("slipped in: arrived %q, want X-Sum 42 and no alice", got)
	}
}

// Changing the order or the kinds of sources is an edit like any other: it holds
// for the next request, on connections that are open too.
func TestSourcesChangeWithTheNextRequest(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		header := ruleset.Source{Header: &ruleset.HeaderSource{Name: "X-User-ID"}}
		cookie := ruleset.Source{Cookie: "session"}
		by := func(sources ...ruleset.Source) ruleset.Policy {
			return basic("p", inbound(func(p *ruleset.Policy) {
				p.Sources = sources
				p.Limits = []ruleset.Limit{{Requests: 1, WindowMillis: 60_000}}
				p.Overrides = []ruleset.Override{{Identities: []string{"vip"}}}
			}))
		}
		h := serve(t, ruleset.Inbound, application(t, seen), by(header, cookie))
		client := h.client(protocols)
		for _, c := range []struct {
			reason  string
			sources []ruleset.Source
			want    int
		}{
			{"alice by the header", []ruleset.Source{header, cookie}, http.StatusOK},
			{"alice again", []ruleset.Source{header, cookie}, http.StatusTooManyRequests},
			{"another order: the cookie names vip", []ruleset.Source{cookie, header}, http.StatusOK},
			{"vip is not limited", []ruleset.Source{cookie, header}, http.StatusOK},
			{"the order of before: alice has had hers", []ruleset.Source{header, cookie}, http.StatusTooManyRequests},
			{"another kind: a third caller", []ruleset.Source{{QueryParameter: "user"}}, http.StatusOK},
			{"who has had its request too", []ruleset.Source{{QueryParameter: "user"}}, http.StatusTooManyRequests},
		} {
			h.apply(by(c.sources...))
			r := ask(t, http.MethodGet, "http://app/?user=carol", nil, "X-User-ID", "alice", "Cookie", "session=vip")
			if response, _ := do(t, client, r); response.StatusCode != c.want {
				t.Errorf("%s: %d, want %d", c.reason, response.StatusCode, c.want)
			}
		}
	})
}

// Every request pays for what finds its policies and its caller. Not parallel:
// what others allocate counts.
func TestNamingByHeaderAllocatesNothing(t *testing.T) {
	compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) {
		p.Hosts = []string{"api.example.com"}
		p.Sources = []ruleset.Source{{JWTClaim: "sub"}, {Cookie: "session"}, {Header: &ruleset.HeaderSource{Name: "X-User-ID"}}}
	}))
	r := request{method: "GET", host: "api.example.com", names: names{"api.example.com", "front.test"}, path: "/", fields: []field{{"accept", "*/*"}, {"cookie", "a=1"}, {"x-user-id", "alice"}}}
	var a admission
	if allocated := testing.AllocsPerRun(100, func() {
		a.policies = compiled.match(a.policies[:0], ruleset.Outbound, &r)
		a.callers = identify(a.callers[:0], a.policies, &r)
		a.asked.sort("ns", a.callers, 1)
	}); allocated != 0 {
		t.Errorf("%v allocations, want none", allocated)
	}
	if len(a.asked.enforce.takes) != 1 || a.asked.enforce.takes[0].Identity != "alice" {
		t.Errorf("takes %+v, want one of alice", a.asked.enforce.takes)
	}
}
