package proxy

import (
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// basic is a valid policy; change makes it the case's.
func basic(name string, change func(*ruleset.Policy)) ruleset.Policy {
	p := ruleset.Policy{
		PolicyRef: ruleset.PolicyRef{Name: name, UID: "uid-" + name, Generation: 1},
		Service:   name, Direction: ruleset.Outbound,
		Sources:   []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "X-User-ID"}}},
		IfMissing: ruleset.IfMissingShared, OnStoreFailure: ruleset.OnStoreFailureAllow,
		Limits: []ruleset.Limit{{Requests: 3, WindowMillis: 60_000}},
	}
	if change != nil {
		change(&p)
	}
	return p
}

func mustCompile(t *testing.T, policies ...ruleset.Policy) *table {
	t.Helper()
	compiled, err := compile(&ruleset.Ruleset{Namespace: "ns", Policies: policies})
	if err != nil {
		t.Fatalf("compile: %v", err)
	}
	return compiled
}

func TestMatchHost(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t,
		basic("exact", func(p *ruleset.Policy) { p.Hosts = []string{"api.example.com"} }),
		basic("wild", func(p *ruleset.Policy) { p.Hosts = []string{"*.example.com", "api.example.com"} }),
		basic("address", func(p *ruleset.Policy) { p.Hosts = []string{"10.0.0.1"} }),
		basic("served", func(p *ruleset.Policy) { p.Direction = ruleset.Inbound }),
	)
	for _, c := range []struct {
		reason string
		d      ruleset.Direction
		host   string
		want   []string
	}{
		{"both, each once and in order", ruleset.Outbound, "api.example.com", []string{"exact", "wild"}},
		{"without case, port and trailing dot", ruleset.Outbound, "API.Example.COM.:8080", []string{"exact", "wild"}},
		{"any number of labels", ruleset.Outbound, "a.b.example.com", []string{"wild"}},
		{"a wildcard needs a label", ruleset.Outbound, "example.com", nil},
		{"labels are whole", ruleset.Outbound, "badexample.com", nil},
		{"an address", ruleset.Outbound, "10.0.0.1:80", []string{"address"}},
		{"no host", ruleset.Outbound, "", nil},
		{"a host longer than names can be", ruleset.Outbound, strings.Repeat("a.", 200) + "example.com", nil},
		{"the other direction", ruleset.Inbound, "api.example.com", []string{"served"}},
		{"any host", ruleset.Inbound, "[2001:db8::1]:80", []string{"served"}},
		{"no host, any host", ruleset.Inbound, "", []string{"served"}},
	} {
		var got []string
		for _, p := range compiled.match(nil, c.d, &request{method: "GET", host: c.host, path: "/"}) {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %s %q met %v, want %v", c.reason, c.d, c.host, got, c.want)
		}
	}
}

// A connection's own names count beside the request's host, each policy once.
func TestMatchNames(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t,
		basic("any", nil),
		basic("front", func(p *ruleset.Policy) { p.Hosts = []string{"front.test"} }),
		basic("api", func(p *ruleset.Policy) { p.Hosts = []string{"api.example.com"} }),
		basic("wild", func(p *ruleset.Policy) { p.Hosts = []string{"*.example.com"} }),
	)
	long := strings.Repeat("a.", 200) + "example.com"
	for _, c := range []struct {
		reason, host string
		names        names
		want         []string
	}{
		{"none", "front.test", names{}, []string{"any", "front"}},
		{"the same", "API.example.com:443", names{nameOfTLS: "api.example.com"}, []string{"any", "api", "wild"}},
		{"another", "front.test", names{nameOfTLS: "api.example.com"}, []string{"any", "front", "api", "wild"}},
		{"two others", "b.example.com", names{"front.test", "api.example.com"}, []string{"any", "front", "api", "wild"}},
		{"that no policy has", "front.test", names{nameOfTLS: "other.test"}, []string{"any", "front"}},
		{"a host longer than names can be", long, names{nameOfTunnel: "front.test"}, []string{"any", "front"}},
		{"no host", "", names{nameOfTunnel: "front.test"}, []string{"any", "front"}},
	} {
		var got []string
		for _, p := range compiled.match(nil, ruleset.Outbound, &request{method: "GET", host: c.host, names: c.names, path: "/"}) {
			got = append(got, p.Name)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q in a connection for %q met %v, want %v", c.reason, c.host, c.names, got, c.want)
		}
	}
	onlyAny := mustCompile(t, basic("any", nil))
	if got := onlyAny.match(nil, ruleset.Outbound, &request{host: "a.test", names: names{"b.test", "c.test"}, path: "/"}); len(got) != 1 {
		t.Errorf("a policy for any host was met %d times, want once", len(got))
	}
}

