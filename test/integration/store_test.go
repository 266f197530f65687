package integration

import (
	"encoding/json"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/store"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

var _ = Describe("users of the store", Ordered, func() {
	const rotation = 24 * time.Hour
	var (
		redis         *redistest.Server
		passed        atomic.Int64 // beyond the clock
		first, second *replica
		namespace     string // of the operator
		shop, bank    *sidecar
	)

	BeforeAll(func() {
		redis = redistest.Start(GinkgoTB(), "--requirepass", "secret")
		now := func() time.Time { return time.Now().Add(time.Duration(passed.Load())) }
		namespace = newNamespace(nil)
		keeper := certs.New(certs.Options{Client: k8sClient, Namespace: namespace, DNSNames: []string{"localhost"}, Logger: GinkgoLogr})
		Expect(keeper.Ensure(ctx)).To(Succeed())
		first, second = newReplica(keeper, namespace, time.Now), newReplica(keeper, namespace, time.Now)
		for _, r := range []*replica{first, second} {
			users := store.New(store.Options{
				Client: k8sClient, Namespace: namespace, Rotation: rotation, Now: now, Logger: GinkgoLogr,
				Shared:     func() *ruleset.Store { return r.rulesets.Settings().Store },
				Namespaces: r.rulesets.Namespaces, Elected: r.manager.Elected(),
			})
			r.rulesets.UseUsers(users)
			r.rulesets.Configure(programming.Settings{Store: &ruleset.Store{URL: redis.URL(), TimeoutMillis: 5000}, Link: r.link})
			Expect(r.manager.Add(users)).To(Succeed())
			r.start()
		}
		for _, each := range []struct {
			of *(*sidecar)
			to *replica
		}{{&shop, first}, {&bank, second}} {
			pod := createPod(newNamespace(nil), "web-1", nil, true)
			createPolicy(pod.Namespace, "web", "", 100)
			*each.of = startSidecar(pod, each.to)
		}
	})

	take := func(s *sidecar, namespace string) error {
		limits := limiter.New(limiter.Options{})
		defer limits.Close()
		if err := limits.Use(s.store()); err != nil {
			return err
		}
		_, err := limits.Take(ctx, []limiter.Take{{
			Namespace: namespace, Service: "s", Identity: "u", Limits: []ruleset.Limit{{Requests: 1000, WindowMillis: 60_000}},
		}})
		return err
	}

	It("gives each sidecar its namespace's, and no other", func() {
		for _, s := range []*sidecar{shop, bank} {
			Eventually(s.store).ShouldNot(BeNil())
			Expect(userOf(s.store())).To(ContainSubstring(":" + s.namespace() + ":"))
			Expect(take(s, s.namespace())).To(Succeed())
		}
		Expect(take(shop, bank.namespace())).NotTo(Succeed())
		Expect(take(bank, shop.namespace())).NotTo(Succeed())
	})

	It("hands out the same at both replicas, and no more for a guess of another namespace", func() {
		pod := createPod(shop.namespace(), "web-2", nil, true)
		other := startSidecar(pod, second)
		Eventually(other.store).Should(Equal(shop.store()))
		// The pod is who its token is bound to: no request names a namespace.
		token := tokenOf(pod.Namespace, "default", ruleset.Audience, pod)
		_, _, body := second.ask(token, ruleset.Report{Version: bank.namespace()})
		Expect(body).To(ContainSubstring(shop.namespace()))
		Expect(body).NotTo(ContainSubstring(bank.namespace()))
	})

	It("brings the next period's to sidecars over the link", func() {
		before := shop.store()
		passed.Add(int64(rotation))
		Eventually(shop.store).ShouldNot(Equal(before))
		Expect(take(shop, shop.namespace())).To(Succeed())
		limits := limiter.New(limiter.Options{})
		defer limits.Close()
		Expect(limits.Use(before)).To(Succeed())
		Expect(limits.Ping(ctx)).To(Succeed(), "who has not moved yet goes on")
	})

	It("has no credential of the store in its object", func() {
		stamped := first.stamped(shop.namespace(), nil)
		Expect(stamped.Policies).To(HaveLen(1))
		encoded, err := json.Marshal(stamped)
		Expect(err).NotTo(HaveOccurred())
		for _, secret := range []string{"redis://", "secret", passwordOf(shop.store()), redis.Addr} {
			Expect(string(encoded)).NotTo(ContainSubstring(secret))
		}
	})

	It("keeps the key in a Secret of the operator's namespace alone", func() {
		Expect(k8sClient.Get(ctx, client.ObjectKey{Namespace: namespace, Name: store.SecretName}, &corev1.Secret{})).To(Succeed())
		secrets := &corev1.SecretList{}
		Expect(k8sClient.List(ctx, secrets)).To(Succeed())
		for _, secret := range secrets.Items {
			for _, value := range secret.Data {
				Expect(string(value)).NotTo(ContainSubstring(passwordOf(shop.store())))
			}
			// Other specs have operators, too.
			inOurs := secret.Namespace == shop.namespace() || secret.Namespace == bank.namespace()
			Expect(secret.Name == store.SecretName && inOurs).To(BeFalse(), client.ObjectKeyFromObject(&secret).String())
		}
	})
})

func userOf(s *ruleset.Store) string {
	parsed, err := url.Parse(s.URL)
	Expect(err).NotTo(HaveOccurred())
	return parsed.User.Username()
}

func passwordOf(s *ruleset.Store) string {
	parsed, err := url.Parse(s.URL)
	Expect(err).NotTo(HaveOccurred())
	password, _ := parsed.User.Password()
	Expect(strings.TrimSpace(password)).NotTo(BeEmpty())
	return password
}

// store of the Ruleset in force; nil for none.
func (s *sidecar) store() *ruleset.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.applied == nil {
		return nil
	}
	return s.applied.Store
}

func (s *sidecar) namespace() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied.Namespace
}
