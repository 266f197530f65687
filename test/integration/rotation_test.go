package integration

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// externalSecret is what somebody else fills.
const externalSecret = "from-cert-manager"

// rotating marks the namespaces of this file.
const rotating = "test.weir.dev/rotation"

// operators are two replicas with certificates of one Secret, a webhook, and
// what asks them all the time.
type operators struct {
	options  certs.Options
	replicas []*replica
	sidecars []*sidecar
	stop     func()

	admitted, shaken atomic.Int64
	mu               sync.Mutex
	failures         []string
}

// startOperators puts them under load until stop, or the test's end.
func startOperators(options certs.Options) *operators {
	GinkgoHelper()
	o := &operators{options: options}
	o.options.WebhookName = "weir-rotation-test"
	port := publishInjection(o.options.WebhookName, rotating)
	namespace := newNamespace(nil)
	for range 2 {
		keeper := certs.New(o.options)
		Expect(keeper.Ensure(ctx)).To(Succeed())
		r := newReplica(keeper, o.options.Namespace, time.Now)
		keeper.OnChange(func() {
			r.rulesets.Configure(programming.Settings{Link: ruleset.Link{Address: r.link.Address, CABundle: string(keeper.CABundle())}})
		})
		Expect(r.manager.Add(keeper)).To(Succeed())
		r.start()
		o.replicas = append(o.replicas, r)
	}
	runInjection(port, o.replicas[0].keeper, func(*ruleset.Ruleset) {})
	for i, r := range o.replicas {
		o.sidecars = append(o.sidecars, startSidecar(createPod(namespace, fmt.Sprintf("pod-%d", i), nil, true), r))
		Eventually(o.sidecars[i].link).ShouldNot(BeZero())
	}

	loading, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	o.stop = sync.OnceFunc(func() { cancel(); all.Wait() })
	DeferCleanup(o.stop)
	injected := newNamespace(map[string]string{rotating: "true", v1alpha1.LabelInject: v1alpha1.InjectNamespace})
	all.Go(func() { o.load(loading, func() error { return o.admit(loading, injected) }) })
	for _, s := range o.sidecars {
		all.Go(func() { o.load(loading, func() error { return o.shake(s) }) })
	}
	return o
}