func TestNormalHost(t *testing.T) {
	t.Parallel()
	for authority, want := range map[string]string{
		"a.b": "a.b", "A.B:80": "a.b", "a.b.": "a.b", "": "", ":80": "",
		"[::1]:80": "::1", "[2001:DB8:0::1]": "2001:db8::1", "[::1": "[::1", "a.b:80:80": "a.b", "a.b::": "a.b", "::1": "::1", "1.2.3.4:5": "1.2.3.4",
	} {
		if got := normalHost(authority); got != want {
			t.Errorf("normalHost(%q) = %q, want %q", authority, got, want)
		}
	}
}

func TestMatchPathAndMethod(t *testing.T) {
	t.Parallel()
	path := func(kind ruleset.PathType, value string) []ruleset.Match {
		return []ruleset.Match{{Path: &ruleset.Path{Type: kind, Value: value}}}
	}
	for _, c := range []struct {
		reason  string
		matches []ruleset.Match
		method  string
		path    string
		want    bool
	}{
		{"prefix of whole segments", path(ruleset.PathPrefix, "/v1"), "GET", "/v1/me", true},
		{"the prefix itself", path(ruleset.PathPrefix, "/v1"), "GET", "/v1", true},
		{"a prefix's trailing slash says nothing", path(ruleset.PathPrefix, "/v1/"), "GET", "/v1", true},
		{"nor the request's", path(ruleset.PathPrefix, "/v1"), "GET", "/v1/", true},
		{"not part of a segment", path(ruleset.PathPrefix, "/v1"), "GET", "/v10", false},
		{"the root is everything", path(ruleset.PathPrefix, "/"), "GET", "/x", true},
		{"what has no path is the root", path(ruleset.PathPrefix, "/"), "OPTIONS", "*", true},
		{"dot segments do not escape", path(ruleset.PathPrefix, "/v1"), "GET", "/x/../v1/me", true},
		{"repeated slashes neither", path(ruleset.PathPrefix, "/v1"), "GET", "//v1//me", true},
		{"climbing out does", path(ruleset.PathPrefix, "/v1"), "GET", "/v1/../v2", false},
		{"exact", path(ruleset.PathExact, "/v1"), "GET", "/v1", true},
		{"exact sees the trailing slash", path(ruleset.PathExact, "/v1"), "GET", "/v1/", false},
		{"exact resolves", path(ruleset.PathExact, "/v1/"), "GET", "/v1/a/..", true},
		{"expression on the whole path", path(ruleset.PathRegularExpression, "/v[0-9]+"), "GET", "/v12", true},
		{"not on a part of it", path(ruleset.PathRegularExpression, "/v[0-9]+"), "GET", "/v12/x", false},
		{"alternatives are anchored too", path(ruleset.PathRegularExpression, "/a|/b"), "GET", "/bc", false},
		{"a line end is no end", path(ruleset.PathRegularExpression, "/a"), "GET", "/a\n", false},
		{"method", []ruleset.Match{{Methods: []string{"GET", "PUT"}}}, "PUT", "/", true},
		{"methods have case", []ruleset.Match{{Methods: []string{"GET"}}}, "get", "/", false},
		{
			"fields are ANDed",
			[]ruleset.Match{{Methods: []string{"GET"}, Path: &ruleset.Path{Type: ruleset.PathExact, Value: "/a"}}},
			"POST", "/a", false,
		},
		{
			"entries are ORed",
			append(path(ruleset.PathExact, "/b"), path(ruleset.PathExact, "/a")...),
			"POST", "/a", true,
		},
		{"no match is every request", nil, "GET", "/x", true},
	} {
		compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) { p.Match = c.matches; p.Direction = ruleset.Inbound }))
		if got := len(compiled.match(nil, ruleset.Inbound, &request{method: c.method, host: "h", path: c.path})) == 1; got != c.want {
			t.Errorf("%s: %s %q matches: %t, want %t", c.reason, c.method, c.path, got, c.want)
		}
	}
}

