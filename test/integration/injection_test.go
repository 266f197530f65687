package integration

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/injection"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// injectable marks the namespaces of this file, so that the webhook touches no
// other test's pods.
const injectable = "test.weir.dev/injection"

var _ = Describe("injection", Ordered, func() {
	var cached client.Client

	BeforeAll(func() {
		mgr := serveInjection("weir-injection-test", injectable, func(*ruleset.Ruleset) {})
		cached = mgr.GetClient()
	})

	enabled := func() string {
		return newNamespace(map[string]string{injectable: "true", v1alpha1.LabelInject: v1alpha1.InjectNamespace})
	}

	It("adds the sidecar with its first rules, and says so on the owner", func() {
		namespace := enabled()
		policy := policyFrom(valid)
		policy.SetNamespace(namespace)
		Expect(k8sClient.Create(ctx, policy)).To(Succeed())
		Eventually(func() error {
			return cached.Get(ctx, client.ObjectKeyFromObject(policy), &v1alpha1.RateLimitPolicy{})
		}).Should(Succeed())

		owner := newReplicaSet(namespace)
		pod := podOf(owner)
		pod.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: "migrate:1"}}
		pod.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			TCPSocket: &corev1.TCPSocketAction{Port: pod.Spec.Containers[0].LivenessProbe.HTTPGet.Port},
		}}
		Expect(k8sClient.Create(ctx, pod)).To(Succeed())

		Expect(initContainers(pod)).To(Equal([]string{v1alpha1.CaptureContainer, v1alpha1.SidecarContainer, "migrate"}))
		Expect(pod.Spec.Containers[0].ReadinessProbe.TCPSocket).To(BeNil())
		Expect(pod.Spec.Containers[0].ReadinessProbe.HTTPGet.Path).To(Equal(ruleset.HealthTCPPath + "?port=8080"))
		Expect(pod.Annotations).To(HaveKeyWithValue("kubectl.kubernetes.io/default-container", "app"))
		bootstrap := bootstrapOf(pod)
		Expect(bootstrap.Ruleset.Namespace).To(Equal(namespace))
		Expect(bootstrap.Ruleset.Policies).To(HaveLen(1))
		Expect(bootstrap.Ruleset.Policies[0].Name).To(Equal("spotify"))
		Expect(bootstrap.Probes).To(ConsistOf(
			ruleset.Probe{Type: ruleset.ProbeHTTP, Port: 8080, Path: "/live"},
			ruleset.Probe{Type: ruleset.ProbeTCP, Port: 8080},
		))
		Eventually(eventsOn).WithArguments(owner).Should(HaveKeyWithValue(injection.EventInjected, ContainSubstring("weir-sidecar:test")))
	})

	It("changes nothing about a pod that has a sidecar", func() {
		first := podOf(newReplicaSet(enabled()))
		Expect(k8sClient.Create(ctx, first)).To(Succeed())
		second := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: first.Namespace, Name: "second", Annotations: first.Annotations}}
		first.Spec.DeepCopyInto(&second.Spec)
		Expect(k8sClient.Create(ctx, second)).To(Succeed())
		Expect(second.Spec).To(Equal(first.Spec))
		Expect(second.Annotations).To(Equal(first.Annotations))
	})

	It("does not touch a pod that opts out, or one that nobody asked for", func() {
		out := podOf(newReplicaSet(enabled()))
		out.Labels[v1alpha1.LabelInject] = v1alpha1.InjectOptOut
		plain := podOf(newReplicaSet(newNamespace(map[string]string{injectable: "true"})))
		for _, pod := range []*corev1.Pod{out, plain} {
			Expect(k8sClient.Create(ctx, pod)).To(Succeed())
			Expect(pod.Spec.InitContainers).To(BeEmpty())
			Expect(pod.Annotations).To(BeEmpty())
		}
	})

	It("injects a pod that asks for itself", func() {
		pod := podOf(newReplicaSet(newNamespace(map[string]string{injectable: "true"})))
		pod.Labels[v1alpha1.LabelInject] = v1alpha1.InjectPod
		Expect(k8sClient.Create(ctx, pod)).To(Succeed())
		Expect(initContainers(pod)).To(ContainElement(v1alpha1.SidecarContainer))
	})

	It("says on the owner why a pod got no sidecar", func() {
		owner := newReplicaSet(enabled())
		pod := podOf(owner)
		pod.Spec.HostNetwork = true
		Expect(k8sClient.Create(ctx, pod)).To(Succeed())
		Expect(pod.Spec.InitContainers).To(BeEmpty())
		Eventually(eventsOn).WithArguments(owner).Should(HaveKeyWithValue(injection.EventSkippedInjection, ContainSubstring("hostNetwork")))
	})

	It("refuses a pod that would pass uncaptured, in a sentence", func() {
		owner := newReplicaSet(enabled())
		pod := podOf(owner)
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64(ruleset.UID))}
		err := k8sClient.Create(ctx, pod)
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring(`container "app" runs as user 14014`)))
		Eventually(eventsOn).WithArguments(owner).Should(HaveKeyWithValue(injection.EventInjectionRefused, ContainSubstring("14014")))
	})

	It("has no effect in a dry run", func() {
		owner := newReplicaSet(enabled())
		pod := podOf(owner)
		Expect(k8sClient.Create(ctx, pod, client.DryRunAll)).To(Succeed())
		Expect(initContainers(pod)).To(ContainElement(v1alpha1.SidecarContainer))
		Consistently(eventsOn).WithArguments(owner).Should(BeEmpty())
	})

	It("is accepted where the pod restricts all its containers", func() {
		pod := podOf(newReplicaSet(enabled()))
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: new(int64(1000)), FSGroup: new(int64(2000))}
		Expect(k8sClient.Create(ctx, pod)).To(Succeed())
		Expect(pod.Spec.InitContainers[0].SecurityContext.RunAsUser).To(HaveValue(BeEquivalentTo(0)))
		Expect(pod.Spec.InitContainers[1].SecurityContext.RunAsUser).To(HaveValue(BeEquivalentTo(ruleset.UID)))
		Expect(pod.Spec.Volumes).To(HaveLen(3))
		Expect(pod.Spec.Volumes).To(HaveEach(HaveField("Name", HavePrefix("weir-"))), "the sidecar's token needs no automounted one")
	})
})

