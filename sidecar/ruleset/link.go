package ruleset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Audience is the audience of the token that a sidecar proves itself with.
const Audience = "weir.dev"

// LinkPath is the path of the link: POST a Report, get a Ruleset (200), or nothing newer (204)
// after the server's patience ended. 401 without a valid token, 403 when the
// token is not bound to a pod that has a sidecar.
const LinkPath = "/v1/ruleset"

// Report is what a sidecar says when it asks for a Ruleset: asking *is* the
// acknowledgement that Enforcing is enforced.
type Report struct {
	// Version of the Ruleset that is enforced; empty at the first call of a
	// sidecar that has none. The server answers as soon as the pod's Ruleset
	// has another version.
	Version string `json:"version,omitempty"`
	// Enforcing are the policies of that Ruleset, with their generations.
	Enforcing []PolicyRef `json:"enforcing,omitempty"`
	// NotIntercepting names policies of that Ruleset with Intercept of which
	// this pod cannot intercept some host: the pod's processes began before
	// they could know an authority that may sign for it.
	NotIntercepting []string `json:"notIntercepting,omitempty"`
	// StoreAwaySince is the Unix time, in seconds by this pod's clock, since which
	// the Store does not answer the sidecar, whose policies do as their
	// onStoreFailure says; 0: it does.
	StoreAwaySince int64 `json:"storeAwaySince,omitempty"`
	// Rejected says why the last received Ruleset could not be applied; the
	// version above is still enforced then.
	Rejected *Rejection `json:"rejected,omitempty"`
}

// Rejection of a Ruleset that a sidecar could not apply.
type Rejection struct {
	Version string `json:"version"`
	Reason  string `json:"reason"`
}

// CertificatePath is the path of the link where a leaf is asked for: POST a
// CertificateRequest, get a Certificate (200). 403 when a name is none that an
// intercepting policy of the pod has; 401 as for LinkPath.
const CertificatePath = "/v1/certificate"

// CertificateRequest asks for a leaf to intercept with.
type CertificateRequest struct {
	// Request is a PKCS #10 certificate request in DER, signed with the key
	// that the sidecar made and keeps; its DNS names are what is asked for.
	Request []byte `json:"request"`
}

// Certificate is the leaf, valid for hours.
type Certificate struct {
	// Chain is PEM: the leaf, then the authorities above it as signed by the
	// ones before them, so that clients which know an older one accept it.
	Chain string `json:"chain"`
}

// Bootstrap is stamped into a pod at injection (environment variable
// BootstrapEnv of the sidecar's container, JSON): what a sidecar must know
// before it has spoken to the operator.
type Bootstrap struct {
	// Ruleset current at injection, without its Store.
	// Its Version is empty when its policies are too large to be stamped: it has
	// none then, and the link brings them.
	Ruleset Ruleset `json:"ruleset"`
	// Probes of the pod's containers on captured ports, forwarded uncounted.
	Probes []Probe `json:"probes,omitempty"`
	// Trust says that the pod's containers were led to the trust bundle in
	// TrustDir: their processes know the Authorities of the Ruleset above.
	Trust bool `json:"trust,omitempty"`
	// Explicit is how connections reach a sidecar without capture; nil when
	// they are captured.
	Explicit *Explicit `json:"explicit,omitempty"`
}

// Explicit is capture by proxy: the pod's clients are told of a forward proxy
// at OutboundPort on loopback, and Services name the sidecar's ports.
type Explicit struct {
	// Inbound leads a port of the sidecar to a port of the pod.
	Inbound []ExplicitPort `json:"inbound,omitempty"`
}

// ExplicitPort is a port of the sidecar that stands for one of the pod.
type ExplicitPort struct {
	Listen uint16 `json:"listen"`
	Port   uint16 `json:"port"`
}

// BootstrapEnv is the environment variable that holds the Bootstrap.
const BootstrapEnv = "WEIR_BOOTSTRAP"

// Probe is a kubelet's probe of an application container. A tcpSocket probe
// on a captured port is rewritten at injection to ask the sidecar's health
// port (HealthTCPPath), since a captured connection always succeeds.
type Probe struct {
	Type ProbeType `json:"type"`
	Port uint16    `json:"port"`
	// Path is the request's path with its query for HTTP; empty otherwise.
	Path string `json:"path,omitempty"`
}

// ProbeType is the kind of a probe's action.
type ProbeType string

// The probe types. GRPC is the method /grpc.health.v1.Health/Check.
const (
	ProbeHTTP ProbeType = "HTTP"
	ProbeTCP  ProbeType = "TCP"
	ProbeGRPC ProbeType = "GRPC"
)

// What the injector and the sidecar must agree on. The ports are the
// sidecar's own and are never captured.
const (
	// LocalPort serves the local API, on loopback only.
	LocalPort = 14000
	// OutboundPort receives captured outbound connections.
	OutboundPort = 14001
	// InboundPort receives captured inbound connections.
	InboundPort = 14006
	// FirstExplicitPort is the first of the ports that stand for the pod's own where
	// nothing is captured: see Explicit.
	FirstExplicitPort = 14100
	// HealthPort serves /healthz, /readyz, /metrics and HealthTCPPath on the pod's address.
	HealthPort = 14020
	// UID is the sidecar's user and group: what it sends is not captured.
	UID = 14014
	// HealthTCPPath dials a port of the pod, ?port=N, for a probe of type TCP
	// in the Bootstrap: 200 when it accepts, 503 when not, 404 for other ports.
	HealthTCPPath = "/probe/tcp"
	// TokenFile is the projected service-account token.
	TokenFile = "/var/run/secrets/weir.dev/token"
	// StateDir is the sidecar's memory-backed storage for its last Ruleset.
	StateDir = "/var/run/weir"
	// TrustDir holds what the pod's processes verify TLS with; the sidecar
	// writes it, memory-backed, and the application's containers mount it read-only.
	TrustDir = "/var/run/weir-trust"
	// TrustBundle is PEM in TrustDir: the usual roots and the Authorities.
	TrustBundle = "ca-bundle.crt"
	// TrustAuthorities is PEM in TrustDir: the Authorities alone.
	TrustAuthorities = "authorities.crt"
	// TrustStore is the bundle as a Java truststore in TrustDir, PKCS #12
	// without a password.
	TrustStore = "truststore.p12"
)

// Seal sets Version from the content: the hex SHA-256 of the JSON encoding
// with an empty Version.
func (r *Ruleset) Seal() {
	r.Version = ""
	encoded, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and integers only: cannot fail
	}
	sum := sha256.Sum256(encoded)
	r.Version = hex.EncodeToString(sum[:16])
}

// Refs lists the Ruleset's policies and their generations.
func (r *Ruleset) Refs() []PolicyRef {
	refs := make([]PolicyRef, 0, len(r.Policies))
	for i := range r.Policies {
		refs = append(refs, r.Policies[i].PolicyRef)
	}
	return refs
}
