package injection

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// environment is what the containers of a pod are told by variables and files.
type environment struct {
	// trust leads them to the trust bundle.
	trust bool
	// proxied leads them to the sidecar as their proxy.
	proxied bool
}

// tell changes containers so that they know the environment, each unless its
// application says otherwise: that is returned. Telling twice changes nothing.
func (e environment) tell(containers []*corev1.Container, volumes []corev1.Volume) []gap {
	gaps := make([]gap, len(containers))
	for i, container := range containers {
		g := &gaps[i]
		g.container = container.Name
		var set []string
		if e.trust {
			g.readOnly = mountTrust(container, volumes)
		}
		if e.trust && g.readOnly == "" {
			g.trust, set = setVariables(container, set, trustVariables, javaTrust)
		}
		if e.proxied {
			g.proxy, set = setVariables(container, set, proxyVariables, javaProxy)
		}
		g.overEnvFrom = unseen(container, set)
	}
	return gaps
}

// allContainers are a pod's init containers and ordinary ones.
func allContainers(spec *corev1.PodSpec) []*corev1.Container {
	var containers []*corev1.Container
	for i := range spec.InitContainers {
		containers = append(containers, &spec.InitContainers[i])
	}
	for i := range spec.Containers {
		containers = append(containers, &spec.Containers[i])
	}
	return containers
}

// behindSidecar are the containers of an injected pod that start when its
// sidecar serves; none of a pod without one.
func behindSidecar(spec *corev1.PodSpec) []*corev1.Container {
	containers := allContainers(spec)
	for i, container := range containers {
		if container.Name == v1alpha1.SidecarContainer {
			return containers[i+1:]
		}
	}
	return nil
}
