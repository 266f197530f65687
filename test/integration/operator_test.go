package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	authenticationv1 "k8s.io/client-go/kubernetes/typed/authentication/v1"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/store"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// replica is one replica of the operator, as far as the link goes.
type replica struct {
	link             ruleset.Link
	acknowledgements *link.Acknowledgements
	authorities      *certs.Authorities
	rulesets         *link.Rulesets
	manager          ctrl.Manager
	keeper           *certs.Keeper
}

// newReplica wires a replica that serves the link, in the operator's namespace;
// the caller adds to its manager what the leader runs, and starts it.
func newReplica(keeper *certs.Keeper, namespace string, now func() time.Time) *replica {
	GinkgoHelper()
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme: scheme, Cache: controllers.CacheOptions(), Metrics: metricsserver.Options{BindAddress: "0"}, Logger: GinkgoLogr,
		Controller: config.Controller{SkipNameValidation: ptr.To(true)}, // several operators live in this process
	})
	Expect(err).NotTo(HaveOccurred())
	reviews, err := authenticationv1.NewForConfig(cfg)
	Expect(err).NotTo(HaveOccurred())
	listener := localListener()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	Expect(err).NotTo(HaveOccurred())
	r := &replica{
		link:             ruleset.Link{Address: "localhost:" + port, CABundle: string(keeper.CABundle())},
		acknowledgements: link.NewAcknowledgements(),
		authorities: certs.NewAuthorities(certs.AuthoritiesOptions{
			Config: cfg, Client: k8sClient, Namespace: namespace, Now: now, Logger: GinkgoLogr,
		}),
		manager: mgr,
		keeper:  keeper,
	}
	r.rulesets = link.NewRulesets(mgr.GetCache(), r.authorities)
	r.rulesets.Configure(programming.Settings{
		Store: &ruleset.Store{URL: "redis://redis:6379", TimeoutMillis: 100}, Link: r.link,
	})
	clients := usage.NewClientAuthorities(mgr.GetAPIReader(), GinkgoLogr)
	clients.Refresh(ctx)
	server, err := link.New(link.Options{
		TLS: &tls.Config{
			GetCertificate: keeper.GetCertificate, MinVersion: tls.VersionTLS13,
			ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: clients.VerifyPeer,
		},
		Cache:            mgr.GetCache(),
		Reviewer:         reviews.TokenReviews(),
		Rulesets:         r.rulesets,
		Acknowledgements: r.acknowledgements,
		Operator:         link.ServiceAccountUser(namespace, "default"),
		Usage: usage.New(usage.Options{
			Client: mgr.GetClient(), API: kubernetes.NewForConfigOrDie(cfg), Recorder: mgr.GetEventRecorder("weir-usage"),
			Store: func() *ruleset.Store { return r.rulesets.Settings().Store }, Authorities: clients,
			Pods:   usage.PodsFrom(mgr.GetCache(), r.acknowledgements),
			Key:    func(ctx context.Context) ([]byte, error) { return store.CallersKey(ctx, k8sClient, namespace) },
			Logger: GinkgoLogr,
		}),
		UsagePaths: usage.Paths(),
		Registerer: prometheus.NewRegistry(),
		Logger:     GinkgoLogr,
	})
	Expect(err).NotTo(HaveOccurred())
	Expect(mgr.Add(r.authorities)).To(Succeed())
	Expect(mgr.Add(manager.RunnableFunc(func(ctx context.Context) error { return server.Serve(ctx, listener) }))).To(Succeed())
	return r
}

// lead has the replica run what the leader runs, with a peer that it reads by
// the operator's token.
func (r *replica) lead(peer *replica, token string) {
	GinkgoHelper()
	policies := &controllers.RateLimitPolicyReconciler{
		Client:           r.manager.GetClient(),
		Recorder:         r.manager.GetEventRecorder("weir-operator"),
		Acknowledgements: r.acknowledgements,
		Authorities:      r.authorities,
		Clock:            clock.RealClock{},
	}
	Expect(policies.SetupWithManager(r.manager)).To(Succeed())
	Expect(r.founder().SetupWithManager(r.manager)).To(Succeed())
	r.follow(peer, token)
}

