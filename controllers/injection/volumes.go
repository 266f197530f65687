package injection

import (
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	tokenVolume = "weir-token"
	stateVolume = "weir-state"

	// tokenSeconds is a token's validity; the kubelet renews it at 80 % of that.
	tokenSeconds = 3600
	// tokenMode lets the sidecar's user read the token, which only its container
	// mounts. The kubelet narrows it to 0600 for the one user that all
	// containers share, which never holds here (weir-capture is root), and to
	// the pod's fsGroup, of which every container is a member.
	tokenMode = 0o644
)

// volumes are the sidecar's: the token it proves itself with, which needs no
// automountServiceAccountToken, and the memory where it keeps its last Ruleset.
func volumes() []corev1.Volume {
	return []corev1.Volume{
		{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			DefaultMode: new(int32(tokenMode)),
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
				Audience:          ruleset.Audience,
				ExpirationSeconds: new(int64(tokenSeconds)),
				Path:              path.Base(ruleset.TokenFile),
			}}},
		}}},
		{Name: stateVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium:    corev1.StorageMediumMemory,
			SizeLimit: resource.NewQuantity(16<<20, resource.BinarySI),
		}}},
	}
}

func volumeMounts() []corev1.VolumeMount {
	return []corev1.VolumeMount{
		{Name: tokenVolume, MountPath: path.Dir(ruleset.TokenFile), ReadOnly: true},
		{Name: stateVolume, MountPath: ruleset.StateDir},
	}
}
