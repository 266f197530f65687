package programming

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Bounds on what one authority may sign for. Up to eight authorities go to a
// client in one handshake, and Java reads no more than 32 KiB of it.
const (
	maxDomains     = 100
	maxDomainBytes = 2560
)

// Intercepted are the domains that the authority of a namespace with these
// policies has to be for, with all that is below them; none when no accepted
// policy intercepts.
func Intercepted(policies []v1alpha1.RateLimitPolicy) []string {
	if !slices.ContainsFunc(policies, func(p v1alpha1.RateLimitPolicy) bool { return intercepts(&p.Spec) }) {
		return nil
	}
	return Prepare("", policies, Settings{}).Intercepted()
}

// Intercepted are the domains that the namespace's authority has to be for.
func (p *Program) Intercepted() []string {
	var hosts []string
	for i := range p.policies {
		hosts = append(hosts, InterceptedHosts(&p.policies[i].policy)...)
	}
	return domains(hosts)
}

// InterceptedHosts are the hosts of a policy whose TLS is ended: its hosts but
// for addresses, since who connects to an address names no host.
func InterceptedHosts(policy *ruleset.Policy) []string {
	if !policy.Intercept {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(policy.Hosts), func(host string) bool {
		_, err := netip.ParseAddr(host)
		return err == nil
	})
}

// domains are what has to be permitted for hosts: X.509 permits a domain with
// all that is below it, so an exact host and a pattern "*." are the same, and
// what is below another is left out.
func domains(hosts []string) []string {
	var all []string
	for _, host := range hosts {
		all = append(all, strings.TrimPrefix(host, "*."))
	}
	slices.Sort(all)
	all = slices.Compact(all)
	return slices.DeleteFunc(slices.Clone(all), func(domain string) bool {
		return slices.ContainsFunc(all, func(above string) bool { return strings.HasSuffix(domain, "."+above) })
	})
}

// hostsFitTheAuthority refuses the policies whose hosts, added to those of the
// older ones, are more than one authority can be for. It judges the policies
// that are accepted so far.
func hostsFitTheAuthority(accepted []*v1alpha1.RateLimitPolicy) rule {
	slices.SortFunc(accepted, func(a, b *v1alpha1.RateLimitPolicy) int {
		if older(a, b) {
			return -1
		}
		return 1
	})
	var held []string
	refused := map[string]int{}
	for _, policy := range accepted {
		if !intercepts(&policy.Spec) {
			continue
		}
		compiled := compile(policy)
		all := domains(slices.Concat(held, InterceptedHosts(&compiled)))
		if len(all) > maxDomains || len(strings.Join(all, "")) > maxDomainBytes {
			refused[policy.Name] = len(all)
			continue
		}
		held = all
	}
	return func(policy *v1alpha1.RateLimitPolicy) (reason, message string, refuse bool) {
		count, refuse := refused[policy.Name]
		return v1alpha1.ReasonTooManyHosts, fmt.Sprintf("With this policy's hosts those that the namespace's older policies intercept would be %d domains; the namespace's authority can be for %d domains of %d characters together. "+
			"Write hosts of one domain as a pattern such as *.example.com, or set spec.tls to Passthrough.", count, maxDomains, maxDomainBytes), refuse
	}
}
