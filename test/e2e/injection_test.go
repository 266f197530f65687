package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

var _ = Describe("An injected pod", func() {
	DescribeTable("has probes that are not counted and still see a dead application", func(handler corev1.ProbeHandler) {
		namespace := newNamespace()
		policy := makePolicy("api").selecting("api").admitting(1)
		policy.Spec.Identity.IfMissing = v1alpha1.IfMissingShared // the kubelet would be an unnamed caller
		enforced := policy.create(namespace)
		pod := makePod("api").labelled("app", "api").serving(8080).probed(handler).ready(namespace)
		caller := makePod("caller").ready(makeNamespace(nil))
		waitEnforced(enforced, 1)
		url := "http://" + pod.Status.PodIP + ":8080"

		By("waiting for more probes than the limit admits")
		if handler.HTTPGet != nil {
			next := 0
			Eventually(func() int64 {
				next++
				return callFrom(caller.Namespace, caller.Name, "-H=X-User-ID: "+string(rune('a'+next)), url+"/").Last.Probes
			}).WithPolling(1e9).Should(BeNumerically(">=", 4))
		}
		Expect(isReady(pod)).To(BeTrue())
		Expect(callFrom(caller.Namespace, caller.Name, "-n=2", url+"/").Statuses).To(Equal(map[string]int{"200": 1, "429": 1}),
			"the one unnamed request of the quota was left")

		By("letting the application die")
		Expect(callFrom(caller.Namespace, caller.Name, "-H=X-User-ID: z", url+"/die").Statuses).To(HaveKey("202"))
		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(pod), pod)).To(Succeed())
			g.Expect(isReady(pod)).To(BeFalse())
		}).Should(Succeed())
	},
		Entry("over HTTP", corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString("http")}}),
		Entry("over TCP", corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}}),
	)

	It("of a Job completes, and its init containers have network", func() {
		namespace := newNamespace()
		server := makePod("server").serving(8080).ready(makeNamespace(nil))
		url := "http://" + server.Status.PodIP + ":8080/"
		pod := makePod("").withHostPrograms()
		pod.Spec.RestartPolicy = corev1.RestartPolicyNever
		pod.container().Command = []string{"/usr/bin/curl", "-fsS", url}
		initializer := *pod.container().DeepCopy()
		initializer.Name = "first"
		pod.Spec.InitContainers = []corev1.Container{initializer}
		job := &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "job"},
			Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: pod.Spec}},
		}
		Expect(cluster.Create(ctx, job)).To(Succeed())

		Eventually(func(g Gomega) {
			g.Expect(cluster.Get(ctx, client.ObjectKeyFromObject(job), job)).To(Succeed())
			g.Expect(job.Status.Succeeded).To(BeEquivalentTo(1), "%+v", job.Status)
		}).Should(Succeed())
		pods := &corev1.PodList{}
		Expect(cluster.List(ctx, pods, client.InNamespace(namespace))).To(Succeed())
		Expect(pods.Items).To(HaveLen(1), "it succeeded at the first try")
		Expect(hasSidecar(&pods.Items[0])).To(BeTrue())
		Expect(runKubectl("-n", namespace, "get", "events")).To(ContainSubstring("Injected"))
	})

	It("is not changed by a second admission", func() {
		namespace := newNamespace()
		once := makePod("once").labelled("app", "api").serving(8080).create(namespace)
		twice := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: "twice", Labels: once.Labels, Annotations: once.Annotations,
		}, Spec: *once.Spec.DeepCopy()}
		want := twice.DeepCopy()
		Expect(cluster.Create(ctx, twice, client.DryRunAll)).To(Succeed())
		Expect(twice.Spec).To(Equal(want.Spec))
		Expect(twice.Annotations).To(Equal(want.Annotations))
	})

	It("has no token of the API in Weir's containers, and its own where it had it", func() {
		pod := makePod("token").serving(8080).ready(newNamespace())
		const api = "/var/run/secrets/kubernetes.io/serviceaccount"
		mounts := func(container corev1.Container) (paths []string) {
			for _, mount := range container.VolumeMounts {
				paths = append(paths, mount.MountPath)
			}
			return paths
		}
		Expect(mounts(pod.Spec.Containers[0])).To(ContainElement(api))
		Expect(pod.Spec.InitContainers).To(HaveLen(2))
		for _, container := range pod.Spec.InitContainers {
			Expect(hasToken(container)).To(BeFalse(), container.Name)
		}
	})

	It("that opts out starts untouched", func() {
		namespace := newNamespace()
		pod := makePod("plain").labelled(v1alpha1.LabelInject, v1alpha1.InjectOptOut).serving(8080).ready(namespace)
		Expect(pod.Spec.InitContainers).To(BeEmpty())
		Expect(pod.Spec.Containers).To(HaveLen(1))
	})

	It("is asked for by a label of its own where the namespace has none", func() {
		pod := makePod("asks").labelled(v1alpha1.LabelInject, v1alpha1.InjectPod).serving(8080).ready(makeNamespace(nil))
		Expect(hasSidecar(pod)).To(BeTrue())
	})
})