// serveInjection serves the webhook for the namespaces with a label, until the
// Describe that calls it ends. The API server asks it over TLS, with a
// certificate and a caBundle that a Keeper made, as in a cluster. Rulesets are
// what programming compiles, changed by adjust. After it, the API server asks
// the webhooks at later paths of the same server.
func serveInjection(name, label string, adjust func(*ruleset.Ruleset), later ...string) ctrl.Manager {
	GinkgoHelper()
	port := publishInjection(name, label, later...)
	keeper := certs.New(certs.Options{
		Client: k8sClient, Namespace: newNamespace(nil), WebhookName: name, DNSNames: []string{"localhost"}, Logger: GinkgoLogr,
	})
	Expect(keeper.Ensure(ctx)).To(Succeed())
	return runInjection(port, keeper, adjust)
}

// publishInjection makes the webhook configuration, for a free port.
func publishInjection(name, label string, later ...string) (port int) {
	GinkgoHelper()
	port = freePort()
	server := "https://localhost:" + strconv.Itoa(port)
	configuration := webhookConfiguration(name, server+injection.WebhookPath)
	configuration.Webhooks[0].NamespaceSelector.MatchLabels = map[string]string{label: "true"}
	for i, path := range later {
		next := configuration.Webhooks[0].DeepCopy()
		next.Name = fmt.Sprintf("later-%d.weir.dev", i)
		next.ClientConfig.URL = new(server + path)
		configuration.Webhooks = append(configuration.Webhooks, *next)
	}
	Expect(k8sClient.Create(ctx, configuration)).To(Succeed())
	DeferCleanup(func() { Expect(k8sClient.Delete(context.Background(), configuration)).To(Succeed()) })
	return port
}

