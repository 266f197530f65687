package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// intercepting makes a policy one that intercepts hosts.
func intercepting(hosts ...string) func(*v1alpha1.RateLimitPolicy) {
	return func(p *v1alpha1.RateLimitPolicy) {
		p.Spec.Direction, p.Spec.Hosts, p.Spec.TLS = v1alpha1.DirectionOutbound, hosts, v1alpha1.TLSIntercept
	}
}

func edit(policy *v1alpha1.RateLimitPolicy, change func(*v1alpha1.RateLimitPolicy)) {
	GinkgoHelper()
	patch := client.MergeFrom(policy.DeepCopy())
	change(policy)
	Expect(k8sClient.Patch(ctx, policy, patch)).To(Succeed())
}

// certificateRequest is for names, with a key of its own.
func certificateRequest(names ...string) (request []byte, key *ecdsa.PrivateKey) {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	request, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	Expect(err).NotTo(HaveOccurred())
	return request, key
}

// certificate asks for a leaf and returns its chain.
func (s *sidecar) certificate(names ...string) ([]*x509.Certificate, error) {
	GinkgoHelper()
	request, key := certificateRequest(names...)
	chain, err := s.Certificate(ctx, request)
	if err != nil {
		return nil, err
	}
	certs := parsePEM(string(chain))
	Expect(key.PublicKey.Equal(certs[0].PublicKey)).To(BeTrue(), "the leaf is for the sidecar's key")
	return certs, nil
}

func parsePEM(text string) []*x509.Certificate {
	GinkgoHelper()
	var certs []*x509.Certificate
	for rest := []byte(text); len(rest) > 0; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		cert, err := x509.ParseCertificate(block.Bytes)
		Expect(err).NotTo(HaveOccurred())
		certs = append(certs, cert)
	}
	return certs
}

// accepts is what a program says of a chain that knows some authorities.
func accepts(known string, chain []*x509.Certificate, name string, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(known))
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name, CurrentTime: now})
	return err
}

