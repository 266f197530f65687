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
	trustVolume = "weir-trust"
	// emptyVolume is mounted into our containers where the API server would mount
	// a token of its own: it leaves a container alone that has something there.
	emptyVolume = "weir-no-api-token"
	apiTokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

	// tokenSeconds is a token's validity; the kubelet renews it at 80 % of that.
	tokenSeconds = 3600
	// tokenMode lets the sidecar's user read the token, which only its container
	// mounts. The kubelet narrows it to 0600 for the one user that all
	// containers share, which never holds here (weir-capture is root), and to
	// the pod's fsGroup, of which every container is a member.
	tokenMode = 0o644

	// trustBytes bounds what the pod's processes verify with: a bundle of at most
	// 8 MiB (sidecar/intercept), the same as a truststore, and one of them anew
	// while it is replaced. Debian's roots take half a MiB in all.
	trustBytes = 24 << 20
)

// ourVolumes are the names that the pod's own volumes must not have.
var ourVolumes = []string{tokenVolume, stateVolume, trustVolume, emptyVolume}

// volumes are the sidecar's: the token it proves itself with, which needs no
// automountServiceAccountToken, the memory where it keeps its last Ruleset, and
// the trust bundle that it writes for the others; and the empty one of all our
// containers.
func volumes(trust bool) []corev1.Volume {
	volumes := []corev1.Volume{
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
		{Name: emptyVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			SizeLimit: resource.NewQuantity(1<<20, resource.BinarySI), // an empty folder takes a block
		}}},
	}
	if trust {
		volumes = append(volumes, corev1.Volume{Name: trustVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
			Medium:    corev1.StorageMediumMemory,
			SizeLimit: resource.NewQuantity(trustBytes, resource.BinarySI),
		}}})
	}
	return volumes
}

// noAPIToken keeps the API's token out of a container of ours.
func noAPIToken() corev1.VolumeMount {
	return corev1.VolumeMount{Name: emptyVolume, MountPath: apiTokenDir, ReadOnly: true}
}

func volumeMounts(trust bool) []corev1.VolumeMount {
	mounts := []corev1.VolumeMount{
		noAPIToken(),
		{Name: tokenVolume, MountPath: path.Dir(ruleset.TokenFile), ReadOnly: true},
		{Name: stateVolume, MountPath: ruleset.StateDir},
	}
	if trust {
		mounts = append(mounts, corev1.VolumeMount{Name: trustVolume, MountPath: ruleset.TrustDir})
	}
	return mounts
}
