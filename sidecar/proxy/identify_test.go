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
	bearer, address := ruleset.Source{BearerToken: true}, ruleset.Source{ClientIP: &ruleset.ClientIPSource{}}
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
	} {
		compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) { p.Sources = c.sources }))
		r := httptest.NewRequest(http.MethodGet, "/", nil)
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
