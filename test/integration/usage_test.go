package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

var _ = Describe("usage", Ordered, func() {
	var (
		redis            *redistest.Server
		leader, follower *replica
		namespace        string
		policy           *v1alpha1.RateLimitPolicy
		pod              *sidecar
		limits           *limiter.Limiter // of the pod's sidecar
		support, reader  string           // tokens
	)

	BeforeAll(func() {
		redis = redistest.Start(GinkgoTB())
		operatorNamespace := newNamespace(nil)
		keeper := certs.New(certs.Options{Client: k8sClient, Namespace: operatorNamespace, DNSNames: []string{"localhost"}, Logger: GinkgoLogr})
		Expect(keeper.Ensure(ctx)).To(Succeed())
		leader, follower = newReplica(keeper, operatorNamespace, time.Now), newReplica(keeper, operatorNamespace, time.Now)
		for _, r := range []*replica{leader, follower} {
			r.rulesets.Configure(programming.Settings{Store: &ruleset.Store{URL: redis.URL(), TimeoutMillis: 5000}, Link: r.link})
		}
		leader.lead(follower, tokenOf(operatorNamespace, "default", ruleset.Audience, nil))
		leader.start()
		follower.start()

		namespace = newNamespace(nil)
		policy = createPolicy(namespace, "spotify", "", 3, func(p *v1alpha1.RateLimitPolicy) {
			p.Spec.Overrides = []v1alpha1.Override{{Identities: []string{"internal"}, Unlimited: ptr.To(true)}}
		})
		pod = startSidecar(createPod(namespace, "web-1", nil, true), leader)
		Eventually(pod.store).ShouldNot(BeNil())
		limits = limiter.New(limiter.Options{})
		DeferCleanup(limits.Close)
		Expect(limits.Use(pod.store())).To(Succeed())

		support = person(namespace, "support", map[string][]string{"usage": {"get"}, "resets": {"create"}, "grants": {"create", "list", "delete"}})
		reader = person(namespace, "reader", map[string][]string{"usage": {"get"}})
	})

	// take asks as the sidecar would for a caller, and says whether it was admitted.
	take := func(identity string) bool {
		GinkgoHelper()
		var rules *ruleset.Policy
		Eventually(func() int { rules = pod.rules("spotify"); return len(pod.policies()) }).Should(Equal(1))
		decision, err := limits.Take(ctx, []limiter.Take{{
			Namespace: namespace, Service: "spotify", Identity: identity, Limits: rules.LimitsFor(identity, time.Now()),
		}})
		Expect(err).NotTo(HaveOccurred())
		return decision.Admitted
	}
	exhaust := func(identity string) (admitted int) {
		GinkgoHelper()
		for take(identity) {
			admitted++
		}
		return admitted
	}

	It("says what remains and when more does, and takes nothing", func() {
		Expect(take("alice")).To(BeTrue())
		for range 3 {
			found := follower.usage(reader, namespace, "alice")
			Expect(found.Service).To(Equal("spotify"))
			Expect(found.Admitted).To(BeTrue())
			Expect(found.Limits).To(HaveLen(1))
			Expect(found.Limits[0].Used).To(Equal(int64(1)))
			Expect(found.Limits[0].Remaining).To(Equal(int64(2)))
			Expect(found.Limits[0].FreesAfterSeconds).To(BeNumerically("~", 55, 5))
		}
		Expect(exhaust("alice")).To(Equal(2))
		found := follower.usage(reader, namespace, "alice")
		Expect(found.Admitted).To(BeFalse())
		Expect(found.RetryAfterSeconds).To(BeNumerically("~", 55, 5))
		Expect(follower.usage(reader, namespace, "internal").Unlimited).To(BeTrue())
		Expect(follower.usage(reader, namespace, "").Limits[0].Used).To(BeZero(), "unnamed callers")
	})

	It("empties one caller's windows, and has sidecars forget that they refused it", func() {
		exhaust("alice")
		Expect(exhaust("bob")).To(Equal(3))
		status, body := follower.person(support, http.MethodPost, namespace, "resets", `{"identity":"alice"}`)
		Expect(status).To(Equal(http.StatusOK), body)
		Expect(body).To(ContainSubstring(`"remaining":3`))
		told := func() int64 {
			for _, reset := range pod.rules("spotify").Resets {
				if reset.Identity == "alice" {
					return reset.AtMicros
				}
			}
			return 0
		}
		Eventually(told).ShouldNot(BeZero())
		limits.Forget(namespace, "spotify", []string{"alice"}) // as the sidecar does: sidecar/proxy
		Expect(exhaust("alice")).To(Equal(3))
		before := told()
		status, _ = leader.person(support, http.MethodPost, namespace, "resets", `{"identity":"alice"}`)
		Expect(status).To(Equal(http.StatusOK))
		Eventually(told).Should(BeNumerically(">", before), "another reset is another")
		stamped := leader.stamped(namespace, nil)
		Expect(stamped.Policies[0].Resets).To(BeEmpty(), "pods do not show callers' names")
		Expect(take("bob")).To(BeFalse())

		Eventually(eventsAbout(policy)).Should(ContainElement("Normal QuotaReset"))
		Expect(notesAbout(policy)).To(ContainElement(And(ContainSubstring("system:serviceaccount:"+namespace+":support emptied the windows of caller-"), Not(ContainSubstring("alice")))))
	})

	It("grants more for a time, at whichever replica, and less when that is over", func() {
		Expect(exhaust("carol")).To(Equal(3))
		status, body := follower.person(support, http.MethodPost, namespace, "grants", `{"identity":"carol","requests":2,"for":"1h","reason":"ticket 7"}`)
		Expect(status).To(Equal(http.StatusOK), body)
		Eventually(func() int64 { return pod.rules("spotify").LimitsFor("carol", time.Now())[0].Requests }).Should(Equal(int64(5)))
		Expect(exhaust("carol")).To(Equal(2))
		found := leader.usage(reader, namespace, "carol")
		Expect(found.Limits[0].Requests).To(Equal(int64(5)))
		Expect(found.Grant.Reason).To(Equal("ticket 7"))
		Expect(shows(policy, "Programmed")()).To(Equal("Programmed=True Programmed 1"), "a grant is no edit of the policy")
		Expect(policy.Status.Grants).To(HaveLen(1))
		status, body = leader.person(support, http.MethodGet, namespace, "grants", "")
		Expect(status).To(Equal(http.StatusOK))
		Expect(body).To(ContainSubstring(`"by":"system:serviceaccount:` + namespace + `:support"`))

		By("another grant of the caller replaces it")
		until := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)
		status, body = leader.person(support, http.MethodPost, namespace, "grants", `{"identity":"carol","requests":9,"until":"`+until+`"}`)
		Expect(status).To(Equal(http.StatusOK), body)
		Eventually(func() int64 { return pod.rules("spotify").Overrides[0].Limits[0].Requests }).Should(Equal(int64(12)))
		Eventually(func() int64 { return pod.rules("spotify").LimitsFor("carol", time.Now())[0].Requests }).Should(Equal(int64(3)))
		Eventually(func() []v1alpha1.Grant { shows(policy, "Ready")(); return policy.Status.Grants }).Should(BeEmpty())
		Eventually(func() []ruleset.Override { return pod.rules("spotify").Overrides }).Should(HaveLen(1))

		By("and one can be ended")
		status, _ = leader.person(support, http.MethodPost, namespace, "grants", `{"identity":"carol","requests":2,"for":"1h"}`)
		Expect(status).To(Equal(http.StatusOK))
		status, body = leader.person(support, http.MethodDelete, namespace, "grants?identity=carol", "")
		Expect(status).To(Equal(http.StatusOK), body)
		Eventually(func() []ruleset.Override { return pod.rules("spotify").Overrides }).Should(HaveLen(1))
		status, _ = leader.person(support, http.MethodDelete, namespace, "grants?identity=carol", "")
		Expect(status).To(Equal(http.StatusNotFound))
		Eventually(eventsAbout(policy)).Should(ContainElements("Normal QuotaGranted", "Normal QuotaRevoked"))
	})

	It("does only what Kubernetes says that the user may", func() {
		sidecarToken := tokenOf(namespace, "default", ruleset.Audience, nil)
		nobody := tokenOf(namespace, "default", "", nil)
		for _, attempt := range []struct {
			token, method, path, body string
			status                    int
			says                      string
		}{
			{"", http.MethodGet, "usage?identity=alice", "", http.StatusUnauthorized, "kubectl create token"},
			{"made-up", http.MethodGet, "usage?identity=alice", "", http.StatusUnauthorized, "kubectl create token"},
			{sidecarToken, http.MethodGet, "usage?identity=alice", "", http.StatusUnauthorized, "kubectl create token"},
			{nobody, http.MethodGet, "usage?identity=alice", "", http.StatusForbidden, "may not get ratelimitpolicies/usage of spotify in namespace " + namespace},
			{reader, http.MethodPost, "resets", `{"identity":"alice"}`, http.StatusForbidden, "may not create ratelimitpolicies/resets"},
			{reader, http.MethodPost, "grants", `{"identity":"alice","requests":1,"for":"1h"}`, http.StatusForbidden, "may not create ratelimitpolicies/grants"},
			{reader, http.MethodGet, "grants", "", http.StatusForbidden, "may not list ratelimitpolicies/grants"},
			{reader, http.MethodDelete, "grants?identity=alice", "", http.StatusForbidden, "may not delete ratelimitpolicies/grants"},
		} {
			By(fmt.Sprintf("%s %s", attempt.method, attempt.path))
			status, body := leader.person(attempt.token, attempt.method, namespace, attempt.path, attempt.body)
			Expect(status).To(Equal(attempt.status), body)
			Expect(body).To(ContainSubstring(attempt.says))
		}
		other := newNamespace(nil)
		createPolicy(other, "spotify", "", 3)
		status, _ := leader.person(support, http.MethodGet, other, "usage?identity=alice", "")
		Expect(status).To(Equal(http.StatusForbidden), "rights in one namespace are none in another")
	})

	It("names what is wrong with a request", func() {
		for _, bad := range []struct {
			method, path, body string
			status             int
			says               string
		}{
			{http.MethodGet, "usage", "", http.StatusBadRequest, "identity is required"},
			{http.MethodGet, "usage?identity=a&identity=b", "", http.StatusBadRequest, "once"},
			{http.MethodGet, "usage?identity=" + strings.Repeat("x", 1025), "", http.StatusBadRequest, "at most 1024 bytes"},
			{http.MethodPost, "resets", `{}`, http.StatusBadRequest, "identity is required"},
			{http.MethodPost, "resets", `{"identty":"alice"}`, http.StatusBadRequest, "identty"},
			{http.MethodPost, "resets", `{"identity":"alice"} {}`, http.StatusBadRequest, "behind"},
			{http.MethodPost, "resets", `{"identity":"` + strings.Repeat("x", 9000) + `"}`, http.StatusRequestEntityTooLarge, "8192"},
			{http.MethodPost, "resets", `{"identity":"internal"}`, http.StatusConflict, "limits nothing"},
			{http.MethodPost, "grants", `{"identity":"alice","requests":0,"for":"1h"}`, http.StatusBadRequest, "requests is 0"},
			{http.MethodPost, "grants", `{"identity":"alice","requests":1}`, http.StatusBadRequest, "until"},
			{http.MethodPost, "grants", `{"identity":"alice","requests":1,"for":"1h","until":"2030-01-01T00:00:00Z"}`, http.StatusBadRequest, "Either"},
			{http.MethodPost, "grants", `{"identity":"alice","requests":1,"for":"-1h"}`, http.StatusBadRequest, "lasts from"},
			{http.MethodPost, "grants", `{"identity":"alice","requests":1,"for":"1h","reason":"` + strings.Repeat("x", 201) + `"}`, http.StatusBadRequest, "200 characters"},
			{http.MethodPost, "grants", `{"identity":"internal","requests":1,"for":"1h"}`, http.StatusConflict, "limits nothing"},
			{http.MethodPut, "grants", `{}`, http.StatusNotFound, "Paths are"},
		} {
			By(fmt.Sprintf("%s %.60s %.60s", bad.method, bad.path, bad.body))
			status, body := leader.person(support, bad.method, namespace, bad.path, bad.body)
			Expect(status).To(Equal(bad.status), body)
			Expect(body).To(ContainSubstring(bad.says))
		}
	})

	It("says so when Redis does not answer", func() {
		redis.Kill()
		status, body := leader.person(reader, http.MethodGet, namespace, "usage?identity=alice", "")
		Expect(status).To(Equal(http.StatusServiceUnavailable))
		Expect(body).To(ContainSubstring("Redis did not say"))
		Expect(body).NotTo(ContainSubstring(redis.Addr))
	})
})

