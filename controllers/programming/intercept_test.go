package programming

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// intercepting is a policy that was made so many minutes after the first.
func intercepting(name string, minute int, hosts ...string) v1alpha1.RateLimitPolicy {
	policy := v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name,
		CreationTimestamp: metav1.NewTime(time.Date(2026, 1, 1, 0, minute, 0, 0, time.UTC)),
	}}
	policy.Spec.Direction = v1alpha1.DirectionOutbound
	policy.Spec.Hosts = hosts
	policy.Spec.TLS = v1alpha1.TLSIntercept
	return policy
}

func TestIntercepted(t *testing.T) {
	t.Parallel()
	with := func(change func(*v1alpha1.RateLimitPolicy)) v1alpha1.RateLimitPolicy {
		policy := intercepting("a", 0, "a.example")
		change(&policy)
		return policy
	}
	for _, c := range []struct {
		reason   string
		policies []v1alpha1.RateLimitPolicy
		want     []string
	}{
		{"no policy", nil, nil},
		{"hosts of several, once each and in order", []v1alpha1.RateLimitPolicy{intercepting("b", 1, "c.example", "a.example"), intercepting("a", 0, "B.example", "a.example")}, []string{"a.example", "b.example", "c.example"}},
		{"a pattern holds what is below it", []v1alpha1.RateLimitPolicy{intercepting("a", 0, "*.a.example", "www.a.example", "x.y.a.example", "aa.example")}, []string{"a.example", "aa.example"}},
		{"so does an exact host, to X.509", []v1alpha1.RateLimitPolicy{intercepting("a", 0, "a.example", "www.a.example")}, []string{"a.example"}},
		{"who connects to an address names no host", []v1alpha1.RateLimitPolicy{intercepting("a", 0, "10.0.0.1", "a.example")}, []string{"a.example"}},
		{"a policy that lets TLS pass", []v1alpha1.RateLimitPolicy{with(func(p *v1alpha1.RateLimitPolicy) { p.Spec.TLS = v1alpha1.TLSPassthrough })}, nil},
		{"one that says nothing of TLS", []v1alpha1.RateLimitPolicy{with(func(p *v1alpha1.RateLimitPolicy) { p.Spec.TLS = "" })}, nil},
		{"one for inbound requests", []v1alpha1.RateLimitPolicy{with(func(p *v1alpha1.RateLimitPolicy) { p.Spec.Direction = v1alpha1.DirectionInbound })}, nil},
		{"one that is being deleted", []v1alpha1.RateLimitPolicy{with(func(p *v1alpha1.RateLimitPolicy) { p.DeletionTimestamp = &metav1.Time{} })}, nil},
		{"one that is not accepted", []v1alpha1.RateLimitPolicy{
			with(func(p *v1alpha1.RateLimitPolicy) {
				p.Spec.PodSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "?"}}}
			}),
		}, nil},
	} {
		if got := Intercepted(c.policies); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
}

func TestOneAuthorityHoldsSoManyHosts(t *testing.T) {
	t.Parallel()
	many := func(n int, suffix string) []string {
		var hosts []string
		for i := range n {
			hosts = append(hosts, fmt.Sprintf("%d.%s", i, suffix))
		}
		return hosts
	}
	long := strings.Repeat("a", 60) + "."
	for _, c := range []struct {
		reason   string
		policies []v1alpha1.RateLimitPolicy
		refused  []string
	}{
		{"as many as fit", []v1alpha1.RateLimitPolicy{intercepting("a", 0, many(60, "a.example")...), intercepting("b", 1, many(40, "b.example")...)}, nil},
		{"the younger policy does not", []v1alpha1.RateLimitPolicy{intercepting("a", 2, many(60, "a.example")...), intercepting("b", 1, many(41, "b.example")...)}, []string{"a"}},
		{"a third, still younger, may", []v1alpha1.RateLimitPolicy{
			intercepting("a", 0, many(60, "a.example")...), intercepting("b", 1, many(41, "b.example")...), intercepting("c", 2, many(40, "c.example")...),
		}, []string{"b"}},
		{"hosts of one domain as a pattern are one", []v1alpha1.RateLimitPolicy{intercepting("a", 0, many(60, "a.example")...), intercepting("b", 1, append(many(60, "b.example"), "*.b.example")...)}, nil},
		{"names that are long", []v1alpha1.RateLimitPolicy{intercepting("a", 0, many(40, long+"example")...)}, []string{"a"}},
	} {
		var refused []string
		for name, verdict := range Accept(c.policies) {
			if !verdict.Accepted {
				refused = append(refused, name)
				if verdict.Reason != v1alpha1.ReasonTooManyHosts || !strings.Contains(verdict.Message, "*.example.com") {
					t.Errorf("%s: got verdict %+v", c.reason, verdict)
				}
			}
		}
		if !slices.Equal(refused, c.refused) {
			t.Errorf("%s: refused %q, want %q", c.reason, refused, c.refused)
		}
	}
}

func TestAuthoritiesGoWhereSomethingIsIntercepted(t *testing.T) {
	t.Parallel()
	selecting := intercepting("a", 0, "a.example")
	selecting.Spec.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	passing := intercepting("a", 0, "a.example")
	passing.Spec.TLS = v1alpha1.TLSPassthrough
	for _, c := range []struct {
		reason string
		policy v1alpha1.RateLimitPolicy
		labels map[string]string
		want   string
	}{
		{"to a pod that the policy selects", selecting, map[string]string{"app": "web"}, "PEM"},
		{"to any other of its namespace", selecting, nil, "PEM"},
		{"nowhere without such a policy", passing, nil, ""},
	} {
		if got := Compile("shop", []v1alpha1.RateLimitPolicy{c.policy}, c.labels, Settings{Authorities: "PEM"}).Authorities; got != c.want {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
}
