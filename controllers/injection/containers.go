package injection

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// captureContainer writes the pod's nftables rules and ends. It is the only
// one with a capability, and only NET_ADMIN: netfilter's netlink asks for no
// other.
func captureContainer(config Config, pod *corev1.PodSpec, inbound, outbound []uint16) corev1.Container {
	security := restricted(pod)
	security.RunAsUser = new(int64(0)) // a capability that is added reaches no other user's process
	security.RunAsGroup = new(int64(0))
	security.RunAsNonRoot = new(false) // the pod may say true for all its containers
	security.Capabilities.Add = []corev1.Capability{"NET_ADMIN"}
	return corev1.Container{
		Name:                     v1alpha1.CaptureContainer,
		Image:                    config.Image,
		ImagePullPolicy:          config.ImagePullPolicy,
		Command:                  []string{"/sidecar", "capture", "--inbound-ports=" + joinPorts(inbound), "--outbound-ports=" + joinPorts(outbound)},
		Resources:                *config.Resources.DeepCopy(),
		SecurityContext:          security,
		VolumeMounts:             []corev1.VolumeMount{noAPIToken()},
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// sidecarContainer is a native sidecar. Its probes ask about itself alone: one
// that waited for the application would wait for ever, since the application
// starts after it.
func sidecarContainer(config Config, pod *corev1.PodSpec, p *plan, bootstrap string) corev1.Container {
	security := restricted(pod)
	security.RunAsUser = new(int64(ruleset.UID))
	security.RunAsGroup = new(int64(ruleset.UID))
	security.RunAsNonRoot = new(true)
	return corev1.Container{
		Name:            v1alpha1.SidecarContainer,
		Image:           config.Image,
		ImagePullPolicy: config.ImagePullPolicy,
		RestartPolicy:   new(corev1.ContainerRestartPolicyAlways),
		Command:         []string{"/sidecar", "run"},
		Env:             append([]corev1.EnvVar{{Name: ruleset.BootstrapEnv, Value: bootstrap}}, memoryTarget(config.Resources)...),
		Ports: append([]corev1.ContainerPort{{Name: "weir-metrics", ContainerPort: ruleset.HealthPort, Protocol: corev1.ProtocolTCP}},
			explicitPorts(p.explicit)...),
		// Asked often, since the application waits for it: two minutes at most.
		StartupProbe:             healthProbe("/readyz", 1, 120),
		ReadinessProbe:           healthProbe("/readyz", 5, 3),
		LivenessProbe:            healthProbe("/healthz", 10, 3),
		Resources:                *config.Resources.DeepCopy(),
		SecurityContext:          security,
		VolumeMounts:             volumeMounts(p.trust),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// restricted is a security context without any right. It states what the pod's
// own might say otherwise for all containers.
func restricted(pod *corev1.PodSpec) *corev1.SecurityContext {
	security := &corev1.SecurityContext{
		AllowPrivilegeEscalation: new(false),
		Privileged:               new(false),
		ReadOnlyRootFilesystem:   new(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	// A profile written for the application would not let ours work. Only then:
	// asking for the default refuses the pod on nodes without AppArmor.
	if pod.SecurityContext != nil && pod.SecurityContext.AppArmorProfile != nil &&
		pod.SecurityContext.AppArmorProfile.Type == corev1.AppArmorProfileTypeLocalhost {
		security.AppArmorProfile = &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	return security
}

// memoryTarget has the Go runtime collect garbage before the container's limit
// ends the process: at nine tenths of it.
func memoryTarget(resources corev1.ResourceRequirements) []corev1.EnvVar {
	limit := resources.Limits.Memory()
	if limit.IsZero() {
		return nil
	}
	return []corev1.EnvVar{{Name: "GOMEMLIMIT", Value: strconv.FormatInt(limit.Value()/10*9, 10)}}
}

func healthProbe(path string, periodSeconds, failureThreshold int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			Path: path,
			Port: intstr.FromInt32(ruleset.HealthPort),
		}},
		PeriodSeconds:    periodSeconds,
		FailureThreshold: failureThreshold,
		TimeoutSeconds:   3,
	}
}

func joinPorts(ports []uint16) string {
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = strconv.Itoa(int(port))
	}
	return strings.Join(texts, ",")
}