var _ = Describe("interception", Ordered, func() {
	const year = 365 * 24 * time.Hour
	var leader, follower *replica
	var operatorNamespace string
	var ahead atomic.Int64 // of the operator's clock, in nanoseconds
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	web := map[string]string{"app": "web"}

	BeforeAll(func() {
		operatorNamespace = newNamespace(nil)
		keeper := certs.New(certs.Options{
			Client: k8sClient, Namespace: operatorNamespace, DNSNames: []string{"localhost"}, Logger: GinkgoLogr,
		})
		Expect(keeper.Ensure(ctx)).To(Succeed())
		leader, follower = newReplica(keeper, operatorNamespace, now), newReplica(keeper, operatorNamespace, now)
		leader.lead(follower, tokenOf(operatorNamespace, "default", ruleset.Audience, nil))
		follower.start()
		leader.start()
	})

	secretOf := func(namespace string) (*corev1.Secret, error) {
		secret := &corev1.Secret{}
		return secret, k8sClient.Get(ctx, client.ObjectKey{Namespace: operatorNamespace, Name: "weir-authority-" + namespace}, secret)
	}
	// authoritiesOf are those of the Secret; empty when there is none.
	authoritiesOf := func(namespace string) func() string {
		return func() string {
			secret, err := secretOf(namespace)
			if apierrors.IsNotFound(err) {
				return ""
			}
			Expect(err).NotTo(HaveOccurred())
			return string(secret.Data["authorities.crt"])
		}
	}
	// stamped is what injection stamps into a pod now.
	stamped := func(on *replica, namespace string) *ruleset.Ruleset {
		GinkgoHelper()
		return on.stamped(namespace, web)
	}

	It("has an authority while a policy asks for it, and tells every sidecar", func() {
		namespace := newNamespace(nil)
		selected := startSidecar(createPod(namespace, "web-1", web, true), leader)
		other := startSidecar(createPod(namespace, "other", nil, true), follower)
		policy := createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com", "*.cdn.example"), func(p *v1alpha1.RateLimitPolicy) {
			p.Spec.TLS = v1alpha1.TLSPassthrough
		})
		Eventually(selected.policies).Should(ConsistOf("spotify"))
		Expect(authoritiesOf(namespace)()).To(BeEmpty())

		edit(policy, func(p *v1alpha1.RateLimitPolicy) { p.Spec.TLS = v1alpha1.TLSIntercept })
		Eventually(authoritiesOf(namespace)).ShouldNot(BeEmpty())
		bundle := authoritiesOf(namespace)()
		Eventually(selected.authorities).Should(Equal(bundle))
		Eventually(other.authorities).Should(Equal(bundle))
		authority := parsePEM(bundle)
		Expect(authority).To(HaveLen(1))
		Expect(authority[0].PermittedDNSDomains).To(Equal([]string{"api.example.com", "cdn.example"}))
		Expect(authority[0].PermittedDNSDomainsCritical).To(BeTrue())
		secret, err := secretOf(namespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(secret.Data).To(HaveKey("authority.key"))

		By("no policy that asks for it any more: sidecars know none, and the Secret stays for those that come back")
		edit(policy, func(p *v1alpha1.RateLimitPolicy) { p.Spec.TLS = v1alpha1.TLSPassthrough })
		Eventually(selected.authorities).Should(BeEmpty())
		edit(policy, func(p *v1alpha1.RateLimitPolicy) { p.Spec.TLS = v1alpha1.TLSIntercept })
		Eventually(selected.authorities).Should(Equal(bundle))
	})

	It("has one before the next pod begins, whichever replica injects it", func() {
		namespace := newNamespace(nil)
		createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com"))
		began := time.Now()
		rules := stamped(follower, namespace)
		AddReportEntry("stamping with a first authority", time.Since(began).String())
		Expect(rules.Authorities).To(Equal(authoritiesOf(namespace)()))
		Expect(parsePEM(rules.Authorities)).To(HaveLen(1))
		Consistently(authoritiesOf(namespace), "1500ms").Should(Equal(rules.Authorities), "the leader makes no other")
	})

	It("signs what the pod intercepts, and nothing else", func() {
		namespace, elsewhere := newNamespace(nil), newNamespace(nil)
		createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com", "*.cdn.example"))
		createPolicy(namespace, "steam", "api", 100, intercepting("steam.example"))
		createPolicy(namespace, "passing", "web", 100, intercepting("passing.example"), func(p *v1alpha1.RateLimitPolicy) { p.Spec.TLS = v1alpha1.TLSPassthrough })
		createPolicy(elsewhere, "bank", "web", 100, intercepting("bank.example"))
		pod := createPod(namespace, "web-1", web, true)
		selected := startSidecar(pod, leader)
		other := startSidecar(createPod(namespace, "other", nil, true), follower)
		Eventually(selected.policies).Should(ConsistOf("passing", "spotify"))

		chain, err := selected.certificate("api.example.com", "eu.west.cdn.example", "*.cdn.example")
		Expect(err).NotTo(HaveOccurred())
		Expect(chain).To(HaveLen(1))
		Eventually(selected.authorities).ShouldNot(BeEmpty())
		for _, name := range []string{"api.example.com", "eu.west.cdn.example", "us.cdn.example"} {
			Expect(accepts(selected.authorities(), chain, name, time.Now())).To(Succeed(), name)
		}
		Expect(time.Until(chain[0].NotAfter)).To(BeNumerically("~", 6*time.Hour, time.Minute))

		for _, refusal := range []struct {
			reason string
			by     *sidecar
			name   string
		}{
			{"a host of no policy", selected, "evil.example"},
			{"below a host that is exact", selected, "v1.api.example.com"},
			{"the domain of a pattern", selected, "cdn.example"},
			{"a policy that does not intercept", selected, "passing.example"},
			{"a policy that selects other pods", selected, "steam.example"},
			{"a pod that no policy selects", other, "api.example.com"},
			{"a policy of another namespace", selected, "bank.example"},
		} {
			_, err := refusal.by.certificate(refusal.name)
			Expect(err).To(MatchError(And(ContainSubstring("403"), ContainSubstring(refusal.name))), refusal.reason)
		}

		By("a pod without sidecar, and no pod")
		bare := createPod(namespace, "bare", web, false)
		request, _ := certificateRequest("api.example.com")
		for token, status := range map[string]int{
			"": http.StatusUnauthorized,
			tokenOf(namespace, "default", ruleset.Audience, nil):  http.StatusForbidden,
			tokenOf(namespace, "default", ruleset.Audience, bare): http.StatusForbidden,
			tokenOf(namespace, "default", ruleset.Audience, pod):  http.StatusOK,
		} {
			Expect(leader.certify(token, request)).To(Equal(status))
		}
		Expect(leader.certify(tokenOf(namespace, "default", ruleset.Audience, pod), nil)).To(Equal(http.StatusBadRequest))
	})

	It("widens at once when hosts are added, and programs that began before accept what they did", func() {
		namespace := newNamespace(nil)
		policy := createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com"))
		before := stamped(leader, namespace)
		old := startStamped(createPod(namespace, "web-1", web, true), before)
		Eventually(old.authorities).Should(Equal(before.Authorities))

		edit(policy, intercepting("api.example.com", "new.example"))
		Eventually(func() int { return strings.Count(old.authorities(), "BEGIN") }).Should(Equal(2))
		after := stamped(leader, namespace)
		Expect(after.Authorities).To(Equal(old.authorities()))
		Expect(after.Authorities).To(HavePrefix(before.Authorities), "the newest is last")
		young := startStamped(createPod(namespace, "web-2", web, true), after)

		for _, name := range []string{"api.example.com", "new.example"} {
			chain, err := old.certificate(name)
			Expect(err).NotTo(HaveOccurred())
			Expect(chain).To(HaveLen(2))
			fits := Succeed()
			if name == "new.example" {
				fits = MatchError(ContainSubstring("not permitted"))
			}
			Expect(accepts(before.Authorities, chain, name, time.Now())).To(fits, name)
			chain, err = young.certificate(name)
			Expect(err).NotTo(HaveOccurred())
			Expect(chain).To(HaveLen(1))
			Expect(accepts(after.Authorities, chain, name, time.Now())).To(Succeed(), name)
		}

		By("fewer hosts: nothing is made")
		edit(policy, intercepting("new.example"))
		Consistently(authoritiesOf(namespace), "1500ms").Should(Equal(after.Authorities))
	})

	It("has one for policies that are applied together", func() {
		namespace := newNamespace(nil)
		for i := range 10 {
			createPolicy(namespace, fmt.Sprint("policy-", i), "web", 100, intercepting(fmt.Sprint(i, ".example")))
		}
		Eventually(func() []string {
			certs := parsePEM(authoritiesOf(namespace)())
			if len(certs) == 0 {
				return nil
			}
			return certs[len(certs)-1].PermittedDNSDomains
		}).Should(HaveLen(10))
		Expect(len(parsePEM(authoritiesOf(namespace)()))).To(BeNumerically("<=", 2))
	})

	It("is the same for replicas that make it at once", func() {
		const namespaces = 5
		for range namespaces {
			namespace := newNamespace(nil)
			bundles := make([]string, 8)
			var asking sync.WaitGroup
			for i := range bundles {
				on := []*replica{leader, follower}[i%2]
				asking.Go(func() {
					defer GinkgoRecover()
					var err error
					bundles[i], err = on.authorities.For(ctx, namespace, []string{"api.example.com"})
					Expect(err).NotTo(HaveOccurred())
				})
			}
			asking.Wait()
			Expect(slices.Compact(bundles)).To(Equal([]string{authoritiesOf(namespace)()}))
			Eventually(func() string { return leader.authorities.Bundle(namespace) }).Should(Equal(bundles[0]))
			Eventually(func() string { return follower.authorities.Bundle(namespace) }).Should(Equal(bundles[0]))
		}
	})

	It("is made anew when its Secret is spoiled or deleted", func() {
		namespace := newNamespace(nil)
		createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com"))
		s := startSidecar(createPod(namespace, "web-1", web, true), follower)
		Eventually(s.authorities).ShouldNot(BeEmpty())
		first := s.authorities()
		secret, err := secretOf(namespace)
		Expect(err).NotTo(HaveOccurred())
		secret.Data["authority.key"] = []byte("spoiled")
		Expect(k8sClient.Update(ctx, secret)).To(Succeed())
		Eventually(func() int { return strings.Count(s.authorities(), "BEGIN") }).Should(Equal(2))
		Expect(s.authorities()).To(HavePrefix(first), "what is signed already stays good")

		Expect(k8sClient.Delete(ctx, secret)).To(Succeed())
		Eventually(func() bool { return s.authorities() != "" && !strings.HasPrefix(s.authorities(), first) }).Should(BeTrue())
		chain, err := s.certificate("api.example.com")
		Expect(err).NotTo(HaveOccurred())
		Expect(accepts(s.authorities(), chain, "api.example.com", time.Now())).To(Succeed())
	})

	It("says which pods have to be restarted, whichever replica they told", func() {
		namespace := newNamespace(nil)
		policy := createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com"))
		createPolicy(namespace, "steam", "web", 100, intercepting("steam.example"))
		first := startSidecar(createPod(namespace, "web-1", web, true), leader)
		second := startSidecar(createPod(namespace, "web-2", web, true), follower)
		Eventually(shows(policy, "Ready")).Should(Equal("Ready=True Ready 1"))

		second.is("spotify")
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=False RestartNeeded 1"))
		Expect(messageOf(policy, "Ready")).To(HavePrefix("1 of 2 pods do not intercept (web-2): they began before"))
		Expect(policy.Status.Pods).To(Equal(&v1alpha1.PodCounts{Selected: 2, Enforcing: 1, Summary: "1/2"}))
		Eventually(eventsAbout(policy)).Should(ContainElement("Warning RestartNeeded"))
		steam := &v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "steam"}}
		Expect(shows(steam, "Ready")()).To(Equal("Ready=True Ready 1"))

		first.is("spotify")
		Eventually(func() string { shows(policy, "Ready")(); return messageOf(policy, "Ready") }).Should(HavePrefix("2 of 2 pods"))
		Expect(eventsAbout(policy)()).To(ContainElement("Warning RestartNeeded"))

		By("pods that were restarted")
		first.is()
		second.is()
		Eventually(shows(policy, "Ready")).Should(Equal("Ready=True Ready 1"))
	})

	It("goes with its namespace", func() {
		namespace := newNamespace(nil)
		policy := createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com"))
		Eventually(authoritiesOf(namespace)).ShouldNot(BeEmpty())
		Expect(k8sClient.Delete(ctx, policy)).To(Succeed())
		endNamespace(namespace)
		Eventually(authoritiesOf(namespace)).Should(BeEmpty())
		Eventually(func() string { return follower.authorities.Bundle(namespace) }).Should(BeEmpty())
	})

	// The last of all: the clock of the operator stays ahead.
	It("rotates by the clock, and programs that began before accept what comes after", func() {
		namespace := newNamespace(nil)
		policy := createPolicy(namespace, "spotify", "web", 100, intercepting("api.example.com", "b.example"))
		before := stamped(leader, namespace)
		old := startStamped(createPod(namespace, "web-1", web, true), before)
		Eventually(old.authorities).Should(Equal(before.Authorities))
		edit(policy, intercepting("api.example.com"))
		Eventually(shows(policy, "Accepted")).Should(Equal("Accepted=True Accepted 2"))

		ahead.Store(int64(year))
		look := func() {
			GinkgoHelper()
			_, err := leader.founder().Reconcile(ctx, reconcile.Request{NamespacedName: types.NamespacedName{Name: namespace}})
			Expect(err).NotTo(HaveOccurred())
		}
		look()
		Eventually(func() int { return strings.Count(old.authorities(), "BEGIN") }).Should(Equal(2))
		both := old.authorities()
		Expect(parsePEM(both)[1].PermittedDNSDomains).To(Equal([]string{"api.example.com"}), "narrowed to what is left")
		chain, err := old.certificate("api.example.com")
		Expect(err).NotTo(HaveOccurred())
		Expect(accepts(before.Authorities, chain, "api.example.com", now())).To(Succeed())
		Expect(accepts(both, chain, "api.example.com", now())).To(Succeed())

		By("the first one's end")
		ahead.Store(int64(2*year + time.Minute))
		look()
		Eventually(func() bool { return strings.Contains(old.authorities(), before.Authorities) }).Should(BeFalse())
		chain, err = old.certificate("api.example.com")
		Expect(err).NotTo(HaveOccurred())
		Expect(accepts(before.Authorities, chain, "api.example.com", now())).NotTo(Succeed())
		Expect(accepts(both, chain, "api.example.com", now())).To(Succeed(), "a program of the second generation")
	})
})

// certify is the status of a request for a certificate.
func (r *replica) certify(token string, asked []byte) int {
	GinkgoHelper()
	body, err := json.Marshal(ruleset.CertificateRequest{Request: asked})
	Expect(err).NotTo(HaveOccurred())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+r.link.Address+ruleset.CertificatePath, bytes.NewReader(body))
	Expect(err).NotTo(HaveOccurred())
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := r.client().Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode
}

// endNamespace deletes a namespace and does what a controller manager would in
// the end.
func endNamespace(name string) {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	Expect(k8sClient.Delete(ctx, namespace)).To(Succeed())
	Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(namespace), namespace)).To(Succeed())
	namespace.Spec.Finalizers = nil
	Expect(k8sClient.SubResource("finalize").Update(context.WithoutCancel(ctx), namespace)).To(Succeed())
}
