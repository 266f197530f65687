package programming

import (
	"slices"
	"strings"
	"time"

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
		Overrides:      append(grants(policy), overrides(spec.Overrides)...),
		Resets:         resets(policy.Status.Resets),
		Observe:        spec.Mode == v1alpha1.ModeObserve,
		OnStoreFailure: onStoreFailure(spec.OnStoreFailure),
		Wait:           wait(spec.OnLimit),
		Intercept:      intercepts(spec),
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
	switch f {
	case v1alpha1.OnStoreFailureAllow:
		return ruleset.OnStoreFailureAllow
	case v1alpha1.OnStoreFailureDeny:
		return ruleset.OnStoreFailureDeny
	default:
		return ruleset.OnStoreFailureLocal
	}
}

// intercepts says whether TLS to a policy's hosts is ended: the Ruleset knows
// that of Outbound policies only.
func intercepts(spec *v1alpha1.RateLimitPolicySpec) bool {
	return spec.TLS == v1alpha1.TLSIntercept && direction(spec.Direction) == ruleset.Outbound
}

// What onLimit says where it does not; the schema cannot, because both are
// refused without action Wait.
const (
	defaultMaxWait    = 30 * time.Second
	defaultMaxWaiting = 100
)

func wait(declared *v1alpha1.OnLimit) *ruleset.Wait {
	if declared == nil || declared.Action != v1alpha1.OnLimitWait {
		return nil
	}
	compiled := &ruleset.Wait{MaxWaitMillis: defaultMaxWait.Milliseconds(), MaxWaiting: defaultMaxWaiting}
	if declared.MaxWait != nil {
		compiled.MaxWaitMillis = declared.MaxWait.Milliseconds()
	}
	if declared.MaxWaiting != nil {
		compiled.MaxWaiting = int64(*declared.MaxWaiting)
	}
	return compiled
}

func headerMatches(declared []v1alpha1.HeaderMatch) []ruleset.HeaderMatch {
	var compiled []ruleset.HeaderMatch
	for _, header := range declared {
		match := ruleset.HeaderMatch{Name: header.Name, Type: ruleset.HeaderExact, Value: header.Value}
		if header.Type == v1alpha1.HeaderMatchRegularExpression {
			match.Type = ruleset.HeaderRegularExpression
		}
		compiled = append(compiled, match)
	}
	return compiled
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
		compiled[i].Headers = headerMatches(match.Headers)
	}
	return compiled
}

func sources(declared []v1alpha1.IdentitySource) []ruleset.Source {
	compiled := make([]ruleset.Source, len(declared))
	for i := range declared {
		compiled[i] = source(&declared[i])
	}
	return compiled
}

func source(declared *v1alpha1.IdentitySource) ruleset.Source {
	compiled := ruleset.Source{BearerToken: declared.BearerToken != nil}
	if header := declared.Header; header != nil {
		compiled.Header = &ruleset.HeaderSource{Name: header.Name, Strip: header.Strip != nil && *header.Strip}
	}
	if declared.JWTClaim != nil {
		compiled.JWTClaim = declared.JWTClaim.Name
	}
	if declared.Cookie != nil {
		compiled.Cookie = declared.Cookie.Name
	}
	if declared.QueryParameter != nil {
		compiled.QueryParameter = declared.QueryParameter.Name
	}
	if address := declared.ClientIP; address != nil {
		compiled.ClientIP = &ruleset.ClientIPSource{
			TrustedHops: int64(address.TrustedHops), IPv6PrefixLength: defaultIPv6PrefixLength,
		}
		if address.IPv6PrefixLength != 0 {
			compiled.ClientIP.IPv6PrefixLength = int64(address.IPv6PrefixLength)
		}
	}
	return compiled
}

// defaultIPv6PrefixLength is the API's default.
const defaultIPv6PrefixLength = 64

func limits(declared []v1alpha1.Limit) []ruleset.Limit {
	compiled := make([]ruleset.Limit, len(declared))
	for i, limit := range declared {
		compiled[i] = ruleset.Limit{Requests: int64(limit.Requests), WindowMillis: limit.Window.Milliseconds()}
	}
	return compiled
}

// grants stand before the overrides; one of a caller that nothing limits is none.
func grants(policy *v1alpha1.RateLimitPolicy) []ruleset.Override {
	var compiled []ruleset.Override
	for _, grant := range policy.Status.Grants {
		if more := WithGrant(LimitsOf(policy, grant.Identity), &grant); len(more) > 0 {
			compiled = append(compiled, ruleset.Override{
				Identities: []string{grant.Identity}, Limits: limits(more), UntilMillis: grant.Until.UnixMilli(),
			})
		}
	}
	return compiled
}

// LimitsOf are the limits that a policy declares for a caller: of the first
// override that names it, or its own; none: unlimited. Grants are not in them.
func LimitsOf(policy *v1alpha1.RateLimitPolicy, identity string) []v1alpha1.Limit {
	for i := range policy.Spec.Overrides {
		if slices.Contains(policy.Spec.Overrides[i].Identities, identity) {
			return policy.Spec.Overrides[i].Limits
		}
	}
	return policy.Spec.Limits
}

// WithGrant are limits with what is granted.
func WithGrant(limits []v1alpha1.Limit, grant *v1alpha1.Grant) []v1alpha1.Limit {
	more := slices.Clone(limits)
	for i := range more {
		more[i].Requests = min(more[i].Requests+grant.Requests, v1alpha1.MaxRequests)
	}
	return more
}

func resets(declared []v1alpha1.Reset) []ruleset.Reset {
	var compiled []ruleset.Reset
	for i := range declared {
		compiled = append(compiled, ruleset.Reset{Identity: declared[i].Identity, AtMicros: declared[i].At.UnixMicro()})
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
