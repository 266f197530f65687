package injection

import (
	"fmt"
	"path"
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
// user, its ports and its paths.
func refuse(pod *corev1.Pod, p *plan) error {
	for _, container := range allContainers(&pod.Spec) {
		if container.Name == v1alpha1.CaptureContainer || container.Name == v1alpha1.SidecarContainer {
			return refusef("container %q has a name that Weir's sidecar needs: rename it, or label the pod %s=%q",
				container.Name, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
		}
		if user := effectiveUser(pod, container); !p.proxied && user != nil && *user == ruleset.UID {
			return refusef("container %q runs as user %d, which is the user of Weir's sidecar, so its connections would pass unlimited: choose another runAsUser",
				container.Name, ruleset.UID)
		}
		if err := refusePorts(container, p.explicit); err != nil {
			return err
		}
		for _, mount := range container.VolumeMounts {
			if p.trust && path.Clean(mount.MountPath) == ruleset.TrustDir {
				return refusef("container %q mounts volume %q at %s, where Weir's trust bundle belongs: choose another path, or annotate the pod %s=%q",
					container.Name, mount.Name, ruleset.TrustDir, v1alpha1.AnnotationTrust, v1alpha1.TrustRefuse)
			}
		}
	}
	for _, port := range p.inbound {
		if isExplicitPort(p.explicit, int32(port)) { // of the annotation: a declared one was found above
			return refusef("annotation %s names port %d, on which Weir's sidecar itself listens: remove it from the list", v1alpha1.AnnotationInboundPorts, port)
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if slices.Contains(ourVolumes, volume.Name) {
			return refusef("volume %q has a name that Weir's sidecar needs: rename it, or label the pod %s=%q",
				volume.Name, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
		}
	}
	return nil
}

// refusePorts holds a container's ports against the sidecar's.
func refusePorts(container *corev1.Container, explicit *ruleset.Explicit) error {
	for _, port := range container.Ports {
		if isTCP(port) && (isOwnPort(port.ContainerPort) || isExplicitPort(explicit, port.ContainerPort)) {
			return refusef("container %q declares port %d, on which Weir's sidecar listens: choose another port, or label the pod %s=%q",
				container.Name, port.ContainerPort, v1alpha1.LabelInject, v1alpha1.InjectOptOut)
		}
		if isExplicitName(explicit, port.Name) {
			return refusef("container %q names a port %q, as Weir's sidecar does, so that Services would not find the sidecar's: rename it",
				container.Name, port.Name)
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
