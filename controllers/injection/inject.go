// Package injection puts the sidecar into pods: a pod in, a pod out.
//
// Decide says whether a pod gets a sidecar, Inject gives it one, and Patch says
// the difference as a JSON patch; all three are pure. Handler is the webhook
// around them.
//
// Injected are two init containers before the pod's own: weir-capture, which
// writes the rules that lead the pod's connections into the sidecar and ends,
// and weir-sidecar, a native sidecar (restartPolicy Always), so that init
// containers have network, Jobs complete, and the application starts after the
// sidecar serves and ends before it does.
package injection

import (
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// AnnotationStatus on a pod says, as JSON, what was injected: see Status.
	AnnotationStatus = "weir.dev/status"
	// annotationDefaultContainer is the container of kubectl logs and exec.
	annotationDefaultContainer = "kubectl.kubernetes.io/default-container"
)

// Config is what the operator's flags say about injection.
type Config struct {
	// Image of the sidecar and of the init container that captures.
	Image string
	// ImagePullPolicy of both; empty: Kubernetes' default for the image's tag.
	ImagePullPolicy corev1.PullPolicy
	// Resources of both containers.
	Resources corev1.ResourceRequirements
	// OperatorNamespace is the operator's own, whose pods are never injected.
	OperatorNamespace string
}

// DefaultResources are what a sidecar asks for when nobody says otherwise. It
// has no CPU limit: a throttled sidecar is latency of every request.
func DefaultResources() corev1.ResourceRequirements {
	return corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("10m"),
			corev1.ResourceMemory: resource.MustParse("32Mi"),
		},
		Limits: corev1.ResourceList{
			corev1.ResourceMemory: resource.MustParse("128Mi"),
		},
	}
}

// Status is the value of AnnotationStatus.
type Status struct {
	Image         string   `json:"image"`
	InboundPorts  []uint16 `json:"inboundPorts,omitempty"`
	OutboundPorts []uint16 `json:"outboundPorts,omitempty"`
}

// Inject returns a copy of the pod with a sidecar that starts with the rules
// of rs, or the pod itself when it has one already. A *Refusal says what the
// pod's author has to change.
func Inject(pod *corev1.Pod, config Config, rs *ruleset.Ruleset) (*corev1.Pod, error) {
	if hasSidecar(pod) {
		return pod, nil
	}
	if err := refuse(pod); err != nil {
		return nil, err
	}
	inbound, err := inboundPorts(pod)
	if err != nil {
		return nil, err
	}
	outbound, err := outboundPorts(pod)
	if err != nil {
		return nil, err
	}

	injected := pod.DeepCopy()
	bootstrap, err := encodeBootstrap(rs, adaptProbes(injected, inbound))
	if err != nil {
		return nil, err
	}
	annotate(injected, Status{Image: config.Image, InboundPorts: inbound, OutboundPorts: outbound})
	injected.Spec.InitContainers = slices.Concat(
		[]corev1.Container{
			captureContainer(config, &pod.Spec, inbound, outbound),
			sidecarContainer(config, &pod.Spec, bootstrap),
		},
		injected.Spec.InitContainers,
	)
	injected.Spec.Volumes = append(injected.Spec.Volumes, volumes()...)
	return injected, nil
}

// hasSidecar says whether a pod was injected before.
func hasSidecar(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
		return c.Name == v1alpha1.SidecarContainer
	})
}

// annotate says on the pod what was done, and keeps kubectl's commands on the
// application.
func annotate(pod *corev1.Pod, status Status) {
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	encoded, err := json.Marshal(status)
	if err != nil {
		panic(fmt.Sprintf("encoding the injection's status: %v", err)) // strings and integers only: cannot fail
	}
	pod.Annotations[AnnotationStatus] = string(encoded)
	if pod.Annotations[annotationDefaultContainer] == "" && len(pod.Spec.Containers) > 0 {
		pod.Annotations[annotationDefaultContainer] = pod.Spec.Containers[0].Name
	}
}
