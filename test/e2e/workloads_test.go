package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// podBuilder makes pods of the suite's application that read like sentences:
// makePod("api").labelled("app", "api").serving(8080).
type podBuilder struct{ corev1.Pod }

func makePod(name string) *podBuilder {
	return &podBuilder{corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](1),
			Containers: []corev1.Container{{
				Name: "app", Image: appImage, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{"/app", "idle"},
			}},
		},
	}}
}

func (b *podBuilder) container() *corev1.Container { return &b.Spec.Containers[0] }

func (b *podBuilder) labelled(name, value string) *podBuilder {
	b.Labels[name] = value
	return b
}

func (b *podBuilder) annotated(name, value string) *podBuilder {
	if b.Annotations == nil {
		b.Annotations = map[string]string{}
	}
	b.Annotations[name] = value
	return b
}

// serving makes the application answer on a declared port, ready when it does.
func (b *podBuilder) serving(port int32) *podBuilder {
	c := b.container()
	c.Command = []string{"/app", "serve", fmt.Sprintf("-port=%d", port)}
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: port}}
	if port < 1024 {
		b.asRoot()
	}
	return b.probed(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}})
}

// probed sets the readiness probe.
func (b *podBuilder) probed(handler corev1.ProbeHandler) *podBuilder {
	b.container().ReadinessProbe = &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, FailureThreshold: 2}
	return b
}

// withHostPrograms mounts the node's curl and Python, unmodified, into the pod.
func (b *podBuilder) withHostPrograms() *podBuilder {
	for name, path := range map[string]string{"usr": "/usr", "lib": "/lib", "lib64": "/lib64", "ssl": "/etc/ssl"} {
		b.mountingHost(name, path)
	}
	return b
}

// withHostJava adds what Java needs beside that, as Debian has it.
func (b *podBuilder) withHostJava() *podBuilder {
	return b.mountingHost("alternatives", "/etc/alternatives").mountingHost("java", "/etc/java-17-openjdk")
}

func (b *podBuilder) mountingHost(name, path string) *podBuilder {
	return b.mounting(name, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path}}, path)
}

// mounting mounts a volume, read-only.
func (b *podBuilder) mounting(name string, source corev1.VolumeSource, path string) *podBuilder {
	b.Spec.Volumes = append(b.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	b.container().VolumeMounts = append(b.container().VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path, ReadOnly: true})
	return b
}

// as gives the pod a name under which `<hostname>.<subdomain>.<namespace>.svc`
// resolves to it.
func (b *podBuilder) as(hostname, subdomain string) *podBuilder {
	b.Spec.Hostname, b.Spec.Subdomain = hostname, subdomain
	return b
}

// sharingProcesses lets the application see, and kill, the sidecar's process.
func (b *podBuilder) sharingProcesses() *podBuilder {
	b.Spec.ShareProcessNamespace = ptr.To(true)
	return b.asRoot()
}

func (b *podBuilder) asRoot() *podBuilder {
	b.container().SecurityContext = &corev1.SecurityContext{RunAsUser: ptr.To[int64](0)}
	return b
}

func (b *podBuilder) create(namespace string) *corev1.Pod {
	GinkgoHelper()
	pod := b.DeepCopy()
	pod.Namespace = namespace
	Expect(cluster.Create(ctx, pod)).To(Succeed())
	return pod
}

// ready creates the pod and waits until it is ready.
func (b *podBuilder) ready(namespace string) *corev1.Pod {
	GinkgoHelper()
	pod := b.create(namespace)
	waitReady(pod)
	return pod
}

func waitReady(pods ...*corev1.Pod) {
	GinkgoHelper()
	for _, pod := range pods {
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(isReady(pod)).To(BeTrue(), "%s: %s %v", pod.Name, pod.Status.Phase, pod.Status.Conditions)
		}).Should(Succeed())
	}
}

func isReady(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func hasSidecar(pod *corev1.Pod) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == v1alpha1.SidecarContainer {
			return true
		}
	}
	return false
}

// exposed makes a Service; headless ones give their pods names of their own.
func exposed(namespace, name string, selector map[string]string, port int32, headless bool) *corev1.Service {
	GinkgoHelper()
	return exposedAt(namespace, name, selector, port, "http", headless)
}

// exposedAt is exposed for pods whose port has another name.
func exposedAt(namespace, name string, selector map[string]string, port int32, target string, headless bool) *corev1.Service {
	GinkgoHelper()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.ServiceSpec{
			Selector: selector,
			Ports:    []corev1.ServicePort{{Port: port, TargetPort: intstr.FromString(target)}},
		},
	}
	if headless {
		service.Spec.ClusterIP = corev1.ClusterIPNone
		service.Spec.Ports[0].TargetPort = intstr.FromInt32(port)
	}
	Expect(cluster.Create(ctx, service)).To(Succeed())
	return service
}

// scale sets one of Weir's own workloads (kind/name) to some replicas and waits
// until its pods are as said.
func scale(workload string, replicas int) {
	GinkgoHelper()
	runKubectl("-n", systemNamespace, "scale", workload, "--replicas="+strconv.Itoa(replicas))
	_, name, _ := strings.Cut(workload, "/")
	Eventually(func(g Gomega) {
		pods := &corev1.PodList{}
		g.Expect(cluster.List(ctx, pods, client.InNamespace(systemNamespace),
			client.MatchingLabels{"app.kubernetes.io/name": name})).To(Succeed())
		g.Expect(pods.Items).To(HaveLen(replicas))
		for i := range pods.Items {
			g.Expect(isReady(&pods.Items[i])).To(BeTrue(), pods.Items[i].Name)
		}
	}).Should(Succeed())
}

// waitForOperator waits until the operator's replicas are there and pods are
// admitted.
func waitForOperator() {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		operator := &appsv1.StatefulSet{}
		g.Expect(cluster.Get(ctx, client.ObjectKey{Namespace: systemNamespace, Name: "weir-operator"}, operator)).To(Succeed())
		g.Expect(operator.Status.ObservedGeneration).To(Equal(operator.Generation))
		g.Expect(operator.Status.UpdatedReplicas).To(Equal(*operator.Spec.Replicas))
		g.Expect(operator.Status.AvailableReplicas).To(Equal(*operator.Spec.Replicas))
		// The node's rules for the webhook's Service follow the endpoints.
		probe := makePod("probe").labelled(v1alpha1.LabelInject, v1alpha1.InjectPod).DeepCopy()
		probe.Namespace = metav1.NamespaceDefault
		g.Expect(cluster.Create(ctx, probe, client.DryRunAll)).To(Succeed())
	}).WithTimeout(3 * time.Minute).Should(Succeed())
}
