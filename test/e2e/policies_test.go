package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// policyBuilder makes policies that read like sentences:
// makePolicy("spotify").outbound("api.spotify.com").admitting(100).
type policyBuilder struct{ v1alpha1.RateLimitPolicy }

// makePolicy holds callers, named by the header X-User-ID (which is stripped),
// to 100 inbound requests a minute.
func makePolicy(name string) *policyBuilder {
	b := &policyBuilder{v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}}
	b.Spec.Direction = v1alpha1.DirectionInbound
	b.Spec.Identity.Sources = []v1alpha1.IdentitySource{{Header: &v1alpha1.HeaderSource{Name: "X-User-ID", Strip: ptr.To(true)}}}
	return b.admitting(100)
}

func (b *policyBuilder) outbound(hosts ...string) *policyBuilder {
	b.Spec.Direction, b.Spec.Hosts = v1alpha1.DirectionOutbound, hosts
	return b
}

// intercepting ends the TLS of the policy's hosts.
func (b *policyBuilder) intercepting() *policyBuilder {
	b.Spec.TLS = v1alpha1.TLSIntercept
	return b
}

// within changes the window of the limits.
func (b *policyBuilder) within(window time.Duration) *policyBuilder {
	for i := range b.Spec.Limits {
		b.Spec.Limits[i].Window = metav1.Duration{Duration: window}
	}
	return b
}

func (b *policyBuilder) selecting(app string) *policyBuilder {
	b.Spec.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	return b
}

func (b *policyBuilder) admitting(requests int32) *policyBuilder {
	b.Spec.Limits = []v1alpha1.Limit{{Requests: requests, Window: metav1.Duration{Duration: time.Minute}}}
	return b
}

func (b *policyBuilder) withoutStore(what v1alpha1.OnStoreFailure) *policyBuilder {
	b.Spec.OnStoreFailure = what
	return b
}

func (b *policyBuilder) create(namespace string) *v1alpha1.RateLimitPolicy {
	GinkgoHelper()
	policy := b.DeepCopy()
	policy.Namespace = namespace
	Expect(cluster.Create(ctx, policy)).To(Succeed())
	return policy
}

// waitAccepted waits until the operator has judged the policy.
func waitAccepted(policy *v1alpha1.RateLimitPolicy) *metav1.Condition {
	GinkgoHelper()
	var accepted *metav1.Condition
	Eventually(func(g Gomega) {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		accepted = meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionAccepted)
		g.Expect(accepted).NotTo(BeNil())
		g.Expect(accepted.Status).To(Equal(metav1.ConditionTrue), accepted.Message)
	}).Should(Succeed())
	return accepted
}

// waitEnforced waits until as many pods as said enforce the policy's newest edit.
func waitEnforced(policy *v1alpha1.RateLimitPolicy, pods int32) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		g.Expect(policy.Status.ObservedGeneration).To(Equal(policy.Generation))
		g.Expect(policy.Status.Pods).NotTo(BeNil())
		g.Expect(policy.Status.Pods.Selected).To(Equal(pods))
		g.Expect(policy.Status.Pods.Enforcing).To(Equal(pods))
		g.Expect(meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue(), "%+v", policy.Status.Conditions)
	}).Should(Succeed())
}
