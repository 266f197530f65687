package manifests

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// brokerVolume is the Secret's volume, for the authorities of the broker.
const (
	brokerVolume = "broker"
	brokerDir    = "/etc/weir/broker"
)

// podSpec is what both pods have: no rights, and the broker.
func podSpec(container corev1.Container) corev1.PodSpec {
	container.SecurityContext = &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		ReadOnlyRootFilesystem:   new(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
	container.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	container.VolumeMounts = []corev1.VolumeMount{{Name: brokerVolume, MountPath: brokerDir, ReadOnly: true}}
	return corev1.PodSpec{
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot:   new(true),
			RunAsUser:      new(int64(uid)),
			RunAsGroup:     new(int64(uid)),
			FSGroup:        new(int64(uid)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{container},
		Volumes: []corev1.Volume{{
			Name:         brokerVolume,
			VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: SecretName}},
		}},
	}
}

// addScratch gives a Python worker the folder that it writes to.
func addScratch(pod *corev1.PodSpec) {
	const name, path = "tmp", "/tmp"
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod.Containers[0].VolumeMounts = append(pod.Containers[0].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
}

// brokerEnv is read by Celery and by our worker alike.
func brokerEnv() []corev1.EnvVar {
	url := &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: SecretName}, Key: KeyURL,
	}}
	return []corev1.EnvVar{
		{Name: "CELERY_BROKER_URL", ValueFrom: url},
		{Name: "CELERY_RESULT_BACKEND", ValueFrom: url},
	}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
}

// resources have no CPU limit: a throttled worker holds its queue up.
func resources(cpu, memory, memoryLimit string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse(cpu),
			corev1.ResourceMemory: resource.MustParse(memory),
		},
		Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(memoryLimit)},
	}
}

// addMemoryTarget has the Go runtime collect garbage before the container's
// limit ends the process: at nine tenths of it.
func addMemoryTarget(container *corev1.Container) {
	const name = "GOMEMLIMIT"
	limit := container.Resources.Limits.Memory()
	set := slices.ContainsFunc(container.Env, func(e corev1.EnvVar) bool { return e.Name == name })
	if set || limit.IsZero() {
		return
	}
	container.Env = append(container.Env, corev1.EnvVar{Name: name, Value: strconv.FormatInt(limit.Value()/10*9, 10)})
}
