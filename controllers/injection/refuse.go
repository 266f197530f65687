package injection

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Refusal is the error of a pod that cannot be admitted as it is: with a
// sidecar it would not work, and without one it would run unlimited.
type Refusal struct {
	// Sentence says what is wrong and what to change.
	Sentence string
}

func (r *Refusal) Error() string { return r.Sentence }

func refusef(format string, args ...any) error {
	return &Refusal{Sentence: fmt.Sprintf(format, args...)}
}

// refuse holds a pod against what the sidecar takes for itself: names, its
// user and its ports.
func refuse(pod *corev1.Pod) error {
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	for i := range containers {
		container := &containers[i]
		if container.Name == v1alpha1.CaptureContainer || container.Name == v1alpha1.SidecarContainer {
			return refusef("container %q has a name that Weir's sidecar needs: rename it, or label the pod %s=%q",
				container.Name, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
		}
		if user := effectiveUser(pod, container); user != nil && *user == ruleset.UID {
			return refusef("container %q runs as user %d, which is the user of Weir's sidecar, so its connections would pass unlimited: choose another runAsUser",
				container.Name, ruleset.UID)
		}
		for _, port := range container.Ports {
			if isTCP(port) && isOwnPort(port.ContainerPort) {
				return refusef("container %q declares port %d, on which Weir's sidecar listens: choose another port, or label the pod %s=%q",
					container.Name, port.ContainerPort, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
			}
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Name == tokenVolume || volume.Name == stateVolume {
			return refusef("volume %q has a name that Weir's sidecar needs: rename it, or label the pod %s=%q",
				volume.Name, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
		}
	}
	return nil
}

// effectiveUser is the user that a container runs as, nil when its image says.
func effectiveUser(pod *corev1.Pod, container *corev1.Container) *int64 {
	if container.SecurityContext != nil && container.SecurityContext.RunAsUser != nil {
		return container.SecurityContext.RunAsUser
	}
	if pod.Spec.SecurityContext != nil {
		return pod.Spec.SecurityContext.RunAsUser
	}
	return nil
}