// load repeats something until ctx ends, and notes what fails.
func (o *operators) load(ctx context.Context, do func() error) {
	defer GinkgoRecover()
	for ctx.Err() == nil {
		if err := do(); err != nil && ctx.Err() == nil {
			o.mu.Lock()
			o.failures = append(o.failures, time.Now().Format("05.000 ")+err.Error())
			o.mu.Unlock()
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// admit has the API server call the webhook for a pod. API servers keep their
// connections; ours is made to open another now and then by the bundle's change.
func (o *operators) admit(ctx context.Context, namespace string) error {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "pod-"},
		Spec:       corev1.PodSpec{ServiceAccountName: "default", Containers: []corev1.Container{{Name: "app", Image: "app"}}},
	}
	if err := k8sClient.Create(ctx, pod, client.DryRunAll); err != nil {
		return fmt.Errorf("admission: %w", err)
	}
	if !slices.Contains(initContainers(pod), v1alpha1.SidecarContainer) {
		return fmt.Errorf("admission: no sidecar")
	}
	o.admitted.Add(1)
	return nil
}

// shake is a sidecar that connects anew, with what it knows.
func (o *operators) shake(s *sidecar) error {
	link := s.link()
	if err := dial(link.Address, []byte(link.CABundle), time.Now); err != nil {
		return fmt.Errorf("link: %w", err)
	}
	o.shaken.Add(1)
	return nil
}

// lostNothing ends the load.
func (o *operators) lostNothing() {
	GinkgoHelper()
	for what, count := range map[string]*atomic.Int64{"admissions": &o.admitted, "connections to the link": &o.shaken} {
		Eventually(count.Load, "1m").Should(BeNumerically(">", 20), what)
	}
	o.stop()
	AddReportEntry("under load", fmt.Sprintf("%d admissions, %d connections to the link", o.admitted.Load(), o.shaken.Load()))
	Expect(o.failures).To(BeEmpty())
	for _, s := range o.sidecars {
		Expect(s.lost()).To(BeEmpty())
	}
}

// published are the authorities that the API server verifies with.
func (o *operators) published() []byte {
	GinkgoHelper()
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	Expect(k8sClient.Get(ctx, client.ObjectKey{Name: o.options.WebhookName}, configuration)).To(Succeed())
	return configuration.Webhooks[0].ClientConfig.CABundle
}

var _ = Describe("rotation under load loses no admission and no link", Serial, func() {
	It("of our own authority and serving certificate", func() {
		o := startOperators(certs.Options{
			Client: k8sClient, Namespace: newNamespace(nil), DNSNames: []string{"localhost"}, Logger: GinkgoLogr,
			Interval: 50 * time.Millisecond, AuthorityLife: 9 * time.Second, ServingLife: 4 * time.Second, Propagation: time.Second,
		})
		seen := map[string]bool{}
		Eventually(func() int {
			seen[string(o.published())] = true
			return len(seen)
		}, "1m").Should(BeNumerically(">=", 6), "each authority comes and goes: three rotations")
		o.lostNothing()
	})

	It("when somebody else takes the certificate over from us, and gives it back", func() {
		options := certs.Options{
			Client: k8sClient, Namespace: newNamespace(nil), DNSNames: []string{"localhost"}, Logger: GinkgoLogr,
			Interval: 50 * time.Millisecond, Propagation: time.Second,
		}
		ours := certs.New(options)
		Expect(ours.Ensure(ctx)).To(Succeed())
		o := startOperators(options)

		By("starting a replica that takes it from somebody else, as the first of a rolling upgrade")
		theirs := issue("theirs")
		theirs.age = 36 * time.Hour
		theirs = theirs.renew()
		theirs.store(options.Namespace)
		other := options
		other.External = externalSecret
		taking := certs.New(other)
		Expect(taking.Ensure(ctx)).To(Succeed())
		Expect(serving(taking)).To(Equal(serving(ours)), "who knows only the former goes on to reach it")
		Eventually(o.replicas[0].keeper.CABundle).Should(Equal(append(ours.CABundle(), theirs.authority...)))
		Eventually(func() []byte { Expect(taking.Ensure(ctx)).To(Succeed()); return serving(taking) }).Should(Equal(theirs.leaf))
		restarted := certs.New(other)
		Expect(restarted.Ensure(ctx)).To(Succeed())
		Expect(serving(restarted)).To(Equal(theirs.leaf))
		Expect(restarted.CABundle()).To(HavePrefix(string(ours.CABundle())), "however old that is, it is served only now")

		By("going back")
		back := certs.New(options)
		Expect(back.Ensure(ctx)).To(Succeed())
		Expect(serving(back)).To(Equal(theirs.leaf), "it is good for a while")
		Expect(back.CABundle()).To(HavePrefix(string(ours.CABundle())))
		o.lostNothing()
	})

	It("of what somebody else puts into the Secret", func() {
		options := certs.Options{
			Client: k8sClient, Namespace: newNamespace(nil), DNSNames: []string{"localhost"}, Logger: GinkgoLogr,
			External: externalSecret, Interval: 50 * time.Millisecond, Propagation: time.Second,
		}
		first := issue("first")
		first.store(options.Namespace)
		o := startOperators(options)
		Expect(serving(o.replicas[0].keeper)).To(Equal(first.leaf))

		By("renewing the certificate: it is served at once")
		second := first.renew()
		second.store(options.Namespace)
		for _, r := range o.replicas {
			Eventually(func() []byte { return serving(r.keeper) }).Should(Equal(second.leaf))
		}

		By("renewing the authority too: it is published before what it signed is served")
		third := issue("third")
		third.store(options.Namespace)
		Eventually(o.published).Should(Equal(append(bytes.Clone(first.authority), third.authority...)))
		Expect(serving(o.replicas[0].keeper)).To(Equal(second.leaf))
		starting := certs.New(o.options)
		Expect(starting.Ensure(ctx)).To(Succeed())
		Expect(serving(starting)).To(Equal(second.leaf), "a replica that starts meanwhile")
		third = third.renew()
		third.store(options.Namespace)
		Expect(o.replicas[0].keeper.Ensure(ctx)).To(Succeed())
		Expect(serving(o.replicas[0].keeper)).To(Equal(second.leaf), "it was issued again, and is not known better for that")
		for _, r := range o.replicas {
			Eventually(func() []byte { return serving(r.keeper) }).Should(Equal(third.leaf))
		}
		o.lostNothing()

		By("a replica that starts now: it serves the same")
		late := certs.New(o.options)
		Expect(late.Ensure(ctx)).To(Succeed())
		Expect(late.CABundle()).To(Equal(o.published()))
		Expect(serving(late)).To(Equal(third.leaf))

		By("a replica that starts while the Secret is away")
		Expect(k8sClient.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: options.Namespace, Name: externalSecret}})).To(Succeed())
		orphan := certs.New(o.options)
		Expect(orphan.Ensure(ctx)).To(Succeed())
		Expect(serving(orphan)).To(Equal(third.leaf))
		Expect(orphan.Ensure(ctx)).To(MatchError(certs.ErrNoCertificate), "and says what is missing")
		third.store(options.Namespace)

		By("a day after the last was issued: the former authority is forgotten")
		tomorrow := o.options
		tomorrow.Now = func() time.Time { return time.Now().Add(24 * time.Hour) }
		patient := certs.New(tomorrow)
		Expect(patient.Ensure(ctx)).To(Succeed())
		Expect(patient.CABundle()).To(Equal(third.authority))
	})
})

