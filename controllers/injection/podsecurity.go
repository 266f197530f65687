package injection

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// labelPodSecurity on a namespace is the PodSecurity level that it enforces
// (k8s.io/pod-security-admission/api).
const labelPodSecurity = "pod-security.kubernetes.io/enforce"

// podSecurityNotice says, when the namespace's level forbids the capability
// that captures, how the pod does without. It refuses nothing: users, runtime
// classes and namespaces may be exempt by a file of the API server's, which
// nobody else can read.
func podSecurityNotice(pod *corev1.Pod, namespace string, namespaceLabels map[string]string) []Notice {
	level := namespaceLabels[labelPodSecurity]
	if proxied, err := isProxied(pod); err != nil || proxied || level != "baseline" && level != "restricted" {
		return nil
	}
	return []Notice{{
		Type: corev1.EventTypeWarning, Reason: EventCaptureForbidden,
		Sentence: fmt.Sprintf("Namespace %s enforces the PodSecurity level %s, which forbids the capability NET_ADMIN of container %s and refuses the pod unless it is exempt: annotate the pod %s=%q, which needs no capability (docs/injection.md says what it changes)",
			namespace, level, v1alpha1.CaptureContainer, v1alpha1.AnnotationCapture, v1alpha1.CaptureProxy),
	}}
}
