package injection

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// proxyURL is where the sidecar serves as a forward proxy.
var proxyURL = "http://127.0.0.1:" + strconv.Itoa(ruleset.OutboundPort)

// Clients differ in which spelling they read first, and in whether ALL_PROXY
// comes after: a proxy that the application names in one stands for the others.
var (
	httpProxies  = []string{"HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"}
	httpsProxies = []string{"HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}
	allProxies   = []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"}
	noProxies    = append([]string{"NO_PROXY", "no_proxy"}, allProxies...) // exceptions from our proxy only
)

// noProxy names what is the pod itself, and nothing else: a host of the
// cluster may be one that a policy limits.
const noProxy = "localhost,127.0.0.1,::1"

// proxyVariables lead the usual clients to the sidecar. Node reads them only
// when it is told to, and must not when they name the application's own proxy,
// which it does not use today.
var proxyVariables = []variable{
	{name: "HTTP_PROXY", value: proxyURL, stands: httpProxies},
	{name: "http_proxy", value: proxyURL, stands: httpProxies},
	{name: "HTTPS_PROXY", value: proxyURL, stands: httpsProxies},
	{name: "https_proxy", value: proxyURL, stands: httpsProxies},
	{name: "NO_PROXY", value: noProxy, stands: noProxies},
	{name: "no_proxy", value: noProxy, stands: noProxies},
	{name: "NODE_USE_ENV_PROXY", value: "1", stands: allProxies},
}

// javaProxy says nothing of http.nonProxyHosts: without it, Java leaves
// loopback out by itself.
var javaProxy = javaProperties{
	options: fmt.Sprintf("-Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=%d -Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=%[1]d", ruleset.OutboundPort),
	marks:   []string{"http.proxyHost", "https.proxyHost", "socksProxyHost", "java.net.useSystemProxies"},
}

// isProxied says whether the pod's connections come to the sidecar by proxy,
// or are captured.
func isProxied(pod *corev1.Pod) (bool, error) {
	switch value := pod.Annotations[v1alpha1.AnnotationCapture]; value {
	case "", v1alpha1.CaptureRedirect:
		return false, nil
	case v1alpha1.CaptureProxy:
		return true, nil
	default:
		return false, refusef("annotation %s: %q is neither %q nor %q", v1alpha1.AnnotationCapture, value, v1alpha1.CaptureRedirect, v1alpha1.CaptureProxy)
	}
}

// explicitFor gives a port of the sidecar to each inbound port of the pod, in
// their order.
func explicitFor(inbound []uint16) *ruleset.Explicit {
	explicit := &ruleset.Explicit{}
	for i, port := range inbound {
		explicit.Inbound = append(explicit.Inbound, ruleset.ExplicitPort{Listen: ruleset.FirstExplicitPort + uint16(i), Port: port})
	}
	return explicit
}

// explicitPortName is how a Service names the sidecar's port for a port of the
// pod. At most 10 of the 15 characters that a port's name may have.
func explicitPortName(port uint16) string { return "weir-" + strconv.Itoa(int(port)) }

// explicitPorts declare the sidecar's ports for Services. Nil declares none.
func explicitPorts(explicit *ruleset.Explicit) []corev1.ContainerPort {
	if explicit == nil {
		return nil
	}
	var ports []corev1.ContainerPort
	for _, pair := range explicit.Inbound {
		ports = append(ports, corev1.ContainerPort{
			Name: explicitPortName(pair.Port), ContainerPort: int32(pair.Listen), Protocol: corev1.ProtocolTCP,
		})
	}
	return ports
}

// isExplicitPort says whether a port is one of the sidecar's.
func isExplicitPort(explicit *ruleset.Explicit, port int32) bool {
	return explicit != nil && slices.ContainsFunc(explicit.Inbound, func(pair ruleset.ExplicitPort) bool { return int32(pair.Listen) == port })
}

// isExplicitName says whether a port's name is that of one of the sidecar's.
func isExplicitName(explicit *ruleset.Explicit, name string) bool {
	return explicit != nil && slices.ContainsFunc(explicit.Inbound, func(pair ruleset.ExplicitPort) bool { return explicitPortName(pair.Port) == name })
}
