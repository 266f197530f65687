package e2e

import (
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// programmed is a Programmed condition as it was seen.
type programmed struct {
	Status     metav1.ConditionStatus
	Generation int64
}

// watchProgrammed records the conditions of a policy until the test ends.
func watchProgrammed(policy *v1alpha1.RateLimitPolicy) func() []programmed {
	GinkgoHelper()
	restConfig, err := config.GetConfig()
	Expect(err).NotTo(HaveOccurred())
	Expect(v1alpha1.AddToScheme(scheme.Scheme)).To(Succeed())
	watcher, err := client.NewWithWatch(restConfig, client.Options{})
	Expect(err).NotTo(HaveOccurred())
	watching, cancel := context.WithCancel(ctx)
	stream, err := watcher.Watch(watching, &v1alpha1.RateLimitPolicyList{}, client.InNamespace(policy.Namespace))
	Expect(err).NotTo(HaveOccurred())

	var seen []programmed
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range stream.ResultChan() {
			changed, ok := event.Object.(*v1alpha1.RateLimitPolicy)
			if !ok || changed.Name != policy.Name {
				continue
			}
			c := meta.FindStatusCondition(changed.Status.Conditions, v1alpha1.ConditionProgrammed)
			if c == nil {
				continue
			}
			now := programmed{c.Status, c.ObservedGeneration}
			if len(seen) == 0 || seen[len(seen)-1] != now {
				seen = append(seen, now)
			}
		}
	}()
	return func() []programmed {
		cancel()
		<-done
		return seen
	}
}

var _ = Describe("An edit", func() {
	It("is enforced in every pod within a second, without a restart", func() {
		namespace := newNamespace()
		first := makePod("api-1").labelled("app", "api").serving(8080).create(namespace)
		second := makePod("api-2").labelled("app", "api").serving(8080).create(namespace)
		caller := makePod("caller").create(makeNamespace(nil))
		policy := makePolicy("api").selecting("api").admitting(100).create(namespace)
		waitReady(first, second, caller)
		waitEnforced(policy, 2)
		Expect(callFrom(caller.Namespace, caller.Name, "-n=50", "-H=X-User-ID: a", "http://"+first.Status.PodIP+":8080/").Statuses).
			To(Equal(map[string]int{"200": 50}))
		seen := watchProgrammed(policy)

		By("editing the limit from 100 to 5")
		before := policy.Generation
		patch := client.MergeFrom(policy.DeepCopy())
		policy.Spec.Limits[0].Requests = 5
		began := time.Now()
		Expect(cluster.Patch(ctx, policy, patch)).To(Succeed())
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
			c := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionProgrammed)
			g.Expect(c.ObservedGeneration).To(Equal(before + 1))
			g.Expect(c.Status).To(Equal(metav1.ConditionTrue))
		}).WithPolling(5 * time.Millisecond).Should(Succeed())
		enforced := time.Since(began)
		AddReportEntry("edit to enforced in 2 pods, by status", enforced.String())

		By("asking both pods: user A has used more than 5, user B has 5")
		for _, pod := range []string{first.Status.PodIP, second.Status.PodIP} {
			Expect(callFrom(caller.Namespace, caller.Name, "-n=3", "-H=X-User-ID: a", "http://"+pod+":8080/").Statuses).
				To(Equal(map[string]int{"429": 3}))
		}
		Expect(callFrom(caller.Namespace, caller.Name, "-n=8", "-H=X-User-ID: b", "http://"+first.Status.PodIP+":8080/").Statuses).
			To(Equal(map[string]int{"200": 5, "429": 3}))
		Expect(enforced).To(BeNumerically("<", 10*time.Second), "the promise is a second; the figure is in the report")

		By("reading the conditions and what kubectl prints")
		Expect(seen()).To(ContainElements(
			programmed{metav1.ConditionFalse, before + 1},
			programmed{metav1.ConditionTrue, before + 1},
		))
		lines := strings.Split(strings.TrimSpace(runKubectl("-n", namespace, "get", "rlpol")), "\n")
		Expect(strings.Fields(lines[0])).To(Equal([]string{"NAME", "SERVICE", "DIRECTION", "LIMIT", "MODE", "PODS", "READY", "AGE"}))
		Expect(strings.Fields(lines[1])[:7]).To(Equal([]string{"api", "api", "Inbound", "5/1m", "Enforce", "2/2", "True"}))
	})

	It("that cannot be obeyed is said to be so, and disturbs no other policy", func() {
		namespace := newNamespace()
		pod := makePod("api").labelled("app", "api").serving(8080).create(namespace)
		good := makePolicy("good").selecting("api").create(namespace)
		waitReady(pod)
		waitEnforced(good, 1)

		bad := makePolicy("bad").selecting("api")
		bad.Spec.Match = []v1alpha1.RequestMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.PathMatchRegularExpression, Value: "/v1/(unclosed"}}}
		refused := bad.create(namespace)
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(refused), refused)).To(Succeed())
			c := meta.FindStatusCondition(refused.Status.Conditions, v1alpha1.ConditionAccepted)
			g.Expect(c).NotTo(BeNil())
			g.Expect(c.Status).To(Equal(metav1.ConditionFalse))
			g.Expect(c.Reason).To(Equal(v1alpha1.ReasonInvalidMatch))
			g.Expect(c.Message).To(ContainSubstring("match[0].path.value"))
		}).Should(Succeed())
		Expect(runKubectl("-n", namespace, "get", "rlpol", "bad", "-o", "wide")).To(ContainSubstring("match[0].path.value"))

		claim := makePolicy("twice").selecting("api")
		claim.Spec.Service = "good"
		second := claim.create(namespace)
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(second), second)).To(Succeed())
			c := meta.FindStatusCondition(second.Status.Conditions, v1alpha1.ConditionAccepted)
			g.Expect(c).NotTo(BeNil())
			g.Expect(c.Reason).To(Equal(v1alpha1.ReasonServiceConflict))
			g.Expect(c.Message).To(ContainSubstring("good"))
		}).Should(Succeed())
		waitEnforced(good, 1)
	})
})