// follow has the replica read what a peer hears, as all do.
func (r *replica) follow(peer *replica, token string) {
	GinkgoHelper()
	Expect(r.manager.Add(&link.Peers{
		Discover:         func(context.Context) ([]string, error) { return []string{peer.link.Address}, nil },
		ServerName:       "localhost",
		CABundle:         r.keeper.CABundle,
		TokenFile:        tokenFile(token),
		Acknowledgements: r.acknowledgements,
		Logger:           GinkgoLogr,
	})).To(Succeed())
}

func (r *replica) founder() *controllers.AuthorityReconciler {
	return &controllers.AuthorityReconciler{Client: r.manager.GetClient(), Live: r.manager.GetAPIReader(), Authorities: r.authorities}
}

func (r *replica) start() {
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.manager.Start(running) }()
	DeferCleanup(func() {
		stop()
		Eventually(ended).Should(Receive(BeNil()))
	})
}

// stamped is what injection stamps into a pod with these labels, once this
// replica knows the namespace's policies as they are now.
func (r *replica) stamped(namespace string, podLabels map[string]string) *ruleset.Ruleset {
	GinkgoHelper()
	selected := func(reader client.Reader) (versions []string) {
		policies := &v1alpha1.RateLimitPolicyList{}
		Expect(reader.List(ctx, policies, client.InNamespace(namespace))).To(Succeed())
		for i := range policies.Items {
			selector, err := programming.NewSelector(&policies.Items[i])
			Expect(err).NotTo(HaveOccurred())
			if selector.Selects(podLabels, true) {
				versions = append(versions, fmt.Sprintf("%s %d", policies.Items[i].UID, policies.Items[i].Generation))
			}
		}
		return versions
	}
	var stamped *ruleset.Ruleset
	Eventually(func(g Gomega) {
		var err error
		stamped, err = r.rulesets.Stamped(ctx, namespace, podLabels, GinkgoLogr)
		g.Expect(err).NotTo(HaveOccurred())
		var versions []string
		for i := range stamped.Policies {
			versions = append(versions, fmt.Sprintf("%s %d", stamped.Policies[i].UID, stamped.Policies[i].Generation))
		}
		g.Expect(versions).To(ConsistOf(selected(k8sClient)))
	}).Should(Succeed())
	return stamped
}

// client verifies the replica as a sidecar does.
func (r *replica) client() *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.keeper.CABundle())
	return &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, DisableKeepAlives: true,
	}}
}

// ask posts a report with a token and returns the answer, which it reads.
func (r *replica) ask(token string, report ruleset.Report) (status int, header http.Header, body string) {
	GinkgoHelper()
	encoded, err := json.Marshal(report)
	Expect(err).NotTo(HaveOccurred())
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+r.link.Address+ruleset.LinkPath, bytes.NewReader(encoded))
	Expect(err).NotTo(HaveOccurred())
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := r.client().Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	Expect(err).NotTo(HaveOccurred())
	return response.StatusCode, response.Header, string(text)
}

// createPolicy makes a policy for the pods with a label app; for every pod with
// a sidecar when app is empty.
func createPolicy(namespace, name, app string, requests int32, change ...func(*v1alpha1.RateLimitPolicy)) *v1alpha1.RateLimitPolicy {
	GinkgoHelper()
	policy := &v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	policy.Spec.Direction = v1alpha1.DirectionInbound
	policy.Spec.Identity.Sources = []v1alpha1.IdentitySource{{Header: &v1alpha1.HeaderSource{Name: "X-User-ID"}}}
	policy.Spec.Limits = []v1alpha1.Limit{{Requests: requests, Window: metav1.Duration{Duration: time.Minute}}}
	if app != "" {
		policy.Spec.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	}
	for _, apply := range change {
		apply(policy)
	}
	Expect(k8sClient.Create(ctx, policy)).To(Succeed())
	return policy
}

