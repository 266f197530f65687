package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// shortLeafLife is the least that the operator takes.
const shortLeafLife = time.Minute

var _ = Describe("Interception", Serial, Ordered, ContinueOnFailure, func() {
	const url = "https://api.provider.com/v1/me"
	var authority string

	BeforeAll(func() {
		authority = provideSecurely("com", "provider")
		trustHosts(authority)
		setOperatorFlag("--leaf-life=" + shortLeafLife.String())
	})

	It("holds real clients to the limit for each user, also when leaf and authority are renewed under them", func() {
		namespace := newNamespace()
		makeClientPrograms(namespace)
		policy := makePolicy("provider").outbound("api.provider.com").selecting("chat").intercepting().admitting(20).within(10 * time.Minute).create(namespace)
		waitAccepted(policy)
		one := makePod("one").labelled("app", "chat").withClientPrograms().create(namespace)
		other := makePod("other").labelled("app", "chat").withClientPrograms().create(namespace)
		waitReady(one, other)
		waitEnforced(policy, 2)
		firsts := map[*corev1.Pod]certificate{one: waitIntercepted(one, url), other: waitIntercepted(other, url)}
		kept, fresh := httpClients(one, other)

		By("asking 25 times with each client, as a user of its own, and the user of all 5 times with each")
		before := arrived(one, url)
		for _, c := range kept {
			Expect(c.ask(c.name, url, 25)).To(Equal(map[string]int{admitted: 20, refused: 5}), c.name)
		}
		together := map[string]int{}
		for _, c := range append(kept, fresh...) {
			add(together, c.ask("all", url, 5))
		}
		Expect(together).To(Equal(map[string]int{admitted: 20, refused: 5*(len(kept)+len(fresh)) - 20}))
		Expect(arrived(one, url)-before).To(BeNumerically("==", 20*len(kept)+20+1), "what was limited never reached the provider")

		stillServed := func(when string) {
			GinkgoHelper()
			for _, c := range kept {
				Expect(c.ask("kept-"+when+c.name, url, 3)).To(Equal(map[string]int{admitted: 3}), "%s, over a kept connection, %s", c.name, when)
			}
			for _, c := range fresh {
				Expect(c.ask("fresh-"+when+c.name, url, 3)).To(Equal(map[string]int{admitted: 3}), "%s, over a new connection, %s", c.name, when)
			}
		}
		By("waiting until the leaf is renewed")
		for pod, first := range firsts {
			Eventually(func() string { return peerOf(pod, url).serial }).WithTimeout(shortLeafLife).ShouldNot(Equal(first.serial))
		}
		stillServed("renewed")

		By("intercepting another host in the namespace, for which there has to be another authority")
		waitAccepted(makePolicy("another").outbound("api.another.com").selecting("nobody").intercepting().create(namespace))
		for pod, first := range firsts {
			Eventually(func() string { return peerOf(pod, url).issuer }).ShouldNot(Equal(first.issuer))
		}
		stillServed("rotated")
		waitEnforced(policy, 2)
	})

	It("is not there by default, and the policy's status says so", func() {
		namespace := newNamespace()
		policy := makePolicy("provider").outbound("api.provider.com").selecting("chat").admitting(1).create(namespace)
		Expect(waitAccepted(policy).Message).To(ContainSubstring("those over HTTPS pass uncounted, because spec.tls is Passthrough"))
		pod := makePod("passing").labelled("app", "chat").withHostPrograms().trusting(namespace, authority).ready(namespace)
		waitEnforced(policy, 1)
		Expect(curl(pod, "a", url, 5)).To(Equal(map[string]int{"200": 5}))
		Expect(peerOf(pod, url).issuer).To(Equal("The providers' authority"))
		Expect(curl(pod, "a", "http://api.provider.com/v1/me", 5)).To(Equal(map[string]int{"200": 1, "429": 4}))
	})

	It("leaves a variable that the application set, says so, and breaks no call for long", func() {
		namespace := newNamespace()
		policy := makePolicy("provider").outbound("api.provider.com").selecting("chat").intercepting().admitting(1).create(namespace)
		waitAccepted(policy)
		makePod("own").labelled("app", "chat").withHostPrograms().trusting(namespace, authority).deployed(namespace, "own", 1)
		waitEnforced(policy, 1)
		waitRolledOut(namespace, "own")
		Eventually(func() string {
			return runKubectl("-n", namespace, "get", "events", "--field-selector=reason=TrustIncomplete")
		}).Should(ContainSubstring(`container "app" sets SSL_CERT_FILE itself`))
		pods := &corev1.PodList{}
		Expect(cluster.List(ctx, pods, client.InNamespace(namespace))).To(Succeed())
		Expect(pods.Items).To(HaveLen(1))
		pod := &pods.Items[0]
		Expect(pod.Annotations["weir.dev/status"]).To(ContainSubstring(`"kept":{"app":["SSL_CERT_FILE"]}`))

		By("asking until the sidecar lets the client pass, which refuses its certificate")
		Eventually(func() error {
			_, err := tryKubectl("-n", namespace, "exec", pod.Name, "-c", "app", "--", "/usr/bin/curl", "-sSf", "-o", "/dev/null", url)
			return err
		}).Should(Succeed())
		Expect(curl(pod, "a", url, 5)).To(Equal(map[string]int{"200": 5}), "uncounted")
		Expect(sidecarMetrics(pod)).To(And(
			MatchRegexp(`weir_sidecar_tls_connections_total\{outcome="rejected"\} [1-9]`),
			MatchRegexp(`weir_sidecar_tls_connections_total\{outcome="pinned"\} [1-9]`)))
	})
})