// runInjection serves the webhook until the test ends.
func runInjection(port int, keeper *certs.Keeper, adjust func(*ruleset.Ruleset)) ctrl.Manager {
	GinkgoHelper()
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:  scheme,
		Metrics: metricsserver.Options{BindAddress: "0"},
		WebhookServer: webhook.NewServer(webhook.Options{
			Host: "127.0.0.1", Port: port, TLSOpts: []func(*tls.Config){func(c *tls.Config) { c.GetCertificate = keeper.GetCertificate }},
		}),
	})
	Expect(err).NotTo(HaveOccurred())
	compile := func(ctx context.Context, namespace string, podLabels map[string]string) (*ruleset.Ruleset, error) {
		policies := &v1alpha1.RateLimitPolicyList{}
		if err := mgr.GetClient().List(ctx, policies, client.InNamespace(namespace)); err != nil {
			return nil, err
		}
		rs := programming.Compile(namespace, policies.Items, podLabels, programming.Settings{
			Link: ruleset.Link{Address: "weir-link:9443", CABundle: string(keeper.CABundle())},
		})
		adjust(rs)
		return rs, nil
	}
	config := injection.Config{Image: "weir-sidecar:test", Resources: injection.DefaultResources(), OperatorNamespace: "weir-system"}
	Expect(injection.SetupWithManager(ctx, mgr, config, compile)).To(Succeed())

	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(running) }()
	DeferCleanup(func() {
		stop()
		Eventually(ended).Should(Receive(BeNil()))
	})
	Expect(mgr.GetCache().WaitForCacheSync(ctx)).To(BeTrue())
	Eventually(func() error { return mgr.GetWebhookServer().StartedChecker()(nil) }).Should(Succeed())
	return mgr
}

// webhookConfiguration has the rules of config/webhook, and this file's
// namespaces only.
func webhookConfiguration(name, url string) *admissionregistrationv1.MutatingWebhookConfiguration {
	return &admissionregistrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Webhooks: []admissionregistrationv1.MutatingWebhook{{
			Name:                    "inject.weir.dev",
			ClientConfig:            admissionregistrationv1.WebhookClientConfig{URL: &url},
			FailurePolicy:           new(admissionregistrationv1.Fail),
			ReinvocationPolicy:      new(admissionregistrationv1.IfNeededReinvocationPolicy),
			SideEffects:             new(admissionregistrationv1.SideEffectClassNoneOnDryRun),
			TimeoutSeconds:          new(int32(5)),
			AdmissionReviewVersions: []string{"v1"},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{injectable: "true"}},
			Rules: []admissionregistrationv1.RuleWithOperations{{
				Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
				Rule:       admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}},
			}},
		}},
	}
}

func freePort() int {
	GinkgoHelper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	defer func() { Expect(listener.Close()).To(Succeed()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

func newReplicaSet(namespace string) *appsv1.ReplicaSet {
	GinkgoHelper()
	labels := map[string]string{"app": "test"}
	owner := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, GenerateName: "app-"},
		Spec: appsv1.ReplicaSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: appSpec()},
		},
	}
	Expect(k8sClient.Create(ctx, owner)).To(Succeed())
	return owner
}

// podOf is the pod that the ReplicaSet's controller would create.
func podOf(owner *appsv1.ReplicaSet) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.Namespace, GenerateName: owner.Name + "-", Labels: map[string]string{"app": "test"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))},
		},
		Spec: appSpec(),
	}
}

func appSpec() corev1.PodSpec {
	return corev1.PodSpec{AutomountServiceAccountToken: new(false), Containers: []corev1.Container{{
		Name: "app", Image: "app:1",
		Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/live", Port: intstr.FromString("http")},
		}},
	}}}
}

func initContainers(pod *corev1.Pod) (names []string) {
	for _, container := range pod.Spec.InitContainers {
		names = append(names, container.Name)
	}
	return names
}

func bootstrapOf(pod *corev1.Pod) (bootstrap ruleset.Bootstrap) {
	GinkgoHelper()
	at := slices.Index(initContainers(pod), v1alpha1.SidecarContainer)
	Expect(at).To(BeNumerically(">=", 0), "the pod has no sidecar")
	variable := pod.Spec.InitContainers[at].Env[0]
	Expect(variable.Name).To(Equal(ruleset.BootstrapEnv))
	Expect(json.Unmarshal([]byte(variable.Value), &bootstrap)).To(Succeed())
	return bootstrap
}

// eventsOn are the notes of the events on an object, by their reasons.
func eventsOn(object *appsv1.ReplicaSet) (map[string]string, error) {
	list := &eventsv1.EventList{}
	if err := k8sClient.List(ctx, list, client.InNamespace(object.Namespace)); err != nil {
		return nil, err
	}
	notes := map[string]string{}
	for _, event := range list.Items {
		if event.Regarding.UID == object.UID && event.Regarding.Kind == "ReplicaSet" {
			notes[event.Reason] = event.Note
		}
	}
	return notes, nil
}
