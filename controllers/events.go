package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	lru "k8s.io/utils/lru"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
)

// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// Recorder records an event about an object.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any)
}

// maxNote is an event's longest note in bytes, less some.
const maxNote = 1000

// reportChanges records what has become of a policy: one event for each
// condition whose status or reason is another than before. Ready repeats the
// others, and NotAccepted repeats Accepted.
func reportChanges(recorder Recorder, policy *v1alpha1.RateLimitPolicy, before, after []metav1.Condition) {
	for _, conditionType := range []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed} {
		old, current := meta.FindStatusCondition(before, conditionType), meta.FindStatusCondition(after, conditionType)
		if current == nil || current.Reason == v1alpha1.ReasonNotAccepted ||
			old != nil && old.Status == current.Status && old.Reason == current.Reason {
			continue
		}
		eventType := corev1.EventTypeWarning
		if current.Status == metav1.ConditionTrue || current.Reason == v1alpha1.ReasonPending {
			eventType = corev1.EventTypeNormal
		}
		recorder.Eventf(policy, nil, eventType, current.Reason, "Program", "%.*s", maxNote, current.Message)
	}
}

// reportBare tells the owners of selected pods that have no sidecar, once each
// while it is remembered.
func reportBare(recorder Recorder, told *lru.Cache, policy *v1alpha1.RateLimitPolicy, pods []*corev1.Pod) {
	for _, pod := range pods {
		if link.HasSidecar(pod) {
			continue
		}
		owner := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}
		if controller := metav1.GetControllerOf(pod); controller != nil {
			owner.APIVersion, owner.Kind, owner.Name, owner.UID = controller.APIVersion, controller.Kind, controller.Name, controller.UID
		}
		key := string(owner.UID) + "/" + string(policy.UID)
		if _, known := told.Get(key); known {
			continue
		}
		told.Add(key, nil)
		recorder.Eventf(owner, nil, corev1.EventTypeWarning, v1alpha1.ReasonSidecarMissing, "Program",
			"RateLimitPolicy %s selects pod %s, which runs without Weir's sidecar: nothing limits it. Label the namespace %s=%s and restart the pod, or label the pod %s=%q to leave it out.",
			policy.Name, pod.Name, v1alpha1.LabelInject, v1alpha1.InjectNamespace, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
	}
}
