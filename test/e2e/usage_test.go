package e2e

import (
	"encoding/json"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("A caller's quota", func() {
	It("is told, emptied and raised for whoever Kubernetes allows", func() {
		namespace := newNamespace()
		api := makePod("api").labelled("app", "api").serving(8080).create(namespace)
		caller := makePod("caller").withHostPrograms().create(makeNamespace(nil))
		policy := makePolicy("api").selecting("api").admitting(5).create(namespace)
		waitReady(api, caller)
		waitEnforced(policy, 1)
		admitted := func(user string) int {
			GinkgoHelper()
			return callFrom(caller.Namespace, caller.Name, "-n=12", "-H=X-User-ID: "+user, "http://"+api.Status.PodIP+":8080/").Statuses["200"]
		}

		runKubectl("-n", namespace, "create", "serviceaccount", "support")
		runKubectl("-n", namespace, "create", "role", "support", "--verb=get,create,list,delete",
			"--resource=ratelimitpolicies.weir.dev/usage,ratelimitpolicies.weir.dev/resets,ratelimitpolicies.weir.dev/grants")
		runKubectl("-n", namespace, "create", "rolebinding", "support", "--role=support", "--serviceaccount="+namespace+":support")
		token := strings.TrimSpace(runKubectl("-n", namespace, "create", "token", "support"))
		ask := func(path string, arguments ...string) map[string]any {
			GinkgoHelper()
			text := execIn(caller.Namespace, caller.Name, append([]string{
				"/usr/bin/curl", "-ksS", "--max-time", "10", "-H", "Authorization: Bearer " + token,
				"https://weir-link." + systemNamespace + ".svc:9444/v1/policies/" + namespace + "/api/" + path,
			}, arguments...)...)
			var answer map[string]any
			Expect(json.Unmarshal([]byte(text), &answer)).To(Succeed(), text)
			return answer
		}

		Expect(admitted("alice")).To(Equal(5))
		Expect(ask("usage?identity=alice")).To(And(
			HaveKeyWithValue("admitted", false), HaveKeyWithValue("retryAfterSeconds", And(BeNumerically(">", 0), BeNumerically("<=", 60)))))
		Expect(ask("usage?identity=bob")).To(HaveKeyWithValue("admitted", true))

		By("emptying the caller's windows: its sidecar forgets that it refused it")
		Expect(ask("resets", "-d", `{"identity":"alice"}`)).To(HaveKeyWithValue("admitted", true))
		Eventually(func() int { return admitted("alice") }).Should(Equal(5))

		By("granting it more")
		Expect(ask("grants", "-d", `{"identity":"alice","requests":3,"for":"10m","reason":"ticket 7"}`)).To(HaveKeyWithValue("identity", "alice"))
		total := 0
		Eventually(func() int { total += admitted("alice"); return total }).Should(Equal(3))
		Expect(runKubectl("-n", namespace, "describe", "ratelimitpolicy", "api")).To(And(
			ContainSubstring("ticket 7"), ContainSubstring("QuotaReset"), ContainSubstring("QuotaGranted")))
		Expect(ask("grants?identity=alice", "-X", "DELETE")).To(HaveKeyWithValue("grants", BeEmpty()))
	})
})