// What one server reads as a path under /admin, a policy for /admin must.
func TestReadingsOfAPath(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) {
		p.Match = []ruleset.Match{{Path: &ruleset.Path{Type: ruleset.PathPrefix, Value: "/admin"}}}
	}))
	for _, c := range []struct {
		reason string
		target string
		want   bool
	}{
		{"decoded", "/%61dmin/x", true},
		{"an encoded slash that separates", "/admin%2fx", true},
		{"encoded slashes that do not, and so climb out of nothing", "/admin/x%2f..%2F..", true},
		{"parameters of a segment", "/admin;v=1/x", true},
		{"parameters of a dot segment", "/x/..;v=1/admin", true},
		{"both", "/admin;v/x%2f..%2f..%2f..", true},
		{"dot segments, resolved", "/x/%2e%2e/admin", true},
		{"an encoded semicolon is none", "/admin%3bv", false},
		{"a whole other path", "/x;admin/y%2fadmin", false},
	} {
		u, err := url.ParseRequestURI(c.target)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(compiled.match(nil, ruleset.Outbound, &request{method: "GET", host: "api.example.com", path: u.EscapedPath()})) == 1; got != c.want {
			t.Errorf("%s: %q matches: %t, want %t", c.reason, c.target, got, c.want)
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	for reason, change := range map[string]func(*ruleset.Policy){
		"unknown direction":         func(p *ruleset.Policy) { p.Direction = "Sideways" },
		"unknown ifMissing":         func(p *ruleset.Policy) { p.IfMissing = "Guess" },
		"unknown onStoreFailure":    func(p *ruleset.Policy) { p.OnStoreFailure = "Global" },
		"fewer enforcers than none": func(p *ruleset.Policy) { p.Enforcers = -1 },
		"unknown path type": func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Path: &ruleset.Path{Type: "Glob", Value: "/*"}}}
		},
		"bad expression": func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Path: &ruleset.Path{Type: ruleset.PathRegularExpression, Value: "("}}}
		},
		"unknown header type": func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Headers: []ruleset.HeaderMatch{{Name: "X-Tier", Type: "Prefix", Value: "f"}}}}
		},
		"header type left out": func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Headers: []ruleset.HeaderMatch{{Name: "X-Tier", Value: "f"}}}}
		},
		"header without a name": func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Headers: []ruleset.HeaderMatch{{Type: ruleset.HeaderExact, Value: "f"}}}}
		},
		"bad expression of a header": func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Headers: []ruleset.HeaderMatch{{Name: "X-Tier", Type: ruleset.HeaderRegularExpression, Value: "("}}}}
		},
		"source of a newer operator": func(p *ruleset.Policy) { p.Sources = []ruleset.Source{{}} },
		"fewer hops than none": func(p *ruleset.Policy) {
			p.Sources = []ruleset.Source{{ClientIP: &ruleset.ClientIPSource{TrustedHops: -1, IPv6PrefixLength: 64}}}
		},
		"a network of no bits": func(p *ruleset.Policy) { p.Sources = []ruleset.Source{{ClientIP: &ruleset.ClientIPSource{}}} },
		"a network longer than an address": func(p *ruleset.Policy) {
			p.Sources = []ruleset.Source{{ClientIP: &ruleset.ClientIPSource{IPv6PrefixLength: 129}}}
		},
		"waiting for no time": func(p *ruleset.Policy) { p.Wait = &ruleset.Wait{MaxWaiting: 1} },
		"waiting of nobody":   func(p *ruleset.Policy) { p.Wait = &ruleset.Wait{MaxWaitMillis: 1} },
		"two kinds in one source": func(p *ruleset.Policy) {
			p.Sources = []ruleset.Source{{BearerToken: true, ClientIP: &ruleset.ClientIPSource{IPv6PrefixLength: 64}}}
		},
		"no limits":        func(p *ruleset.Policy) { p.Limits = nil },
		"limit of nothing": func(p *ruleset.Policy) { p.Limits = []ruleset.Limit{{Requests: 0, WindowMillis: 1}} },
		"override's empty window": func(p *ruleset.Policy) {
			p.Overrides = []ruleset.Override{{Identities: []string{"a"}, Limits: []ruleset.Limit{{Requests: 1}}}}
		},
		"two limits of one window": func(p *ruleset.Policy) { p.Limits = append(p.Limits, p.Limits...) },
		"an override's too": func(p *ruleset.Policy) {
			p.Overrides = []ruleset.Override{{Identities: []string{"a"}, Limits: append(p.Limits, p.Limits...)}}
		},
		"a window longer than any":  func(p *ruleset.Policy) { p.Limits[0].WindowMillis = 1 << 62 },
		"more requests than counts": func(p *ruleset.Policy) { p.Limits[0].Requests = 1 << 62 },
		"a service that is no key":  func(p *ruleset.Policy) { p.Service = "a:b" },
		"no sources":                func(p *ruleset.Policy) { p.Sources = nil },
		"no service":                func(p *ruleset.Policy) { p.Service = "" },
	} {
		_, err := compile(&ruleset.Ruleset{Namespace: "ns", Policies: []ruleset.Policy{basic("spotify", change)}})
		if err == nil || !strings.Contains(err.Error(), "ns/spotify") {
			t.Errorf("%s: error %v, want one that names ns/spotify", reason, err)
		}
	}
	twice := []ruleset.Policy{basic("a", nil), basic("b", func(p *ruleset.Policy) { p.Service = "a" })}
	if _, err := compile(&ruleset.Ruleset{Namespace: "ns", Policies: twice}); err == nil {
		t.Error("two policies of one service were accepted")
	}
}