// certificate is the one that a pod's Go client was shown.
type certificate struct{ issuer, serial string }

func peerOf(pod *corev1.Pod, url string) certificate {
	GinkgoHelper()
	got := callFrom(pod.Namespace, pod.Name, "-H=X-User-ID: "+time.Now().Format(time.StampNano), url)
	if got.Peer == nil {
		return certificate{}
	}
	return certificate{got.Peer.Issuer, got.Peer.Serial}
}

// waitIntercepted waits until a pod's connections to a host are intercepted:
// its sidecar has a leaf, and the roots to verify the host with.
func waitIntercepted(pod *corev1.Pod, url string) certificate {
	GinkgoHelper()
	var shown certificate
	Eventually(func() string {
		shown = peerOf(pod, url)
		return shown.issuer
	}).Should(HavePrefix("Weir interception"))
	return shown
}

// arrived is how many requests the provider has answered, with this one.
func arrived(pod *corev1.Pod, url string) int64 {
	GinkgoHelper()
	got := callFrom(pod.Namespace, pod.Name, "-H=X-User-ID: "+time.Now().Format(time.StampNano), url)
	Expect(got.Last).NotTo(BeNil(), "%+v", got)
	Expect(got.Last.Headers).NotTo(HaveKey("X-User-Id"))
	return got.Last.Requests
}

// trusting has the application bring its own roots, in its own variable.
func (b *podBuilder) trusting(namespace, authority string) *podBuilder {
	GinkgoHelper()
	own := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "own-"}, Data: map[string]string{"roots.pem": authority},
	}
	Expect(cluster.Create(ctx, own)).To(Succeed())
	b.container().Env = append(b.container().Env, corev1.EnvVar{Name: "SSL_CERT_FILE", Value: "/own/roots.pem"})
	return b.mounting("own", corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: own.Name}},
	}, "/own")
}

// sidecarMetrics is what a pod's sidecar says of itself.
func sidecarMetrics(pod *corev1.Pod) string {
	GinkgoHelper()
	return runKubectl("get", "--raw", "/api/v1/namespaces/"+pod.Namespace+"/pods/"+pod.Name+":14020/proxy/metrics")
}

// setOperatorFlag restarts the operator with a flag, for the time of the test.
func setOperatorFlag(argument string) {
	GinkgoHelper()
	operator := &appsv1.StatefulSet{}
	key := client.ObjectKey{Namespace: systemNamespace, Name: "weir-operator"}
	change := func(edit func([]string) []string) {
		GinkgoHelper()
		Expect(cluster.Get(ctx, key, operator)).To(Succeed())
		patch := client.MergeFrom(operator.DeepCopy())
		c := &operator.Spec.Template.Spec.Containers[0]
		c.Args = edit(c.Args)
		Expect(cluster.Patch(ctx, operator, patch)).To(Succeed())
		runKubectl("-n", systemNamespace, "rollout", "status", "statefulset/"+key.Name, "--timeout=80s")
		waitForOperator()
	}
	change(func(arguments []string) []string { return append(arguments, argument) })
	DeferCleanup(func() {
		change(func(arguments []string) []string {
			var others []string
			for _, a := range arguments {
				if a != argument {
					others = append(others, a)
				}
			}
			return others
		})
	})
}
