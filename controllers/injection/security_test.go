package injection

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// TestOurContainersHaveNoRights holds whatever the pod says for all its
// containers: the golden inputs have a pod that says much.
func TestOurContainersHaveNoRights(t *testing.T) {
	t.Parallel()
	for name, pod := range goldenInputs(t) {
		pod.Spec.SecurityContext = &corev1.PodSecurityContext{
			RunAsUser: new(int64(0)), RunAsNonRoot: new(false),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
		}
		injected, _, err := Inject(pod, testConfig, interceptingRuleset())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found := 0
		for i := range injected.Spec.InitContainers {
			container := &injected.Spec.InitContainers[i]
			if container.Name != v1alpha1.CaptureContainer && container.Name != v1alpha1.SidecarContainer {
				continue
			}
			found++
			s := container.SecurityContext
			if s == nil || !isFalse(s.AllowPrivilegeEscalation) || !isFalse(s.Privileged) || isFalse(s.ReadOnlyRootFilesystem) || s.ReadOnlyRootFilesystem == nil ||
				s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
				!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) {
				t.Errorf("%s: %s has rights:\n%s", name, container.Name, asYAML(t, s))
			}
			switch container.Name {
			case v1alpha1.CaptureContainer:
				// It runs as root, once, and ends: see captureContainer.
				if !slices.Equal(s.Capabilities.Add, []corev1.Capability{"NET_ADMIN"}) || container.RestartPolicy != nil ||
					len(container.VolumeMounts) != 1 || container.VolumeMounts[0].Name != emptyVolume {
					t.Errorf("%s: want %s with NET_ADMIN only, ending, with nothing mounted but an empty folder:\n%s", name, container.Name, asYAML(t, container))
				}
			case v1alpha1.SidecarContainer:
				if s.RunAsUser == nil || *s.RunAsUser != ruleset.UID || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || len(s.Capabilities.Add) > 0 {
					t.Errorf("%s: want %s as user %d without capabilities:\n%s", name, container.Name, ruleset.UID, asYAML(t, s))
				}
				for _, mount := range container.VolumeMounts {
					if !slices.Contains(ourVolumes, mount.Name) {
						t.Errorf("%s: %s mounts %s", name, container.Name, mount.Name)
					}
				}
			}
		}
		if found == 0 {
			t.Errorf("%s: nothing was injected", name)
		}
		// Nobody else gets the sidecar's token or state.
		for _, container := range allContainers(&injected.Spec) {
			for _, mount := range container.VolumeMounts {
				if container.Name != v1alpha1.SidecarContainer && (mount.Name == tokenVolume || mount.Name == stateVolume) {
					t.Errorf("%s: container %s mounts %s", name, container.Name, mount.Name)
				}
			}
		}
		for _, volume := range injected.Spec.Volumes {
			if volume.Name == tokenVolume && (len(volume.Projected.Sources) != 1 || volume.Projected.Sources[0].ServiceAccountToken.Audience != ruleset.Audience) {
				t.Errorf("%s: the sidecar's token is for more than the link:\n%s", name, asYAML(t, volume))
			}
		}
	}
}

func isFalse(b *bool) bool { return b != nil && !*b }
