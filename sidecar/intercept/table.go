package intercept

import (
	"slices"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// table is the intercepting policies of a Ruleset. It does not change.
type table struct {
	exact     map[string]bool
	wildcards map[string]bool // "example.com" for "*.example.com"
	policies  []named
}

type named struct {
	name  string
	hosts []string
}

const wildcard = "*."

func newTable(policies []ruleset.Policy) *table {
	t := &table{exact: map[string]bool{}, wildcards: map[string]bool{}}
	for k := range policies {
		p := &policies[k]
		if !p.Intercept || p.Direction != ruleset.Outbound {
			continue
		}
		t.policies = append(t.policies, named{p.Name, p.Hosts})
		for _, host := range p.Hosts {
			if parent, ok := strings.CutPrefix(host, wildcard); ok {
				t.wildcards[parent] = true
			} else {
				t.exact[host] = true
			}
		}
	}
	return t
}

// names reports whether a policy names the host.
func (t *table) names(host string) bool {
	if t.exact[host] {
		return true
	}
	if len(t.wildcards) == 0 {
		return false
	}
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return false
		}
		if t.wildcards[parent] {
			return true
		}
		host = parent
	}
}

// wanted are the names whose leaves are had before anybody asks for them: the
// exact ones, and one of every wildcard, which shows whether such leaves verify.
func (t *table) wanted() []string {
	var names []string
	for host := range t.exact {
		names = append(names, host)
	}
	for parent := range t.wildcards {
		names = append(names, sample(parent))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sample is a name in "*.<parent>".
func sample(parent string) string { return "weir." + parent }

// all names every policy.
func (t *table) all() []string {
	return t.those(func(named) bool { return true })
}

// withAny names the policies that name one of the hosts.
func (t *table) withAny(hosts []string) []string {
	return t.those(func(p named) bool {
		return slices.ContainsFunc(p.hosts, func(pattern string) bool { return coversAny(pattern, hosts) })
	})
}

func (t *table) those(such func(named) bool) []string {
	var names []string
	for _, p := range t.policies {
		if such(p) {
			names = append(names, p.name)
		}
	}
	slices.Sort(names)
	return names
}

func coversAny(pattern string, hosts []string) bool {
	parent, wild := strings.CutPrefix(pattern, "*")
	return slices.ContainsFunc(hosts, func(host string) bool {
		return host == pattern || wild && strings.HasSuffix(host, parent) && len(host) > len(parent)
	})
}