var _ = Describe("certificates of somebody else", func() {
	var options certs.Options

	BeforeEach(func() {
		options = certs.Options{
			Client: k8sClient, Namespace: newNamespace(nil), DNSNames: []string{"localhost"}, External: externalSecret, Logger: GinkgoLogr,
		}
	})

	It("are waited for", func() {
		keeper := certs.New(options)
		waiting := make(chan error, 1)
		go func() { waiting <- keeper.Await(ctx, time.Minute) }()
		Consistently(waiting).ShouldNot(Receive())
		issued := issue("late")
		issued.store(options.Namespace)
		Eventually(waiting).Should(Receive(BeNil()))
		Expect(serving(keeper)).To(Equal(issued.leaf))

		By("but not for ever")
		options.Namespace = newNamespace(nil)
		err := certs.New(options).Await(ctx, 10*time.Millisecond)
		Expect(err).To(MatchError(certs.ErrNoCertificate))
		Expect(err).To(MatchError(ContainSubstring("Secret " + options.Namespace + "/" + externalSecret + " does not exist yet")))
	})

	It("that nobody could verify are not served, and say why", func() {
		good := issue("good")
		good.store(options.Namespace)
		keeper := certs.New(options)
		Expect(keeper.Ensure(ctx)).To(Succeed())
		other, elsewhere := issue("other"), issue("elsewhere", "example.com")
		for want, spoiled := range map[string]*issued{
			"ca.crt of Secret":              {leaf: good.leaf, key: good.key},
			"are not a certificate and its": {leaf: good.leaf, key: other.key, authority: good.authority},
			"does not verify for localhost": {leaf: good.leaf, key: good.key, authority: other.authority},
			"elsewhere":                     nil,
		} {
			if spoiled == nil {
				spoiled, want = elsewhere, "does not verify for localhost"
			}
			spoiled.store(options.Namespace)
			err := keeper.Ensure(ctx)
			Expect(err).To(MatchError(ContainSubstring(want)))
			Expect(err).NotTo(MatchError(ContainSubstring("PRIVATE")))
			Expect(serving(keeper)).To(Equal(good.leaf), "the last good one is served on")
		}
	})
})

// issued is what an issuer puts into a Secret. leaf is DER, the others are PEM.
type issued struct {
	leaf, key, authority []byte
	// age of what is signed next.
	age time.Duration

	names  []string
	signer *x509.Certificate
	sign   *ecdsa.PrivateKey
}

// issue makes an authority and a certificate for localhost, or names.
func issue(authority string, names ...string) *issued {
	GinkgoHelper()
	if names == nil {
		names = []string{"localhost"}
	}
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: authority}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Second), NotAfter: time.Now().Add(72 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	Expect(err).NotTo(HaveOccurred())
	signer, err := x509.ParseCertificate(der)
	Expect(err).NotTo(HaveOccurred())
	return (&issued{
		authority: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), names: names, signer: signer, sign: key,
	}).renew()
}

// renew signs another certificate.
func (i *issued) renew() *issued {
	GinkgoHelper()
	next := *i
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: i.names, NotBefore: time.Now().Add(-time.Second - i.age),
		NotAfter: time.Now().Add(48 * time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	var err error
	next.leaf, err = x509.CreateCertificate(rand.Reader, template, i.signer, key.Public(), i.sign)
	Expect(err).NotTo(HaveOccurred())
	encoded, err := x509.MarshalECPrivateKey(key) // as cert-manager does, unless told otherwise
	Expect(err).NotTo(HaveOccurred())
	next.key = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
	return &next
}

func newKey() *ecdsa.PrivateKey {
	GinkgoHelper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	Expect(err).NotTo(HaveOccurred())
	return key
}

// store writes the Secret.
func (i *issued) store(namespace string) {
	GinkgoHelper()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: externalSecret}}
	secret.Type = corev1.SecretTypeTLS
	secret.Data = map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.leaf}), "tls.key": i.key, "ca.crt": i.authority,
	}
	err := k8sClient.Update(ctx, secret)
	if err != nil {
		err = k8sClient.Create(ctx, secret)
	}
	Expect(err).NotTo(HaveOccurred())
}

// link that the sidecar would connect to now.
func (s *sidecar) link() ruleset.Link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied == nil {
		return ruleset.Link{}
	}
	return s.applied.Link
}

// lost are the warnings that the sidecar has logged.
func (s *sidecar) lost() (lines []string) {
	for line := range strings.Lines(s.log.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	return lines
}
