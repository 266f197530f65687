package e2e

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
)

var _ = Describe("An outbound policy", Serial, func() {
	It("holds unmodified clients over all pods, and counts no other host", func() {
		provide("com", "spotify", "other")
		namespace := newNamespace()
		curls := makePod("curls").labelled("app", "chat").withHostPrograms().create(namespace)
		pythons := makePod("pythons").labelled("app", "chat").withHostPrograms().create(namespace)
		policy := makePolicy("spotify").outbound("api.spotify.com", "*.spotify.com").selecting("chat").admitting(100).create(namespace)
		waitReady(curls, pythons)
		waitEnforced(policy, 2)

		By("calling as user A from both pods, 75 times each, with curl and with Python's urllib")
		statuses := curl(curls, "a", "http://api.spotify.com/v1/me", 75)
		add(statuses, python(pythons, "a", "http://api.spotify.com/v1/me", 75))
		Expect(statuses).To(Equal(map[string]int{"200": 100, "429": 50}))

		By("calling as user B, and another host as user A")
		Expect(curl(curls, "b", "http://api.spotify.com/v1/me", 20)).To(Equal(map[string]int{"200": 20}))
		Expect(curl(curls, "a", "http://api.other.com/v1/me", 120)).To(Equal(map[string]int{"200": 120}))

		By("reading what arrived")
		arrived := callFrom(namespace, pythons.Name, "-H=X-User-ID: c", "http://api.spotify.com/v1/me")
		Expect(arrived.Last).NotTo(BeNil(), "%+v", arrived)
		Expect(arrived.Last.Host).To(Equal("api.spotify.com"))
		Expect(arrived.Last.Headers).NotTo(HaveKey("X-User-Id"))
		Expect(arrived.Last.Requests).To(BeNumerically("==", 121), "what was limited never reached the provider")
	})
})

// curl calls n times in one run of the node's curl and counts the statuses.
func curl(pod *corev1.Pod, user, url string, n int) map[string]int {
	GinkgoHelper()
	output := execIn(pod.Namespace, pod.Name, "/usr/bin/curl", "-sS", "--max-time", "60", "-o", "/dev/null",
		"-w", "%{http_code}\n", "-H", "X-User-ID: "+user, fmt.Sprintf("%s?n=[1-%d]", url, n))
	return count(output)
}

const pythonClient = `
import sys, urllib.request, urllib.error
user, url, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
for _ in range(n):
    try:
        print(urllib.request.urlopen(urllib.request.Request(url, headers={"X-User-ID": user}), timeout=10).status)
    except urllib.error.HTTPError as e:
        print(e.code)
`

// python calls n times with the node's Python and its standard library.
func python(pod *corev1.Pod, user, url string, n int) map[string]int {
	GinkgoHelper()
	return count(execIn(pod.Namespace, pod.Name, "/usr/bin/python3", "-c", pythonClient, user, url, fmt.Sprint(n)))
}

func count(lines string) map[string]int {
	counts := map[string]int{}
	for _, line := range strings.Fields(lines) {
		counts[line]++
	}
	return counts
}

func add(to, from map[string]int) {
	for key, n := range from {
		to[key] += n
	}
}
