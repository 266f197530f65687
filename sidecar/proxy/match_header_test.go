package proxy

import (
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestMatchHeaders(t *testing.T) {
	t.Parallel()
	exact := func(name, value string) ruleset.HeaderMatch {
		return ruleset.HeaderMatch{Name: name, Type: ruleset.HeaderExact, Value: value}
	}
	expression := func(name, value string) ruleset.HeaderMatch {
		return ruleset.HeaderMatch{Name: name, Type: ruleset.HeaderRegularExpression, Value: value}
	}
	tier := exact("X-Tier", "free")
	for _, c := range []struct {
		reason  string
		matches []ruleset.HeaderMatch
		fields  []field
		want    bool
	}{
		{"equal", []ruleset.HeaderMatch{tier}, linesOf("X-Tier", "free"), true},
		{"names have no case", []ruleset.HeaderMatch{tier}, linesOf("x-tier", "free"), true},
		{"values have", []ruleset.HeaderMatch{tier}, linesOf("X-Tier", "Free"), false},
		{"space around is no part", []ruleset.HeaderMatch{tier}, linesOf("X-Tier", " free\t"), true},
		{"any line", []ruleset.HeaderMatch{tier}, linesOf("X-Tier", "gold", "free"), true},
		{"the whole line", []ruleset.HeaderMatch{tier}, linesOf("X-Tier", "free, gold"), false},
		{"missing", []ruleset.HeaderMatch{tier}, linesOf("X-Other", "free"), false},
		{"an expression", []ruleset.HeaderMatch{expression("X-Tier", "fr(e)+")}, linesOf("X-Tier", "free"), true},
		{"on the whole value", []ruleset.HeaderMatch{expression("X-Tier", "fre")}, linesOf("X-Tier", "free"), false},
		{"each of its choices too", []ruleset.HeaderMatch{expression("X-Tier", "a|fre")}, linesOf("X-Tier", "free"), false},
		{"that matches nothing at all", []ruleset.HeaderMatch{expression("X-Tier", ".*")}, nil, false},
		{"all of several", []ruleset.HeaderMatch{tier, exact("X-App", "web")}, []field{{"X-App", "web"}, {"X-Tier", "free"}}, true},
		{"not one of them", []ruleset.HeaderMatch{tier, exact("X-App", "web")}, linesOf("X-Tier", "free"), false},
		{"two of one header", []ruleset.HeaderMatch{tier, exact("X-Tier", "gold")}, linesOf("X-Tier", "gold", "free"), true},
		{"the host, wherever it stood", []ruleset.HeaderMatch{exact("host", "api.example.com:8080")}, nil, true},
		{"and not another line of that name", []ruleset.HeaderMatch{exact("Host", "other")}, linesOf("Host", "other"), false},
	} {
		compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) { p.Match = []ruleset.Match{{Headers: c.matches}} }))
		r := request{method: "GET", host: "api.example.com:8080", path: "/", fields: c.fields}
		if got := len(compiled.match(nil, ruleset.Outbound, &r)) == 1; got != c.want {
			t.Errorf("%s: matches: %t, want %t", c.reason, got, c.want)
		}
	}
}

// Within an entry all that it states must hold, and one entry is enough.
func TestMatchHeadersWithTheRest(t *testing.T) {
	t.Parallel()
	compiled := mustCompile(t, basic("p", func(p *ruleset.Policy) {
		free := []ruleset.HeaderMatch{{Name: "X-Tier", Type: ruleset.HeaderExact, Value: "free"}}
		p.Match = []ruleset.Match{
			{Methods: []string{"POST"}, Path: &ruleset.Path{Type: ruleset.PathPrefix, Value: "/v1"}, Headers: free},
			{Path: &ruleset.Path{Type: ruleset.PathExact, Value: "/all"}},
		}
	}))
	free := linesOf("X-Tier", "free")
	for _, c := range []struct {
		reason string
		r      request
		want   bool
	}{
		{"all three", request{method: "POST", path: "/v1/x", fields: free}, true},
		{"another method", request{method: "GET", path: "/v1/x", fields: free}, false},
		{"another path", request{method: "POST", path: "/v2", fields: free}, false},
		{"another header", request{method: "POST", path: "/v1/x"}, false},
		{"the other entry", request{method: "GET", path: "/all"}, true},
	} {
		if got := len(compiled.match(nil, ruleset.Outbound, &c.r)) == 1; got != c.want {
			t.Errorf("%s: matches: %t, want %t", c.reason, got, c.want)
		}
	}
}
