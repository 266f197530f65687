package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/certs"
)

var _ = Describe("certificates", func() {
	const day = 24 * time.Hour
	var options certs.Options

	BeforeEach(func() {
		options = certs.Options{Client: k8sClient, Namespace: newNamespace(nil), DNSNames: []string{"localhost"}, Logger: GinkgoLogr}
	})

	secret := func() *corev1.Secret {
		GinkgoHelper()
		secret := &corev1.Secret{}
		Expect(k8sClient.Get(ctx, client.ObjectKey{Namespace: options.Namespace, Name: certs.DefaultSecretName}, secret)).To(Succeed())
		return secret
	}

	It("are the same for replicas that start at once", func() {
		const replicas = 4
		keepers := make([]*certs.Keeper, replicas)
		results := make(chan error, replicas)
		for i := range keepers {
			keepers[i] = certs.New(options)
			go func() { results <- keepers[i].Ensure(ctx) }()
		}
		for range replicas {
			Eventually(results).Should(Receive(BeNil()))
		}
		data := secret().Data
		for _, keeper := range keepers {
			Expect(keeper.CABundle()).To(Equal(data["ca.crt"]))
			Expect(serving(keeper)).To(Equal(serving(keepers[0])))
		}
	})

	It("are made anew when the Secret is spoiled, by one replica for all", func() {
		first, second := certs.New(options), certs.New(options)
		Expect(first.Ensure(ctx)).To(Succeed())
		Expect(second.Ensure(ctx)).To(Succeed())
		spoiled := secret()
		spoiled.Data["tls.key"] = []byte("spoiled")
		Expect(k8sClient.Update(ctx, spoiled)).To(Succeed())

		before := serving(first)
		results := make(chan error, 2)
		for _, keeper := range []*certs.Keeper{first, second} {
			go func() { results <- keeper.Ensure(ctx) }()
		}
		for range 2 {
			Eventually(results).Should(Receive(BeNil()))
		}
		Expect(serving(first)).NotTo(Equal(before))
		Expect(serving(second)).To(Equal(serving(first)))
		Expect(second.CABundle()).To(Equal(first.CABundle()))
	})

	It("reach every replica that runs, and its subscribers", func() {
		options.Interval = 20 * time.Millisecond
		follower := certs.New(options)
		Expect(follower.Ensure(ctx)).To(Succeed())
		var changes atomic.Int32
		follower.OnChange(func() { changes.Add(1) })
		running, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- follower.Start(running) }()
		Consistently(changes.Load, "100ms").Should(BeZero())

		Expect(k8sClient.Delete(ctx, secret())).To(Succeed())
		Eventually(changes.Load).Should(BeEquivalentTo(1))
		Expect(follower.CABundle()).To(Equal(secret().Data["ca.crt"]))
		stop()
		Eventually(ended).Should(Receive(BeNil()))
	})

	It("rotate without a client noticing", func() {
		var clock atomic.Pointer[time.Time]
		begin := time.Now()
		clock.Store(&begin)
		options.Now = func() time.Time { return *clock.Load() }
		keeper := certs.New(options)
		Expect(keeper.Ensure(ctx)).To(Succeed())
		address := serveTLS(keeper)
		at := func(after time.Duration) {
			GinkgoHelper()
			now := begin.Add(after)
			clock.Store(&now)
			Expect(keeper.Ensure(ctx)).To(Succeed())
		}

		first := keeper.CABundle()
		published := 365 * day / 3 * 2
		at(published)
		both := keeper.CABundle()
		Expect(len(both)).To(BeNumerically(">", len(first)), "the next authority joins the bundle")
		Expect(dial(address, first, options.Now)).To(Succeed(), "the next authority does not sign yet")

		signed := published + 60*day // the next serving certificate, signed by the next authority
		at(signed)
		Expect(dial(address, both, options.Now)).To(Succeed())
		Expect(dial(address, first, options.Now)).NotTo(Succeed(), "the old authority signs no more")

		at(366 * day)
		Expect(len(keeper.CABundle())).To(BeNumerically("<", len(both)), "the old authority has left the bundle")
		Expect(dial(address, both, options.Now)).To(Succeed())
		Expect(dial(address, keeper.CABundle(), options.Now)).To(Succeed())
	})

	It("are published in the webhook configuration, and nothing else of it is changed", func() {
		options.WebhookName = "weir-certs-test"
		keeper := certs.New(options)
		Expect(keeper.Ensure(ctx)).To(Succeed(), "the configuration may be applied later")

		configuration := webhookConfiguration(options.WebhookName, "https://localhost:1/")
		configuration.Webhooks = append(configuration.Webhooks, *configuration.Webhooks[0].DeepCopy())
		configuration.Webhooks[1].Name = "second.weir.dev"
		configuration.Webhooks[1].FailurePolicy = new(admissionregistrationv1.Ignore)
		for i := range configuration.Webhooks {
			configuration.Webhooks[i].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "namespace"}}
		}
		Expect(k8sClient.Create(ctx, configuration)).To(Succeed())
		DeferCleanup(func() { Expect(k8sClient.Delete(context.Background(), configuration)).To(Succeed()) })

		Expect(keeper.Ensure(ctx)).To(Succeed())
		published := &admissionregistrationv1.MutatingWebhookConfiguration{}
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(configuration), published)).To(Succeed())
		want := configuration.DeepCopy()
		for i := range want.Webhooks {
			want.Webhooks[i].ClientConfig.CABundle = keeper.CABundle()
		}
		Expect(published.Webhooks).To(Equal(want.Webhooks))

		Expect(keeper.Ensure(ctx)).To(Succeed())
		again := &admissionregistrationv1.MutatingWebhookConfiguration{}
		Expect(k8sClient.Get(ctx, client.ObjectKeyFromObject(configuration), again)).To(Succeed())
		Expect(again.ResourceVersion).To(Equal(published.ResourceVersion), "what is right is not written again")
	})
})

// serving is the certificate that a keeper serves.
func serving(keeper *certs.Keeper) []byte {
	GinkgoHelper()
	certificate, err := keeper.GetCertificate(nil)
	Expect(err).NotTo(HaveOccurred())
	return bytes.Clone(certificate.Certificate[0])
}

// serveTLS shows the keeper's certificate to whoever connects, until the test ends.
func serveTLS(keeper *certs.Keeper) string {
	GinkgoHelper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: keeper.GetCertificate, MinVersion: tls.VersionTLS12})
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(listener.Close)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				_ = connection.(*tls.Conn).HandshakeContext(ctx) // the client's side says what went wrong
				_ = connection.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

// dial shakes hands as a client that knows only the bundle.
func dial(address string, bundle []byte, now func() time.Time) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	connection, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, &tls.Config{
		RootCAs: roots, ServerName: "localhost", Time: now, MinVersion: tls.VersionTLS12,
	})
	if err != nil {
		return err
	}
	return connection.Close()
}