// The compiled overrides mean what ruleset.Policy.LimitsFor says.
func TestLimitsFor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		identity := rapid.SampledFrom([]string{"", "a", "b", "c", "d"})
		p := basic("p", func(p *ruleset.Policy) {
			for range rapid.IntRange(0, 4).Draw(t, "overrides") {
				o := ruleset.Override{Identities: rapid.SliceOfN(identity, 1, 3).Draw(t, "identities")}
				if rapid.Bool().Draw(t, "limited") {
					o.Limits = []ruleset.Limit{{Requests: rapid.Int64Range(1, 9).Draw(t, "requests"), WindowMillis: 1000}}
				}
				p.Overrides = append(p.Overrides, o)
			}
		})
		compiled, err := compilePolicy("ns", &p)
		if err != nil {
			t.Fatal(err)
		}
		who := identity.Draw(t, "who")
		if got, want := compiled.limitsFor(who), p.LimitsFor(who, time.Now()); !slices.Equal(got, want) {
			t.Fatalf("limitsFor(%q) = %v, want %v", who, got, want)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	policies := make([]ruleset.Policy, 0, 100)
	for i := range 100 {
		policies = append(policies, basic("p"+string(rune('a'+i%26))+strings.Repeat("x", i/26), func(p *ruleset.Policy) {
			p.Hosts = []string{p.Name + ".example.com"}
			p.Match = []ruleset.Match{{Path: &ruleset.Path{Type: ruleset.PathPrefix, Value: "/v1"}}}
		}))
	}
	compiled, err := compile(&ruleset.Ruleset{Policies: policies})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(compiled.match(nil, ruleset.Outbound, &request{method: "GET", host: "pc.example.com", path: "/v1/me"})) != 1 {
			b.Fatal("no match")
		}
	}
}
