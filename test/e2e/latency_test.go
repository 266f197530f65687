package e2e

import (
	"fmt"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/weir-dev/weir/api/v1alpha1"
)

var _ = Describe("A request through the sidecar", Serial, func() {
	It("is measured against a direct one", func() {
		namespace := newNamespace()
		policy := makePolicy("api").selecting("api").admitting(10_000).create(namespace)
		through := makePod("through").labelled("app", "api").serving(8080).create(namespace)
		direct := makePod("direct").labelled(v1alpha1.LabelInject, v1alpha1.InjectOptOut).serving(8080).create(namespace)
		caller := makePod("caller").create(makeNamespace(nil))
		waitReady(through, direct, caller)
		waitEnforced(policy, 1)
		call := func(ip string) report {
			GinkgoHelper()
			got := callFrom(caller.Namespace, caller.Name, "-n=1000", "-keepalive", "-H=X-User-ID: a", "http://"+ip+":8080/")
			Expect(got.Statuses).To(Equal(map[string]int{"200": 1000}))
			return got
		}

		var p50s, p99s []int64
		for range 5 { // interleaved, so that the machine's drift falls on both
			plain, held := call(direct.Status.PodIP), call(through.Status.PodIP)
			p50s = append(p50s, held.P50Micros-plain.P50Micros)
			p99s = append(p99s, held.P99Micros-plain.P99Micros)
		}
		slices.Sort(p50s)
		slices.Sort(p99s)
		AddReportEntry("added latency through the sidecar, medians of 5 runs of 1,000 requests on 1 connection",
			fmt.Sprintf("p50 %d µs, p99 %d µs", p50s[2], p99s[2]))
	})
})
