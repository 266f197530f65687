package injection

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// plan is what Inject does to a pod, decided before any of it is done.
type plan struct {
	environment
	// inbound and outbound are the captured ports. Of a proxied pod, inbound are
	// those that the sidecar stands before, and outbound is empty: its clients
	// bring every port to the proxy.
	inbound, outbound []uint16
	// explicit is nil when connections are captured.
	explicit *ruleset.Explicit
	notices  []Notice
}

// planFor decides. A *Refusal says what the pod's author has to change.
func planFor(pod *corev1.Pod, rs *ruleset.Ruleset) (*plan, error) {
	p := &plan{}
	var err error
	if p.proxied, err = isProxied(pod); err != nil {
		return nil, err
	}
	if p.inbound, err = inboundPorts(pod); err != nil {
		return nil, err
	}
	if p.proxied {
		p.explicit = explicitFor(p.inbound)
	} else if p.outbound, err = outboundPorts(pod); err != nil {
		return nil, err
	}
	if p.trust, p.notices, err = decideTrust(pod, rs); err != nil {
		return nil, err
	}
	return p, refuse(pod, p)
}

// status is what the pod's annotation says of the plan.
func (p *plan) status(image string, gaps []gap) Status {
	status := Status{Image: image, InboundPorts: p.inbound, OutboundPorts: p.outbound, Trust: p.trust, Kept: keptOf(gaps)}
	if p.explicit != nil {
		status.Capture, status.SidecarPorts = v1alpha1.CaptureProxy, p.explicit.Inbound
	}
	return status
}
