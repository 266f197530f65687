package integration

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/webhook"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/injection"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// interceptable marks the namespaces of this file, where every policy
// intercepts and a webhook after ours adds a container to pods that ask for it.
const interceptable = "test.weir.dev/interception"

var _ = Describe("injection without capture and with interception", Ordered, func() {
	var cached client.Client

	BeforeAll(func() {
		mgr := serveInjection("weir-modes-test", interceptable, func(rs *ruleset.Ruleset) {
			for i := range rs.Policies {
				rs.Policies[i].Intercept = true
			}
			rs.Authorities = "AUTHORITY"
			rs.Seal()
		}, "/late")
		mgr.GetWebhookServer().Register("/late", &webhook.Admission{Handler: admission.HandlerFunc(addLateContainer)})
		cached = mgr.GetClient()
	})

	namespaceUnder := func(level string) string {
		return newNamespace(map[string]string{
			interceptable: "true", v1alpha1.LabelInject: v1alpha1.InjectNamespace, "pod-security.kubernetes.io/enforce": level,
		})
	}
	intercept := func(namespace string) {
		GinkgoHelper()
		policy := policyFrom(valid)
		policy.SetNamespace(namespace)
		Expect(k8sClient.Create(ctx, policy)).To(Succeed())
		Eventually(func() error {
			return cached.Get(ctx, client.ObjectKeyFromObject(policy), &v1alpha1.RateLimitPolicy{})
		}).Should(Succeed())
	}

	It("passes PodSecurity restricted by proxy, and is told how where it would not", func() {
		namespace := namespaceUnder("restricted")
		intercept(namespace)
		owner := newReplicaSet(namespace)
		pod := compliant(podOf(owner))
		warnings := &warningRecorder{}
		err := warnings.client().Create(ctx, pod.DeepCopy())
		Expect(apierrors.IsForbidden(err)).To(BeTrue(), "%v", err)
		Expect(err).To(MatchError(ContainSubstring("weir-capture")), "PodSecurity's own words")
		Expect(warnings.all()).To(ContainElement(ContainSubstring(`annotate the pod weir.dev/capture="proxy"`)))
		Eventually(eventsOn).WithArguments(owner).Should(HaveKeyWithValue(injection.EventCaptureForbidden, ContainSubstring(namespace)))

		pod.Annotations = map[string]string{v1alpha1.AnnotationCapture: v1alpha1.CaptureProxy}
		pod.Spec.InitContainers = []corev1.Container{*pod.Spec.Containers[0].DeepCopy()}
		migrate := &pod.Spec.InitContainers[0]
		migrate.Name, migrate.LivenessProbe, migrate.Ports = "migrate", nil, nil
		warnings = &warningRecorder{}
		Expect(warnings.client().Create(ctx, pod)).To(Succeed())
		Expect(warnings.all()).To(BeEmpty())
		Expect(initContainers(pod)).To(Equal([]string{v1alpha1.SidecarContainer, "migrate"}))
		Expect(pod.Spec.InitContainers[0].Ports).To(ContainElement(
			corev1.ContainerPort{Name: "weir-8080", ContainerPort: ruleset.FirstExplicitPort, Protocol: corev1.ProtocolTCP}))
		Expect(pod.Spec.Containers[0].LivenessProbe.HTTPGet.Path).To(Equal("/live"))

		bootstrap := bootstrapOf(pod)
		Expect(bootstrap.Probes).To(BeEmpty(), "the kubelet reaches the application directly")
		Expect(bootstrap.Explicit.Inbound).To(Equal([]ruleset.ExplicitPort{{Listen: ruleset.FirstExplicitPort, Port: 8080}}))
		Expect(bootstrap.Trust).To(BeTrue())
		for _, container := range []corev1.Container{pod.Spec.InitContainers[1], pod.Spec.Containers[0]} {
			Expect(valuesOf(container)).To(And(
				HaveKeyWithValue("https_proxy", "http://127.0.0.1:14001"),
				HaveKeyWithValue("SSL_CERT_FILE", "/var/run/weir-trust/ca-bundle.crt"),
			), container.Name)
		}
		Expect(pod.Annotations[injection.AnnotationStatus]).To(ContainSubstring(`"capture":"proxy"`))
	})

	It("passes PodSecurity baseline by proxy", func() {
		pod := podOf(newReplicaSet(namespaceUnder("baseline")))
		pod.Annotations = map[string]string{v1alpha1.AnnotationCapture: v1alpha1.CaptureProxy}
		Expect(k8sClient.Create(ctx, pod)).To(Succeed())
		Expect(initContainers(pod)).To(Equal([]string{v1alpha1.SidecarContainer}))
	})

	It("warns a pod that asks for itself of its namespace's level, too", func() {
		namespace := newNamespace(map[string]string{interceptable: "true", "pod-security.kubernetes.io/enforce": "baseline"})
		Eventually(func() error { return cached.Get(ctx, client.ObjectKey{Name: namespace}, &corev1.Namespace{}) }).Should(Succeed())
		pod := podOf(newReplicaSet(namespace))
		pod.Labels[v1alpha1.LabelInject] = v1alpha1.InjectPod
		warnings := &warningRecorder{}
		Expect(apierrors.IsForbidden(warnings.client().Create(ctx, pod))).To(BeTrue())
		Expect(warnings.all()).To(ContainElement(ContainSubstring("baseline")))
	})

	It("leads every container to the trust bundle, and says where the application leads elsewhere", func() {
		namespace := namespaceUnder("privileged")
		intercept(namespace)
		owner := newReplicaSet(namespace)
		pod := podOf(owner)
		pod.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "SSL_CERT_FILE", Value: "/own"}, {Name: "JAVA_TOOL_OPTIONS", Value: "-Xmx1g"}}
		warnings := &warningRecorder{}
		Expect(warnings.client().Create(ctx, pod)).To(Succeed())
		Expect(initContainers(pod)).To(Equal([]string{v1alpha1.CaptureContainer, v1alpha1.SidecarContainer}))
		Expect(bootstrapOf(pod).Trust).To(BeTrue())
		Expect(bootstrapOf(pod).Explicit).To(BeNil())
		Expect(pod.Spec.Containers[0].VolumeMounts).To(ConsistOf(
			corev1.VolumeMount{Name: "weir-trust", MountPath: ruleset.TrustDir, ReadOnly: true}))
		Expect(valuesOf(pod.Spec.Containers[0])).To(And(
			HaveKeyWithValue("SSL_CERT_FILE", "/own"),
			HaveKeyWithValue("REQUESTS_CA_BUNDLE", "/var/run/weir-trust/ca-bundle.crt"),
			HaveKeyWithValue("JAVA_TOOL_OPTIONS", HaveSuffix(" -Xmx1g")),
		))
		Expect(warnings.all()).To(ConsistOf(ContainSubstring(`container "app" sets SSL_CERT_FILE itself`)))
		Eventually(eventsOn).WithArguments(owner).Should(And(
			HaveKeyWithValue(injection.EventTrustIncomplete, ContainSubstring("SSL_CERT_FILE")),
			HaveKey(injection.EventInjected),
		))
	})

	It("leads the containers of later webhooks there, too", func() {
		namespace := namespaceUnder("privileged")
		intercept(namespace)
		pod := podOf(newReplicaSet(namespace))
		pod.Annotations = map[string]string{"test.weir.dev/late": "true", v1alpha1.AnnotationCapture: v1alpha1.CaptureProxy}
		Expect(k8sClient.Create(ctx, pod)).To(Succeed())
		Expect(pod.Spec.Containers).To(HaveLen(2))
		Expect(valuesOf(pod.Spec.Containers[1])).To(And(HaveKey("SSL_CERT_FILE"), HaveKey("http_proxy"), HaveKey("JAVA_TOOL_OPTIONS")))
		Expect(pod.Spec.Containers[1].VolumeMounts).To(HaveLen(1))
	})

	// The API server's plugin for service accounts runs before webhooks, and again
	// after one has changed the pod: then it finds our containers, with something
	// of ours in its place.
	It("leaves no token of the API in its own containers", func() {
		namespace := namespaceUnder("privileged")
		intercept(namespace)
		for _, late := range []string{"", "true"} {
			pod := podOf(newReplicaSet(namespace))
			pod.Spec.AutomountServiceAccountToken = nil
			pod.Annotations = map[string]string{"test.weir.dev/late": late}
			Expect(k8sClient.Create(ctx, pod)).To(Succeed())
			const api = "/var/run/secrets/kubernetes.io/serviceaccount"
			Expect(mountPaths(pod.Spec.Containers[0])).To(ContainElement(api), "the application has what it had without us")
			capture, sidecar := pod.Spec.InitContainers[0], pod.Spec.InitContainers[1]
			Expect(mountPaths(capture)).To(ConsistOf(api))
			Expect(mountPaths(sidecar)).To(ConsistOf(api, "/var/run/secrets/weir.dev", ruleset.StateDir, ruleset.TrustDir))
			for _, ours := range []corev1.Container{capture, sidecar} {
				for _, mount := range ours.VolumeMounts {
					Expect(mount.Name).To(HavePrefix("weir-"), "nothing of anybody else's is mounted")
				}
			}
		}
	})

	It("refuses what an annotation cannot mean", func() {
		owner := newReplicaSet(namespaceUnder("privileged"))
		pod := podOf(owner)
		pod.Annotations = map[string]string{v1alpha1.AnnotationCapture: "none"}
		Expect(k8sClient.Create(ctx, pod)).To(MatchError(ContainSubstring(`weir.dev/capture: "none" is neither "redirect" nor "proxy"`)))
		Eventually(eventsOn).WithArguments(owner).Should(HaveKey(injection.EventInjectionRefused))
	})
})

