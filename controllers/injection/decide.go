package injection

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Decision says what becomes of a pod at admission.
type Decision struct {
	// Inject is true when the pod gets a sidecar.
	Inject bool
	// Complete is true when the pod has a sidecar already, but perhaps
	// containers that came after it.
	Complete bool
	// Skipped is a sentence that says why the pod gets none although its labels
	// ask for one. Empty when nobody asked, or when it has one already.
	Skipped string
}

// Decide says whether a pod of a namespace with these labels gets a sidecar.
// The pod's own label goes before the namespace's.
func Decide(pod *corev1.Pod, namespace string, namespaceLabels map[string]string, operatorNamespace string) Decision {
	if !asked(pod, namespaceLabels) {
		return Decision{}
	}
	if hasSidecar(pod) {
		return Decision{Complete: true}
	}
	if reason := obstacle(pod, namespace, operatorNamespace); reason != "" {
		return Decision{Skipped: reason}
	}
	return Decision{Inject: true}
}

func asked(pod *corev1.Pod, namespaceLabels map[string]string) bool {
	switch pod.Labels[v1alpha1.LabelInject] {
	case v1alpha1.InjectOptOut:
		return false
	case v1alpha1.InjectPod:
		return true
	default:
		return namespaceLabels[v1alpha1.LabelInject] == v1alpha1.InjectNamespace
	}
}

// obstacle says why a pod cannot have a sidecar; empty when it can.
func obstacle(pod *corev1.Pod, namespace, operatorNamespace string) string {
	switch {
	case namespace == metav1.NamespaceSystem, namespace == metav1.NamespacePublic,
		namespace == corev1.NamespaceNodeLease, namespace == operatorNamespace:
		return fmt.Sprintf("namespace %s is a system namespace, whose pods get no sidecar", namespace)
	case pod.Spec.HostNetwork:
		return "the pod uses the node's network (hostNetwork: true), where capturing its connections would capture the node's"
	case forWindows(pod):
		return "the pod runs on Windows, which has no nftables to capture connections with"
	default:
		return ""
	}
}

func forWindows(pod *corev1.Pod) bool {
	return pod.Spec.OS != nil && pod.Spec.OS.Name == corev1.Windows ||
		pod.Spec.NodeSelector[corev1.LabelOSStable] == string(corev1.Windows)
}
