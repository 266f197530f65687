package programming

import (
	"cmp"
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Settings are the operator's, the same in every Ruleset of a namespace.
type Settings struct {
	// Store is nil while the operator knows of no Redis, and for what is
	// stamped into pods.
	Store *ruleset.Store
	Link  ruleset.Link
	// Authorities of the namespace, PEM: see ruleset.Ruleset. They are left out
	// while no policy intercepts.
	Authorities string
	// HostRoots are PEM: see ruleset.Ruleset.
	HostRoots string
	// Tracing is nil while nobody collects traces, and for what is stamped into
	// pods.
	Tracing *ruleset.Tracing
	// Enforcers is how many sidecars enforce each policy that they share, by its
	// name; one that is missing is not known.
	Enforcers map[string]int64
}

// Program is a namespace's accepted policies, compiled once for all its pods.
// It is safe for concurrent use.
type Program struct {
	namespace string
	settings  Settings
	policies  []programmed
}

type programmed struct {
	selector Selector
	policy   ruleset.Policy
}

// Selection names the policies that select a pod. Pods with the same Selection
// have the same Ruleset.
type Selection string

// Prepare accepts and compiles the policies of one namespace.
func Prepare(namespace string, policies []v1alpha1.RateLimitPolicy, settings Settings) *Program {
	program := &Program{namespace: namespace, settings: settings}
	verdicts := Accept(policies)
	for i := range policies {
		policy := &policies[i]
		if !verdicts[policy.Name].Accepted {
			continue
		}
		selector, err := NewSelector(policy)
		if err != nil {
			continue // not accepted either
		}
		program.policies = append(program.policies, programmed{selector: selector, policy: compile(policy)})
		if Shares(policy) {
			program.policies[len(program.policies)-1].policy.Enforcers = settings.Enforcers[policy.Name]
		}
	}
	slices.SortFunc(program.policies, func(a, b programmed) int { return cmp.Compare(a.policy.Name, b.policy.Name) })
	return program
}

// Select says which policies select a pod with these labels that has a sidecar.
func (p *Program) Select(podLabels map[string]string) Selection {
	var names []string
	for i := range p.policies {
		if p.policies[i].selector.Selects(podLabels, true) {
			names = append(names, p.policies[i].policy.Name)
		}
	}
	return Selection(strings.Join(names, "/")) // no name has a slash
}

// Ruleset is what a pod with this Selection enforces.
func (p *Program) Ruleset(selection Selection) *ruleset.Ruleset {
	result := &ruleset.Ruleset{Namespace: p.namespace, Store: p.settings.Store, Link: p.settings.Link, Tracing: p.settings.Tracing}
	names := strings.Split(string(selection), "/")
	for i := range p.policies {
		if slices.Contains(names, p.policies[i].policy.Name) {
			result.Policies = append(result.Policies, p.policies[i].policy)
		}
	}
	if len(p.Intercepted()) > 0 {
		result.Authorities, result.HostRoots = p.settings.Authorities, p.settings.HostRoots
	}
	result.Seal()
	return result
}

// Compile is the Ruleset of a pod with a sidecar and these labels: the accepted
// policies of its namespace that select it, by name.
func Compile(namespace string, policies []v1alpha1.RateLimitPolicy, podLabels map[string]string, settings Settings) *ruleset.Ruleset {
	program := Prepare(namespace, policies, settings)
	return program.Ruleset(program.Select(podLabels))
}
