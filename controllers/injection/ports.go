package injection

import (
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxPorts bounds the captured ports of one direction.
const maxPorts = 64

// inboundPorts are the captured ports on which the pod serves: the TCP ports
// that its long-running containers declare, and those of its annotation.
func inboundPorts(pod *corev1.Pod) ([]uint16, error) {
	ports, err := annotatedPorts(pod, v1alpha1.AnnotationInboundPorts)
	if err != nil {
		return nil, err
	}
	for _, container := range longRunning(&pod.Spec) {
		for _, port := range container.Ports {
			if isTCP(port) {
				ports = append(ports, uint16(port.ContainerPort)) // the API server admits 1 to 65535
			}
		}
	}
	return bounded(ports, "inbound")
}

// outboundPorts are the captured ports that the pod calls: those of HTTP and
// HTTPS, and those of its annotation.
func outboundPorts(pod *corev1.Pod) ([]uint16, error) {
	ports, err := annotatedPorts(pod, v1alpha1.AnnotationOutboundPorts)
	if err != nil {
		return nil, err
	}
	return bounded(append(ports, 80, 443), "outbound")
}

// bounded returns ports in order, each once.
func bounded(ports []uint16, direction string) ([]uint16, error) {
	slices.Sort(ports)
	ports = slices.Compact(ports)
	if len(ports) > maxPorts {
		return nil, refusef("the pod has %d %s ports to capture and at most %d are possible: declare fewer ports", len(ports), direction, maxPorts)
	}
	return ports, nil
}

func annotatedPorts(pod *corev1.Pod, annotation string) ([]uint16, error) {
	value, found := pod.Annotations[annotation]
	if !found {
		return nil, nil
	}
	// Longer than the longest list that is possible, spaces included.
	if len(value) > 1024 {
		return nil, refusef("annotation %s is %d characters long: list at most %d ports", annotation, len(value), maxPorts)
	}
	var ports []uint16
	for item := range strings.SplitSeq(value, ",") {
		port, err := strconv.ParseUint(strings.TrimSpace(item), 10, 16)
		if err != nil || port == 0 {
			return nil, refusef("annotation %s: %q is not a list of ports: write numbers from 1 to 65535 with commas between them, for example \"8080,9000\"", annotation, value)
		}
		if isOwnPort(int32(port)) {
			return nil, refusef("annotation %s: %q names port %d, on which Weir's sidecar itself listens and which is never captured: remove it from the list", annotation, value, port)
		}
		ports = append(ports, uint16(port))
	}
	return ports, nil
}

// longRunning are the containers that serve while the pod runs: the ordinary
// ones and the native sidecars. They alone have probes.
func longRunning(spec *corev1.PodSpec) []*corev1.Container {
	var containers []*corev1.Container
	for i := range spec.InitContainers {
		if policy := spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			containers = append(containers, &spec.InitContainers[i])
		}
	}
	for i := range spec.Containers {
		containers = append(containers, &spec.Containers[i])
	}
	return containers
}

func isTCP(port corev1.ContainerPort) bool {
	return port.Protocol == corev1.ProtocolTCP || port.Protocol == ""
}

// isOwnPort says whether the sidecar listens on a port, in the pod's network.
func isOwnPort(port int32) bool {
	switch port {
	case ruleset.LocalPort, ruleset.OutboundPort, ruleset.InboundPort, ruleset.HealthPort:
		return true
	default:
		return false
	}
}