// shows is "Type=Status Reason generation" of a policy's condition.
func shows(policy *v1alpha1.RateLimitPolicy, conditionType string) func() string {
	return func() string {
		current := &v1alpha1.RateLimitPolicy{}
		if err := k8sClient.Get(ctx, client.ObjectKeyFromObject(policy), current); err != nil {
			return err.Error()
		}
		current.DeepCopyInto(policy)
		c := meta.FindStatusCondition(current.Status.Conditions, conditionType)
		if c == nil {
			return "none"
		}
		return fmt.Sprintf("%s=%s %s %d", c.Type, c.Status, c.Reason, c.ObservedGeneration)
	}
}

func messageOf(policy *v1alpha1.RateLimitPolicy, conditionType string) string {
	return meta.FindStatusCondition(policy.Status.Conditions, conditionType).Message
}

var _ = Describe("the operator", Ordered, func() {
	var leader, follower *replica
	var operatorNamespace string
	web := map[string]string{"app": "web"}

	BeforeAll(func() {
		operatorNamespace = newNamespace(nil)
		keeper := certs.New(certs.Options{
			Client: k8sClient, Namespace: operatorNamespace, DNSNames: []string{"localhost"}, Logger: GinkgoLogr,
		})
		Expect(keeper.Ensure(ctx)).To(Succeed())
		leader, follower = newReplica(keeper, operatorNamespace, time.Now), newReplica(keeper, operatorNamespace, time.Now)

		leader.lead(follower, tokenOf(operatorNamespace, "default", ruleset.Audience, nil))
		follower.start()
		leader.start()
	})

	It("is programmed when every selected pod has said so, whichever replica it told", func() {
		namespace := newNamespace(nil)
		first := startSidecar(createPod(namespace, "web-1", web, true), leader)
		second := startSidecar(createPod(namespace, "web-2", web, true), follower)
		other := startSidecar(createPod(namespace, "other", nil, true), leader)
		policy := createPolicy(namespace, "api", "web", 100)

		Eventually(shows(policy, "Ready")).Should(Equal("Ready=True Ready 1"))
		once, err := link.PodsIn(ctx, leader.manager.GetCache(), namespace)
		Expect(err).NotTo(HaveOccurred())
		again, err := link.PodsIn(ctx, leader.manager.GetCache(), namespace)
		Expect(err).NotTo(HaveOccurred())
		Expect(once).To(HaveLen(3))
		Expect(again).To(ContainElement(BeIdenticalTo(once[0])), "pods are the cache's own, no copies")
		Expect(policy.Status.Pods).To(Equal(&v1alpha1.PodCounts{Selected: 2, Enforcing: 2, Summary: "2/2"}))
		Expect(policy.Status.Service).To(Equal("api"))
		Expect(policy.Status.Limit).To(Equal("100/1m"))
		Expect(messageOf(policy, "Programmed")).To(Equal("All 2 selected pods enforce generation 1."))
		Expect(first.policies()).To(ConsistOf("api"))
		Expect(second.policies()).To(ConsistOf("api"))
		Expect(other.policies()).To(BeEmpty())

		By("editing the limit: it is enforced in under a second, and Programmed goes False and True")
		stream, err := k8sClient.Watch(ctx, &v1alpha1.RateLimitPolicyList{}, client.InNamespace(namespace))
		Expect(err).NotTo(HaveOccurred())
		defer stream.Stop()
		patch := client.MergeFrom(policy.DeepCopy())
		policy.Spec.Limits[0].Requests = 5
		began := time.Now()
		Expect(k8sClient.Patch(ctx, policy, patch)).To(Succeed())
		for _, s := range []*sidecar{first, second} {
			var since time.Time
			Eventually(func() (requests int64) { requests, since = s.enforces("api"); return requests }).Should(BeEquivalentTo(5))
			AddReportEntry("edit to the sidecar's rules", since.Sub(began).String())
			Expect(since.Sub(began)).To(BeNumerically("<", time.Second))
		}
		var seen []string
		Eventually(func() []string {
			for {
				select {
				case event := <-stream.ResultChan():
					c := meta.FindStatusCondition(event.Object.(*v1alpha1.RateLimitPolicy).Status.Conditions, "Programmed")
					now := fmt.Sprintf("%s %d", c.Status, c.ObservedGeneration)
					if len(seen) == 0 || seen[len(seen)-1] != now {
						seen = append(seen, now)
					}
				default:
					return seen
				}
			}
		}).Should(HaveExactElements("True 1", "False 2", "True 2"))
		AddReportEntry("edit to Programmed=True", time.Since(began).String())

		By("losing a pod")
		lost := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web-2"}}
		deletePod(lost)
		Eventually(func() *v1alpha1.PodCounts {
			shows(policy, "Ready")()
			return policy.Status.Pods
		}).Should(Equal(&v1alpha1.PodCounts{Selected: 1, Enforcing: 1, Summary: "1/1"}))
	})

	It("says how many sidecars have no Redis, since when, and what each admits meanwhile", func() {
		namespace := newNamespace(nil)
		redis := redistest.Start(GinkgoTB())
		store := &ruleset.Store{URL: redis.URL(), TimeoutMillis: 100}
		pods := []*corev1.Pod{createPod(namespace, "web-1", web, true), createPod(namespace, "web-2", web, true)}
		for _, pod := range pods { // as the kubelet says that they run
			pod.Status.Phase, pod.Status.PodIP = corev1.PodRunning, "10.0.0.1"
			pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
			Expect(k8sClient.Status().Update(ctx, pod)).To(Succeed())
		}
		first, second := startSidecar(pods[0], leader), startSidecar(pods[1], follower)
		policy := createPolicy(namespace, "api", "web", 100)
		Eventually(shows(policy, "Ready")).Should(Equal("Ready=True Ready 1"))
		Expect(shows(policy, "Degraded")()).To(Equal("Degraded=False StoreAnswers 1"))
		programmed := meta.FindStatusCondition(policy.Status.Conditions, "Programmed").DeepCopy()
		enforcers := func(s *sidecar) func() int64 {
			return func() int64 {
				s.mu.Lock()
				defer s.mu.Unlock()
				return s.applied.Policies[0].Enforcers
			}
		}
		Eventually(enforcers(first)).WithTimeout(20 * time.Second).Should(BeEquivalentTo(2))
		Eventually(enforcers(second)).WithTimeout(20 * time.Second).Should(BeEquivalentTo(2))

		limits := first.limitsWith(store)
		take := []limiter.Take{{
			Namespace: namespace, Service: "api", Identity: "u", Limits: []ruleset.Limit{{Requests: 100, WindowMillis: 60_000}},
			Sharers: enforcers(first)(),
		}}
		Eventually(func() error { _, err := limits.Take(ctx, take); return err }).Should(Succeed())
		redis.Kill()
		Eventually(func() error { _, err := limits.Take(ctx, take); return err }).Should(MatchError(limiter.ErrStore))
		since := limits.Away()
		first.Nudge() // the next report is up to 30 s away
		Eventually(shows(policy, "Degraded")).Should(Equal("Degraded=True StoreAway 1"))
		Expect(messageOf(policy, "Degraded")).To(Equal("1 of 2 sidecars (web-1) have no answer from Redis, the first since " +
			since.UTC().Format(time.RFC3339) + ". Each admits its share: the limit divided by the sidecars, and at least 1 request a window (onStoreFailure: Local)."))
		Expect(policy.Status.Pods).To(Equal(&v1alpha1.PodCounts{Selected: 2, Enforcing: 2, Degraded: 1, Summary: "2/2"}))
		d, err := limits.RemainingLocally(take)
		Expect(err).NotTo(HaveOccurred())
		Expect(d.Quotas[0].Remaining).To(BeNumerically("<=", 50))

		redis.Restart()
		Eventually(limits.Away).Should(BeZero())
		first.Nudge()
		Eventually(shows(policy, "Degraded")).Should(Equal("Degraded=False StoreAnswers 1"))
		Expect(meta.FindStatusCondition(policy.Status.Conditions, "Programmed")).To(Equal(programmed), "it was never in doubt")
		events := &eventsv1.EventList{}
		Eventually(func() (reasons []string) {
			Expect(k8sClient.List(ctx, events, client.InNamespace(namespace))).To(Succeed())
			for _, event := range events.Items {
				reasons = append(reasons, event.Type+" "+event.Reason)
			}
			return reasons
		}).Should(ContainElements("Warning StoreAway", "Normal StoreAnswers"))
	})

	It("hands the collector of traces to running sidecars, and stamps it into no pod", func() {
		namespace := newNamespace(nil)
		pod := startSidecar(createPod(namespace, "web-1", web, true), leader)
		tracing := func() *ruleset.Tracing {
			pod.mu.Lock()
			defer pod.mu.Unlock()
			return pod.applied.Tracing
		}
		settings := leader.rulesets.Settings()
		DeferCleanup(func() { leader.rulesets.Configure(settings) })
		Consistently(tracing).Should(BeNil())
		traced := settings
		traced.Tracing = &ruleset.Tracing{Endpoint: "http://collector:4318", Ratio: 0.25}
		leader.rulesets.Configure(traced)
		Eventually(tracing).Should(Equal(traced.Tracing))
		Expect(leader.stamped(namespace, web).Tracing).To(BeNil())
		leader.rulesets.Configure(settings)
		Eventually(tracing).Should(BeNil())
	})

	It("says which pods it waits for, which have no sidecar, and which refused their rules", func() {
		namespace := newNamespace(nil)
		policy := createPolicy(namespace, "api", "web", 100)
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=True NoPods 1"))

		pod := createPod(namespace, "web-1", web, true)
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=False Pending 1"))
		Expect(messageOf(policy, "Ready")).To(Equal("0 of 1 pods enforce generation 1; waiting for web-1."))
		startSidecar(pod, follower)
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=True Programmed 1"))

		By("a pod without sidecar")
		bare := createPod(namespace, "web-2", web, false)
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=False SidecarMissing 1"))
		Expect(messageOf(policy, "Ready")).To(HavePrefix("1 of 2 selected pods run without the sidecar (web-2): restart them"))
		Eventually(eventsAbout(bare)).Should(ContainElement("Warning SidecarMissing"))
		deletePod(bare)
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=True Programmed 1"))
		Expect(eventsAbout(policy)()).To(ContainElements("Normal Accepted", "Normal NoPods", "Normal Pending", "Warning SidecarMissing", "Normal Programmed"))

		By("a pod that opts out, and one on the node's network")
		createPod(namespace, "out", map[string]string{"app": "web", v1alpha1.LabelInject: v1alpha1.InjectOptOut}, false)
		Consistently(shows(policy, "Programmed")).Should(Equal("Programmed=True Programmed 1"))

		By("a sidecar that cannot apply its rules")
		rejecting := createPod(namespace, "web-3", web, true)
		token := tokenOf(namespace, "default", ruleset.Audience, rejecting)
		status, _, body := leader.ask(token, ruleset.Report{})
		Expect(status).To(Equal(http.StatusOK))
		received := ruleset.Ruleset{}
		Expect(json.Unmarshal([]byte(body), &received)).To(Succeed())
		held, cancel := context.WithCancel(ctx)
		defer cancel()
		go leader.hold(held, token, ruleset.Report{Rejected: &ruleset.Rejection{Version: received.Version, Reason: "no such thing."}})
		Eventually(shows(policy, "Programmed")).Should(Equal("Programmed=False SidecarRejected 1"))
		Expect(messageOf(policy, "Ready")).To(Equal("1 of 2 pods could not apply their rules (web-3): no such thing. They enforce the rules that they had before."))
	})

	It("gives each pod its own rules, and nobody else any", func() {
		namespace := newNamespace(nil)
		createPolicy(namespace, "web", "web", 1)
		createPolicy(namespace, "api", "api", 1)
		webPod, apiPod := createPod(namespace, "web-1", web, true), createPod(namespace, "api-1", map[string]string{"app": "api"}, true)
		bare := createPod(namespace, "bare", web, false)

		for _, refusal := range []struct {
			reason, token string
			status        int
		}{
			{"no token", "", http.StatusUnauthorized},
			{"garbage", "garbage", http.StatusUnauthorized},
			{"a token for another audience", tokenOf(namespace, "default", "https://kubernetes.default.svc", webPod), http.StatusUnauthorized},
			{"a token bound to no pod", tokenOf(namespace, "default", ruleset.Audience, nil), http.StatusForbidden},
			{"a pod without sidecar", tokenOf(namespace, "default", ruleset.Audience, bare), http.StatusForbidden},
		} {
			status, header, body := leader.ask(refusal.token, ruleset.Report{})
			Expect(status).To(Equal(refusal.status), "%s: %s", refusal.reason, body)
			if status == http.StatusUnauthorized {
				Expect(header.Get("WWW-Authenticate")).To(HavePrefix("Bearer"), refusal.reason)
			}
		}
		for pod, policy := range map[*corev1.Pod]string{webPod: "web", apiPod: "api"} {
			status, _, body := leader.ask(tokenOf(namespace, "default", ruleset.Audience, pod), ruleset.Report{})
			Expect(status).To(Equal(http.StatusOK))
			received := ruleset.Ruleset{}
			Expect(json.Unmarshal([]byte(body), &received)).To(Succeed())
			Expect(received.Refs()).To(HaveLen(1))
			Expect(received.Policies[0].Name).To(Equal(policy))
		}

		By("a report that is too large")
		status, _, _ := leader.ask(tokenOf(namespace, "default", ruleset.Audience, webPod), ruleset.Report{Version: strings.Repeat("v", 70<<10)})
		Expect(status).To(Equal(http.StatusRequestEntityTooLarge))
		By("the token of a pod that is gone")
		token := tokenOf(namespace, "default", ruleset.Audience, apiPod)
		Expect(first(leader.ask(token, ruleset.Report{}))).To(Equal(http.StatusOK))
		deletePod(apiPod)
		Eventually(func() int { return first(leader.ask(token, ruleset.Report{})) }).Should(Equal(http.StatusForbidden))
	})

	It("shows acknowledgements to nobody but the operator", func() {
		namespace := newNamespace(nil)
		pod := createPod(namespace, "web-1", web, true)
		for token, want := range map[string]int{
			"": http.StatusUnauthorized,
			tokenOf(namespace, "default", ruleset.Audience, pod):         http.StatusForbidden,
			tokenOf(operatorNamespace, "default", ruleset.Audience, nil): http.StatusOK,
		} {
			Expect(leader.peek(token)).To(Equal(want))
		}
	})

	It("follows the labels of a pod", func() {
		namespace := newNamespace(nil)
		createPolicy(namespace, "api", "api", 1)
		pod := createPod(namespace, "web-1", web, true)
		s := startSidecar(pod, leader)
		Consistently(s.policies).Should(BeEmpty())
		patch := client.MergeFrom(pod.DeepCopy())
		pod.Labels = map[string]string{"app": "api"}
		Expect(k8sClient.Patch(ctx, pod, patch)).To(Succeed())
		Eventually(s.policies).WithTimeout(time.Second).Should(ConsistOf("api"))
	})

	It("lets the older of two policies have a service, and the newer when the older goes", func() {
		namespace := newNamespace(nil)
		s := startSidecar(createPod(namespace, "web-1", web, true), leader)
		shared := func(p *v1alpha1.RateLimitPolicy) { p.Spec.Service = "shared" }
		older := createPolicy(namespace, "a-older", "", 10, shared)
		Eventually(shows(older, "Ready")).Should(Equal("Ready=True Ready 1"))
		newer := createPolicy(namespace, "b-newer", "", 20, shared)
		Eventually(shows(newer, "Accepted")).Should(Equal("Accepted=False ServiceConflict 1"))
		Expect(messageOf(newer, "Ready")).To(ContainSubstring(`"a-older" already limits service "shared"`))
		Expect(shows(newer, "Programmed")()).To(Equal("Programmed=False NotAccepted 1"))
		Consistently(s.policies, "200ms").Should(ConsistOf("a-older"))
		Expect(shows(older, "Ready")()).To(Equal("Ready=True Ready 1"))

		Expect(k8sClient.Delete(ctx, older)).To(Succeed())
		Eventually(shows(newer, "Ready")).Should(Equal("Ready=True Ready 1"))
		Expect(s.policies()).To(ConsistOf("b-newer"))
	})

	It("refuses what only it can judge, and disturbs nothing else", func() {
		namespace := newNamespace(nil)
		s := startSidecar(createPod(namespace, "web-1", web, true), leader)
		good := createPolicy(namespace, "good", "", 10)
		selector := createPolicy(namespace, "selector", "", 10, func(p *v1alpha1.RateLimitPolicy) {
			p.Spec.PodSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn}}}
		})
		expression := createPolicy(namespace, "expression", "", 10, func(p *v1alpha1.RateLimitPolicy) {
			p.Spec.Match = []v1alpha1.RequestMatch{{Path: &v1alpha1.PathMatch{Type: v1alpha1.PathMatchRegularExpression, Value: "/("}}}
		})
		Eventually(shows(selector, "Accepted")).Should(Equal("Accepted=False InvalidSelector 1"))
		Eventually(shows(expression, "Accepted")).Should(Equal("Accepted=False InvalidMatch 1"))
		Expect(messageOf(expression, "Ready")).To(ContainSubstring("spec.match[0].path.value"))
		Eventually(shows(good, "Ready")).Should(Equal("Ready=True Ready 1"))
		Expect(s.policies()).To(ConsistOf("good"))
	})
})

