package injection

import (
	"encoding/json"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Complete is for a pod that changed after it got its sidecar. It tells the
// containers that another webhook added what the pod's first ones were told: they
// too would call through a proxy, or meet a certificate, that they know nothing
// of. And it takes out of our containers what another webhook mounted into all.
// It returns the pod itself when there is nothing to do.
func Complete(pod *corev1.Pod) (*corev1.Pod, []Notice) {
	var status Status
	if json.Unmarshal([]byte(pod.Annotations[AnnotationStatus]), &status) != nil {
		return pod, nil // not by us: no annotation of ours, nothing to go on
	}
	completed := pod.DeepCopy()
	for i := range completed.Spec.InitContainers {
		keepOurMounts(&completed.Spec.InitContainers[i])
	}
	e := environment{trust: status.Trust && hasVolume(&pod.Spec, trustVolume), proxied: status.Capture == v1alpha1.CaptureProxy}
	gaps := e.tell(behindSidecar(&completed.Spec), completed.Spec.Volumes)
	if reflect.DeepEqual(pod.Spec, completed.Spec) {
		return pod, nil
	}
	status.Kept = keptOf(gaps)
	annotate(completed, status)
	return completed, noticesOf(gaps)
}

// keepOurMounts leaves a container of ours what we gave it.
func keepOurMounts(container *corev1.Container) {
	if container.Name != v1alpha1.CaptureContainer && container.Name != v1alpha1.SidecarContainer {
		return
	}
	container.VolumeMounts = slices.DeleteFunc(container.VolumeMounts, func(m corev1.VolumeMount) bool {
		return !slices.Contains(ourVolumes, m.Name)
	})
}

func hasVolume(spec *corev1.PodSpec, name string) bool {
	return slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return v.Name == name })
}