// person makes a service account with rights on subresources of policies, and
// returns a token of it as kubectl create token does.
func person(namespace, name string, verbs map[string][]string) string {
	GinkgoHelper()
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	role := &rbacv1.Role{ObjectMeta: meta}
	for subresource, allowed := range verbs {
		role.Rules = append(role.Rules, rbacv1.PolicyRule{
			APIGroups: []string{"weir.dev"}, Resources: []string{"ratelimitpolicies/" + subresource}, Verbs: allowed,
		})
	}
	for _, object := range []client.Object{
		&corev1.ServiceAccount{ObjectMeta: meta}, role,
		&rbacv1.RoleBinding{
			ObjectMeta: meta,
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: name}},
		},
	} {
		Expect(k8sClient.Create(ctx, object)).To(Succeed())
	}
	return tokenOf(namespace, name, "", nil)
}

// person asks about policy spotify.
func (r *replica) person(token, method, namespace, path, body string) (status int, text string) {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(ctx, method, "https://"+r.link.Address+usage.Prefix+namespace+"/spotify/"+path, bytes.NewReader([]byte(body)))
	Expect(err).NotTo(HaveOccurred())
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := r.client().Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, string(read)
}

func (r *replica) usage(token, namespace, identity string) (found usage.Usage) {
	GinkgoHelper()
	status, body := r.person(token, http.MethodGet, namespace, "usage?identity="+url.QueryEscape(identity), "")
	Expect(status).To(Equal(http.StatusOK), body)
	Expect(json.Unmarshal([]byte(body), &found)).To(Succeed())
	return found
}
