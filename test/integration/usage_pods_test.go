package integration

import (
	"encoding/json"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

var _ = Describe("usage's pods", Ordered, func() {
	It("are told alike by every replica, whichever they asked", func() {
		redis := redistest.Start(GinkgoTB())
		operatorNamespace := newNamespace(nil)
		keeper := certs.New(certs.Options{Client: k8sClient, Namespace: operatorNamespace, DNSNames: []string{"localhost"}, Logger: GinkgoLogr})
		Expect(keeper.Ensure(ctx)).To(Succeed())
		leader, follower := newReplica(keeper, operatorNamespace, time.Now), newReplica(keeper, operatorNamespace, time.Now)
		for _, r := range []*replica{leader, follower} {
			r.rulesets.Configure(programming.Settings{Store: &ruleset.Store{URL: redis.URL(), TimeoutMillis: 5000}, Link: r.link})
		}
		token := tokenOf(operatorNamespace, "default", ruleset.Audience, nil)
		leader.lead(follower, token)
		follower.follow(leader, token)
		leader.start()
		follower.start()

		namespace := newNamespace(nil)
		policy := createPolicy(namespace, "spotify", "", 3)
		one, two := createPod(namespace, "web-1", nil, true), createPod(namespace, "web-2", nil, true)
		startSidecar(one, leader)
		startSidecar(two, follower)
		createPod(namespace, "web-3", nil, true)
		reader := personWith(namespace, "reader", map[string][]string{"ratelimitpolicies": {"get"}})

		// told is what a replica says, without times.
		told := func(r *replica, query string) (found usage.Pods, text string) {
			GinkgoHelper()
			status, text := r.get(reader, usage.Prefix+namespace+"/spotify/pods"+query)
			Expect(status).To(Equal(http.StatusOK), text)
			Expect(json.Unmarshal([]byte(text), &found)).To(Succeed())
			return found, text
		}
		states := func(found usage.Pods) (all []string) {
			for _, pod := range found.Pods {
				all = append(all, pod.Pod+" "+pod.State)
			}
			return all
		}
		both := func(want ...string) usage.Pods {
			GinkgoHelper()
			var found usage.Pods
			Eventually(func(g Gomega) {
				var here, there string
				found, here = told(leader, "")
				_, there = told(follower, "")
				g.Expect(states(found)).To(Equal(want))
				g.Expect(there).To(Equal(here))
			}).Should(Succeed())
			return found
		}
		found := both("web-3 NotConnected", "web-1 Enforcing", "web-2 Enforcing")
		Expect(found.States).To(Equal(usage.PodStates{Selected: 3, Enforcing: 2, NotConnected: 1, Troubled: 1}))
		Expect(found.Generation).To(Equal(int64(1)))
		Expect(*found.Pods[1].Since).To(BeTemporally("~", time.Now(), time.Minute))

		By("by generation")
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(policy), policy)).To(Succeed())
		policy.Spec.Limits[0].Requests = 4
		Expect(k8sClient.Update(ctx, policy)).To(Succeed())
		startSidecar(createPod(namespace, "web-4", nil, true), leader)
		createPod(namespace, "web-5", nil, false)
		again := both("web-3 NotConnected", "web-1 Enforcing", "web-2 Enforcing", "web-4 Enforcing")
		Expect(again.Pods[1].Generation).To(Equal(int64(2)))
		Expect(*again.Pods[1].Since).To(BeTemporally(">", *found.Pods[1].Since))

		By("in pages, and by part of a name")
		first, _ := told(leader, "?limit=2")
		Expect(states(first)).To(Equal([]string{"web-3 NotConnected", "web-1 Enforcing"}))
		second, _ := told(follower, "?limit=2&continue="+first.Continue)
		Expect(states(second)).To(Equal([]string{"web-2 Enforcing", "web-4 Enforcing"}))
		Expect(second.Continue).To(BeEmpty())
		some, _ := told(leader, "?search=b-2")
		Expect(states(some)).To(Equal([]string{"web-2 Enforcing"}))

		By("to those who may get the policy")
		other := personWith(namespace, "other", map[string][]string{"ratelimitpolicies": {"list"}})
		status, text := leader.get(other, usage.Prefix+namespace+"/spotify/pods")
		Expect(status).To(Equal(http.StatusForbidden), text)
	})
})
