package programming

import (
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// compile says a policy in the sidecar's words. What the API server has not
// filled in (in files that never passed it) gets the API's defaults.
func compile(policy *v1alpha1.RateLimitPolicy) ruleset.Policy {
	spec := &policy.Spec
	return ruleset.Policy{
		PolicyRef:      ruleset.PolicyRef{Name: policy.Name, UID: string(policy.UID), Generation: policy.Generation},
		Service:        policy.ServiceName(),
		Direction:      direction(spec.Direction),
		Hosts:          hosts(spec.Hosts),
		Match:          matches(spec.Match),
		Sources:        sources(spec.Identity.Sources),
		IfMissing:      ifMissing(spec.Identity.IfMissing),
		Limits:         limits(spec.Limits),
		Overrides:      overrides(spec.Overrides),
		Observe:        spec.Mode == v1alpha1.ModeObserve,
		OnStoreFailure: onStoreFailure(spec.OnStoreFailure),
	}
}

func direction(d v1alpha1.Direction) ruleset.Direction {
	if d == v1alpha1.DirectionInbound {
		return ruleset.Inbound
	}
	return ruleset.Outbound
}

func ifMissing(m v1alpha1.IfMissing) ruleset.IfMissing {
	switch m {
	case v1alpha1.IfMissingBypass:
		return ruleset.IfMissingBypass
	case v1alpha1.IfMissingReject:
		return ruleset.IfMissingReject
	default:
		return ruleset.IfMissingShared
	}
}

func onStoreFailure(f v1alpha1.OnStoreFailure) ruleset.OnStoreFailure {
	if f == v1alpha1.OnStoreFailureDeny {
		return ruleset.OnStoreFailureDeny
	}
	return ruleset.OnStoreFailureAllow
}

func pathType(t v1alpha1.PathMatchType) ruleset.PathType {
	switch t {
	case v1alpha1.PathMatchExact:
		return ruleset.PathExact
	case v1alpha1.PathMatchRegularExpression:
		return ruleset.PathRegularExpression
	default:
		return ruleset.PathPrefix
	}
}

func hosts(declared []string) []string {
	compiled := make([]string, len(declared))
	for i, host := range declared {
		compiled[i] = strings.ToLower(host)
	}
	return compiled
}

func matches(declared []v1alpha1.RequestMatch) []ruleset.Match {
	compiled := make([]ruleset.Match, len(declared))
	for i, match := range declared {
		for _, method := range match.Methods {
			compiled[i].Methods = append(compiled[i].Methods, string(method))
		}
		if match.Path != nil {
			compiled[i].Path = &ruleset.Path{Type: pathType(match.Path.Type), Value: match.Path.Value}
		}
	}
	return compiled
}

func sources(declared []v1alpha1.IdentitySource) []ruleset.Source {
	compiled := make([]ruleset.Source, len(declared))
	for i, source := range declared {
		compiled[i].BearerToken = source.BearerToken != nil
		if source.ClientIP != nil {
			compiled[i].ClientIP = &ruleset.ClientIPSource{IPv6PrefixLength: 128}
		}
		if header := source.Header; header != nil {
			compiled[i].Header = &ruleset.HeaderSource{Name: header.Name, Strip: header.Strip != nil && *header.Strip}
		}
	}
	return compiled
}

func limits(declared []v1alpha1.Limit) []ruleset.Limit {
	compiled := make([]ruleset.Limit, len(declared))
	for i, limit := range declared {
		compiled[i] = ruleset.Limit{Requests: int64(limit.Requests), WindowMillis: limit.Window.Milliseconds()}
	}
	return compiled
}

func overrides(declared []v1alpha1.Override) []ruleset.Override {
	compiled := make([]ruleset.Override, len(declared))
	for i, override := range declared {
		compiled[i] = ruleset.Override{Identities: override.Identities, Limits: limits(override.Limits)}
	}
	return compiled
}
