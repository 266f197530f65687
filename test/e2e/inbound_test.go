package e2e

import (
	"strconv"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("An inbound policy", func() {
	It("holds each user to the limit over all replicas, and nobody else", func() {
		namespace := newNamespace()
		first := makePod("api-1").labelled("app", "api").serving(8080).create(namespace)
		second := makePod("api-2").labelled("app", "api").serving(8080).create(namespace)
		other := makePod("other").labelled("app", "other").serving(8080).create(namespace)
		caller := makePod("caller").create(makeNamespace(nil))
		exposed(namespace, "api", map[string]string{"app": "api"}, 80, false)
		policy := makePolicy("api").selecting("api").admitting(100).create(namespace)
		waitReady(first, second, other, caller)
		waitEnforced(policy, 2)
		url := "http://api." + namespace + ".svc/v1"

		By("waiting until the Service leads to both replicas")
		Eventually(func() map[string]int {
			return callFrom(caller.Namespace, caller.Name, "-n=10", "-H=X-User-ID: first", url).AnsweredBy
		}).Should(HaveLen(2))

		By("sending 150 requests of user A and 50 of user B over both replicas")
		a := callFrom(caller.Namespace, caller.Name, "-n=150", "-c=8", "-H=X-User-ID: a", url)
		b := callFrom(caller.Namespace, caller.Name, "-n=50", "-c=8", "-H=X-User-ID: b", url)

		Expect(a.Statuses).To(Equal(map[string]int{"200": 100, "429": 50}), a.Error)
		Expect(a.answered()).To(Equal(100), "only the application's answers carry its name")
		Expect(a.AnsweredBy).To(HaveLen(2))
		Expect(b.Statuses).To(Equal(map[string]int{"200": 50}))
		Expect(a.Last.Headers).NotTo(HaveKey("X-User-Id"), "the header that names the caller is stripped")

		By("reading what the refused are told")
		Expect(a.Refused.Headers).To(HaveKeyWithValue("Ratelimit-Policy", []string{`"api";q=100;w=60`}))
		Expect(a.Refused.Headers["Ratelimit"]).To(ConsistOf(MatchRegexp(`^"api";r=0;t=\d+$`)))
		Expect(a.Refused.Headers).To(HaveKeyWithValue("Content-Type", []string{"application/problem+json"}))
		retryAfter, err := strconv.Atoi(a.Refused.Headers["Retry-After"][0])
		Expect(err).NotTo(HaveOccurred())
		Expect(retryAfter).To(And(BeNumerically(">=", 1), BeNumerically("<=", 60)))
		Expect(a.Refused.Body).To(And(
			HaveKeyWithValue("type", "https://iana.org/assignments/http-problem-types#quota-exceeded"),
			HaveKeyWithValue("policy", namespace+"/api"),
			HaveKeyWithValue("service", "api"),
			HaveKeyWithValue("status", BeNumerically("==", 429)),
			HaveKeyWithValue("limit", BeNumerically("==", 100)),
			HaveKeyWithValue("retryAfterMs", And(BeNumerically(">", 0), BeNumerically("<=", 60_000))),
		))

		By("calling the pod that is not selected")
		c := callFrom(caller.Namespace, caller.Name, "-n=150", "-c=8", "-H=X-User-ID: a", "http://"+other.Status.PodIP+":8080/v1")
		Expect(c.Statuses).To(Equal(map[string]int{"200": 150}))
		Expect(c.Last.Headers).To(HaveKey("X-User-Id"), "nothing is stripped where no policy holds")
	})
})
