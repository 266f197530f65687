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
//
// A pod may do without weir-capture: its clients are then told of a proxy by
// variables, and Services name the sidecar's ports. And a pod whose TLS is
// intercepted has its clients told, by variables, of the authority that does it.
// What an application says itself is never replaced: a Notice says so.
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
	Image string `json:"image"`
	// Capture is v1alpha1.CaptureProxy where nothing is captured.
	Capture string `json:"capture,omitempty"`
	// InboundPorts are the pod's that are captured or, proxied, that the
	// sidecar stands before.
	InboundPorts  []uint16 `json:"inboundPorts,omitempty"`
	OutboundPorts []uint16 `json:"outboundPorts,omitempty"`
	// SidecarPorts of a proxied pod are those for Services to name.
	SidecarPorts []ruleset.ExplicitPort `json:"sidecarPorts,omitempty"`
	// Trust says that containers were led to the trust bundle.
	Trust bool `json:"trust,omitempty"`
	// Kept are, by container, the variables, Java properties and read-only
	// mounts of the application that kept something of ours out.
	Kept map[string][]string `json:"kept,omitempty"`
}

// Inject returns a copy of the pod with a sidecar that starts with the rules
// of rs, or the pod itself when it has one already, completed. A *Refusal says
// what the pod's author has to change, a Notice what to know.
func Inject(pod *corev1.Pod, config Config, rs *ruleset.Ruleset) (*corev1.Pod, []Notice, error) {
	if hasSidecar(pod) {
		completed, notices := Complete(pod)
		return completed, notices, nil
	}
	p, err := planFor(pod, rs)
	if err != nil {
		return nil, nil, err
	}

	injected := pod.DeepCopy()
	var probes []ruleset.Probe
	if !p.proxied { // else the kubelet reaches the application directly
		probes = adaptProbes(injected, p.inbound)
	}
	bootstrap, err := encodeBootstrap(ruleset.Bootstrap{Ruleset: *rs, Probes: probes, Trust: p.trust, Explicit: p.explicit})
	if err != nil {
		return nil, nil, err
	}
	gaps := p.tell(allContainers(&injected.Spec), injected.Spec.Volumes)
	annotate(injected, p.status(config.Image, gaps))
	var added []corev1.Container
	if !p.proxied {
		added = append(added, captureContainer(config, &pod.Spec, p.inbound, p.outbound))
	}
	added = append(added, sidecarContainer(config, &pod.Spec, p, bootstrap))
	injected.Spec.InitContainers = slices.Concat(added, injected.Spec.InitContainers)
	injected.Spec.Volumes = append(injected.Spec.Volumes, volumes(p.trust)...)
	return injected, append(p.notices, noticesOf(gaps)...), nil
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
