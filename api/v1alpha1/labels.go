package v1alpha1

// Labels and annotations that people write.
const (
	// LabelInject on a namespace ("enabled") or a pod ("true") asks for the
	// sidecar; "false" on a pod opts out.
	LabelInject = "weir.dev/inject"
	// AnnotationOutboundPorts adds to the captured outbound ports 80 and 443,
	// for example "8080,9000".
	AnnotationOutboundPorts = "weir.dev/outbound-ports"
	// AnnotationInboundPorts adds to the captured inbound ports, which are the
	// TCP ports that the pod's containers declare.
	AnnotationInboundPorts = "weir.dev/inbound-ports"
	// AnnotationCapture on a pod says how its connections come to the sidecar:
	// CaptureRedirect, which is the default, or CaptureProxy.
	AnnotationCapture = "weir.dev/capture"
	// AnnotationTrust on a pod prepares it for the interception of TLS before a
	// policy asks for it (TrustPrepare), or never (TrustRefuse). Without it, a
	// pod is prepared when a policy that selects it intercepts.
	AnnotationTrust = "weir.dev/trust"
)

// Values of AnnotationCapture.
const (
	// CaptureRedirect leads connections to the sidecar in the kernel, which
	// takes an init container with the capability NET_ADMIN.
	CaptureRedirect = "redirect"
	// CaptureProxy tells the pod's clients of a proxy by variables, and has
	// Services name the sidecar's ports. It takes no right at all.
	CaptureProxy = "proxy"
)

// Values of AnnotationTrust.
const (
	// TrustPrepare also lets Weir's variables go before those that a container
	// takes from ConfigMaps and Secrets (envFrom).
	TrustPrepare = "true"
	TrustRefuse  = "false"
)

// Values of LabelInject.
const (
	InjectNamespace = "enabled"
	InjectPod       = "true"
	InjectOptOut    = "false"
)

// Names of the containers that injection adds. A pod that has an init
// container named SidecarContainer has a sidecar.
const (
	SidecarContainer = "weir-sidecar"
	CaptureContainer = "weir-capture"
)

// LabelPeriodicTask on CronJobs, Jobs, Deployments and pods names the
// PeriodicTask that they belong to.
const LabelPeriodicTask = "weir.dev/periodic-task"

// FinalizerPeriodicTask keeps a PeriodicTask until its messages are out of the
// broker.
const FinalizerPeriodicTask = "weir.dev/periodic-task"