// compliant has what PodSecurity's level restricted asks of a pod's author.
func compliant(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: new(true), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	return pod
}

// addLateContainer is a webhook that adds a container to pods that ask for it.
func addLateContainer(_ context.Context, request admission.Request) admission.Response {
	pod := &corev1.Pod{}
	if err := json.Unmarshal(request.Object.Raw, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err)
	}
	late := corev1.Container{Name: "late", Image: "late:1"}
	if pod.Annotations["test.weir.dev/late"] == "" || slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return c.Name == late.Name }) {
		return admission.Allowed("")
	}
	pod.Spec.Containers = append(pod.Spec.Containers, late)
	changed, err := json.Marshal(pod)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, err)
	}
	return admission.PatchResponseFromRaw(request.Object.Raw, changed)
}

func mountPaths(container corev1.Container) (paths []string) {
	for _, mount := range container.VolumeMounts {
		paths = append(paths, mount.MountPath)
	}
	return paths
}

func valuesOf(container corev1.Container) map[string]string {
	values := map[string]string{}
	for _, variable := range container.Env {
		values[variable.Name] = variable.Value
	}
	return values
}

// warningRecorder keeps the warnings of Weir that a client was answered with.
type warningRecorder struct {
	mu       sync.Mutex
	warnings []string
}

func (w *warningRecorder) HandleWarningHeader(_ int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings = append(w.warnings, text)
}

func (w *warningRecorder) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.warnings)
}

// client is one whose warnings are kept.
func (w *warningRecorder) client() client.Client {
	GinkgoHelper()
	config := rest.CopyConfig(cfg)
	config.WarningHandler = w
	c, err := client.New(config, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	return c
}