func first(status int, _ http.Header, _ string) int { return status }

// hold asks until ctx ends and ignores the answer.
func (r *replica) hold(ctx context.Context, token string, report ruleset.Report) {
	encoded, _ := json.Marshal(report)
	request, _ := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+r.link.Address+ruleset.LinkPath, bytes.NewReader(encoded))
	request.Header.Set("Authorization", "Bearer "+token)
	if response, err := r.client().Do(request); err == nil {
		_ = response.Body.Close()
	}
}

// peek is the status of a request for acknowledgements.
func (r *replica) peek(token string) int {
	GinkgoHelper()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+r.link.Address+link.AcknowledgementsPath+"?sequence=0", nil)
	Expect(err).NotTo(HaveOccurred())
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := r.client().Do(request)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode
}

// notesAbout are those of the events on an object.
func notesAbout(object client.Object) []string {
	GinkgoHelper()
	list := &eventsv1.EventList{}
	Expect(k8sClient.List(ctx, list, client.InNamespace(object.GetNamespace()))).To(Succeed())
	var found []string
	for _, event := range list.Items {
		if event.Regarding.UID == object.GetUID() {
			found = append(found, event.Note)
		}
	}
	return found
}

// eventsAbout lists "Type Reason" of the events on an object.
func eventsAbout(object client.Object) func() []string {
	return func() []string {
		list := &eventsv1.EventList{}
		if err := k8sClient.List(ctx, list, client.InNamespace(object.GetNamespace())); err != nil {
			return []string{err.Error()}
		}
		var found []string
		for _, event := range list.Items {
			if event.Regarding.UID == object.GetUID() {
				found = append(found, event.Type+" "+event.Reason)
			}
		}
		return found
	}
}
