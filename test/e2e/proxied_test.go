package e2e

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/weir-dev/weir/api/v1alpha1"
)

var _ = Describe("Capture by proxy", Serial, func() {
	It("needs no right in a restricted namespace, and limits what the pod calls and serves", func() {
		trustHosts(provideSecurely("com", "provider"))
		namespace := makeNamespace(map[string]string{
			v1alpha1.LabelInject: v1alpha1.InjectNamespace, "pod-security.kubernetes.io/enforce": "restricted",
		})
		outbound := makePolicy("provider").outbound("api.provider.com").intercepting().admitting(10).create(namespace)
		inbound := makePolicy("api").admitting(10).create(namespace)
		waitAccepted(outbound)
		pod := makePod("api").labelled("app", "api").serving(8080).restricted().withClaimedHostPrograms(namespace).
			annotated(v1alpha1.AnnotationCapture, v1alpha1.CaptureProxy).create(namespace)
		exposedAt(namespace, "api", map[string]string{"app": "api"}, 80, "weir-8080", false)
		caller := makePod("caller").create(makeNamespace(nil))
		waitReady(pod, caller)
		waitEnforced(outbound, 1)
		waitEnforced(inbound, 1)
		Expect(pod.Spec.InitContainers).To(HaveLen(1), "the sidecar, and nothing that captures")

		By("calling out with curl and with Python, in clear and intercepted")
		const plain, secure = "http://api.provider.com/v1/me", "https://api.provider.com/v1/me"
		waitIntercepted(pod, secure)
		statuses := curl(pod, "a", plain, 4)
		add(statuses, curl(pod, "a", secure, 4))
		add(statuses, python(pod, "a", plain, 4))
		add(statuses, python(pod, "a", secure, 4))
		Expect(statuses).To(Equal(map[string]int{"200": 10, "429": 6}))
		Expect(curl(pod, "b", secure, 3)).To(Equal(map[string]int{"200": 3}), "another user")

		By("calling in through the Service that names the sidecar's port")
		url := "http://api." + namespace + ".svc/"
		Eventually(func() int { return callFrom(caller.Namespace, caller.Name, "-H=X-User-ID: first", url).answered() }).Should(Equal(1))
		Expect(callFrom(caller.Namespace, caller.Name, "-n=15", "-H=X-User-ID: a", url).Statuses).To(Equal(map[string]int{"200": 10, "429": 5}))
	})
})

// restricted keeps the pod within the PodSecurity level of that name.
func (b *podBuilder) restricted() *podBuilder {
	b.container().SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false), RunAsNonRoot: ptr.To(true),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	return b
}

// withClaimedHostPrograms is withHostPrograms where hostPath is forbidden: by a
// claim of a volume that an administrator made.
func (b *podBuilder) withClaimedHostPrograms(namespace string) *podBuilder {
	GinkgoHelper()
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-host-"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef:               &corev1.ObjectReference{Namespace: namespace, Name: "host"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}},
		},
	}
	Expect(cluster.Create(ctx, volume)).To(Succeed())
	DeferCleanup(func() { Expect(cluster.Delete(ctx, volume)).To(Succeed()) })
	Expect(cluster.Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "host"},
		Spec: corev1.PersistentVolumeClaimSpec{
			VolumeName: volume.Name, StorageClassName: ptr.To(""), AccessModes: modes,
			Resources: corev1.VolumeResourceRequirements{Requests: size},
		},
	})).To(Succeed())
	b.Spec.Volumes = append(b.Spec.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "host", ReadOnly: true},
	}})
	for _, path := range []string{"usr", "lib", "lib64", "etc/ssl"} {
		b.container().VolumeMounts = append(b.container().VolumeMounts,
			corev1.VolumeMount{Name: "host", MountPath: "/" + path, SubPath: path, ReadOnly: true})
	}
	return b
}
