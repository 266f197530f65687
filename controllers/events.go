package controllers

import (
	"slices"

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

// The conditions whose changes events speak of. A RateLimitPolicy's Ready
// repeats the others.
var (
	policyConditions = []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionProgrammed, v1alpha1.ConditionDegraded}
	taskConditions   = []string{v1alpha1.ConditionAccepted, v1alpha1.ConditionWorkersAvailable, v1alpha1.ConditionReady}
)

// passing are reasons of False that nobody has to do anything about.
var passing = []string{v1alpha1.ReasonPending, v1alpha1.ReasonWorkersStarting, v1alpha1.ReasonSuspended}

// reportChanges records what has become of an object: one event for each of the
// conditions whose status or reason is another than before. NotAccepted repeats
// Accepted, as any reason repeats the one of a condition before it.
func reportChanges(recorder Recorder, object runtime.Object, action string, conditions []string, before, after []metav1.Condition) {
	said := []string{v1alpha1.ReasonNotAccepted}
	for _, conditionType := range conditions {
		old, current := meta.FindStatusCondition(before, conditionType), meta.FindStatusCondition(after, conditionType)
		if current == nil || slices.Contains(said, current.Reason) {
			continue
		}
		said = append(said, current.Reason)
		if old != nil && old.Status == current.Status && old.Reason == current.Reason {
			continue
		}
		bad := metav1.ConditionFalse
		if conditionType == v1alpha1.ConditionDegraded {
			if bad = metav1.ConditionTrue; old == nil && current.Status != bad {
				continue // that nothing is wrong is no news
			}
		}
		eventType := corev1.EventTypeWarning
		if current.Status != bad || slices.Contains(passing, current.Reason) {
			eventType = corev1.EventTypeNormal
		}
		recorder.Eventf(object, nil, eventType, current.Reason, action, "%.*s", maxNote, current.Message)
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
