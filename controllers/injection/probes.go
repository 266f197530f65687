package injection

import (
	"cmp"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// adaptProbes returns what the kubelet will ask of the pod on captured ports,
// for the sidecar to let it pass uncounted, ordered and each once. It rewrites
// tcpSocket probes on them in place: a captured connection is accepted by the
// sidecar, so the kubelet asks the sidecar's health port, which dials the port.
//
// Left alone is what never reaches the sidecar: other ports, other hosts, exec.
// HTTPS probes pass it as TLS, uncounted.
func adaptProbes(pod *corev1.Pod, captured []uint16) []ruleset.Probe {
	var probes []ruleset.Probe
	for _, container := range longRunning(&pod.Spec) {
		add := func(probe ruleset.Probe, port intstr.IntOrString) bool {
			number := resolvePort(container, port)
			if _, found := slices.BinarySearch(captured, number); !found {
				return false
			}
			probe.Port = number
			probes = append(probes, probe)
			return true
		}
		for _, probe := range []*corev1.Probe{container.StartupProbe, container.ReadinessProbe, container.LivenessProbe} {
			if probe == nil {
				continue
			}
			addHTTP(probe.HTTPGet, add)
			if probe.GRPC != nil {
				add(ruleset.Probe{Type: ruleset.ProbeGRPC}, intstr.FromInt32(probe.GRPC.Port))
			}
			if tcp := probe.TCPSocket; tcp != nil && tcp.Host == "" && add(ruleset.Probe{Type: ruleset.ProbeTCP}, tcp.Port) {
				probe.ProbeHandler = askSidecar(probes[len(probes)-1].Port)
			}
		}
		// The kubelet sends hooks' requests too.
		if container.Lifecycle != nil {
			for _, hook := range []*corev1.LifecycleHandler{container.Lifecycle.PostStart, container.Lifecycle.PreStop} {
				if hook != nil {
					addHTTP(hook.HTTPGet, add)
				}
			}
		}
	}
	slices.SortFunc(probes, func(a, b ruleset.Probe) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Path, b.Path))
	})
	return slices.Compact(probes)
}

func addHTTP(action *corev1.HTTPGetAction, add func(ruleset.Probe, intstr.IntOrString) bool) {
	if action == nil || action.Host != "" || action.Scheme == corev1.URISchemeHTTPS {
		return
	}
	add(ruleset.Probe{Type: ruleset.ProbeHTTP, Path: requestURI(action.Path)}, action.Port)
}

// askSidecar is the action that asks the sidecar to dial a port of the pod.
func askSidecar(port uint16) corev1.ProbeHandler {
	return corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
		Path:   fmt.Sprintf("%s?port=%d", ruleset.HealthTCPPath, port),
		Port:   intstr.FromInt32(ruleset.HealthPort),
		Scheme: corev1.URISchemeHTTP,
	}}
}

// requestURI is the request target that the kubelet sends for a probe's path:
// it parses the path as a URL, and takes it as it is when that fails
// (k8s.io/kubernetes/pkg/probe/http, formatURL).
func requestURI(path string) string {
	u, err := url.Parse(path)
	if err != nil {
		u = &url.URL{Path: path}
	}
	u.Scheme, u.Host = "http", "pod"
	// Through the whole URL, which adds the slash that a path may lack.
	whole, err := url.Parse(u.String())
	if err != nil {
		return "/"
	}
	return whole.RequestURI()
}

// resolvePort is the number of a probe's port, which may be the name of one of
// the container's ports; 0 when there is none, as the kubelet then fails the
// probe.
func resolvePort(container *corev1.Container, port intstr.IntOrString) uint16 {
	number := int(port.IntVal)
	if port.Type == intstr.String {
		number = namedPort(container, port.StrVal)
	}
	if number < 1 || number > 65535 {
		return 0
	}
	return uint16(number)
}

func namedPort(container *corev1.Container, name string) int {
	for _, port := range container.Ports {
		if port.Name == name {
			return int(port.ContainerPort)
		}
	}
	number, err := strconv.Atoi(name)
	if err != nil {
		return 0
	}
	return number
}
