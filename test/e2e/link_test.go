package e2e

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("The link", func() {
	It("gives nothing to whoever is not a sidecar", func() {
		namespace := newNamespace()
		pod := makePod("asks").withHostPrograms().ready(namespace)
		ask := func(arguments ...string) string {
			GinkgoHelper()
			return execIn(namespace, pod.Name, append([]string{
				"/usr/bin/curl", "-ksS", "--max-time", "10", "-o", "/dev/null", "-w", "%{http_code}", "-d", "{}",
				"https://weir-link." + systemNamespace + ".svc:9444/v1/ruleset",
			}, arguments...)...)
		}
		Expect(ask()).To(Equal("401"), "without a token")
		Expect(ask("-H", "Authorization: Bearer nonsense")).To(Equal("401"))

		token := func(arguments ...string) string {
			GinkgoHelper()
			return strings.TrimSpace(runKubectl(append([]string{"-n", namespace, "create", "token", "default"}, arguments...)...))
		}
		Expect(ask("-H", "Authorization: Bearer "+token())).To(Equal("401"), "a token for the API server")
		Expect(ask("-H", "Authorization: Bearer "+token("--audience=weir.dev"))).To(Equal("403"), "a service account that is no pod")
		Expect(ask("-H", "Authorization: Bearer "+token("--audience=weir.dev", "--bound-object-kind=Pod", "--bound-object-name="+pod.Name))).To(Equal("200"), "the pod's own")
	})
})
