package intercept

import (
	"errors"
	"fmt"
)

// Outcome is what became of a TLS connection: a PassError's reason, and the
// label of the metric.
type Outcome string

// The outcomes. Passthrough, NoSNI, ECH and Unreadable are the caller's to
// Count, unless it leaves them to Intercept.
const (
	// Intercepted: its requests are seen.
	Intercepted Outcome = "intercepted"
	// Rejected: the client refused the leaf. Only this one breaks a connection.
	Rejected Outcome = "rejected"
	// NoLeaf: the operator gave none, or not in time.
	NoLeaf Outcome = "no_leaf"
	// Untrusted: the pod's processes cannot know who signed the leaf.
	Untrusted Outcome = "untrusted"
	// Unverified: the host's certificate does not verify.
	Unverified Outcome = "unverified"
	// ClientCertificate: the host asks for a client's certificate.
	ClientCertificate Outcome = "client_certificate"
	// Pinned: clients refused the leaf before.
	Pinned Outcome = "pinned"
	// NoProtocol: no version, cipher or application protocol suits the client,
	// the host and us.
	NoProtocol Outcome = "no_protocol"
	// Unreachable: no connection to the host.
	Unreachable Outcome = "unreachable"
	// Unused, of an intercepted one: the client ended it in order and sent nothing.
	Unused Outcome = "unused"
	// Failed: the client's handshake failed otherwise.
	Failed Outcome = "failed"
	// Passthrough: no policy intercepts the host.
	Passthrough Outcome = "passthrough"
	// Unreadable: it began as TLS, and no ClientHello came that could be read.
	Unreadable Outcome = "unreadable"
	// NoSNI: the client names no host.
	NoSNI Outcome = "no_sni"
	// ECH: as Passthrough, and the name may not be the true one.
	ECH Outcome = "ech"
)

// outcomes are all of them.
var outcomes = []Outcome{
	Intercepted, Unused, Rejected, NoLeaf, Untrusted, Unverified, ClientCertificate, Pinned,
	NoProtocol, Unreachable, Failed, Passthrough, NoSNI, ECH, Unreadable,
}

// advice says, of an outcome that is logged once a host, what it is and what to do.
var advice = map[Outcome]string{
	Unverified: "the host's certificate does not verify with the sidecar's roots; clients judge it themselves, and their requests pass uncounted",
	ClientCertificate: "the host asks for a client's certificate, whose key only the client has; " +
		"set tls: Passthrough in the policy to count its connections",
	Pinned: "a client refuses certificates other than the host's own; for ten minutes its requests pass uncounted; " +
		"turn pinning off, have the client trust the bundle that SSL_CERT_FILE names, or set tls: Passthrough in the policy",
	NoProtocol: "client, host and sidecar agree on no TLS 1.2 or 1.3 with HTTP in it; requests pass uncounted",
}

// PassError says that a connection is not intercepted. Nothing was written to
// the client, and its bytes are all there: it can be relayed to the host.
type PassError struct {
	Reason Outcome
	Err    error
}

func (e *PassError) Error() string { return fmt.Sprintf("not intercepted (%s): %v", e.Reason, e.Err) }

// Unwrap returns the cause.
func (e *PassError) Unwrap() error { return e.Err }

// UnreachableError says that the host could not be connected to. Nothing was
// written to the client.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return fmt.Sprintf("connecting to the host: %v", e.Err) }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// RejectedError says that the client refused the leaf, and this connection is
// lost. When Pinned, the next ones to the host pass for a while.
type RejectedError struct {
	Pinned bool
	Err    error
}

func (e *RejectedError) Error() string {
	return fmt.Sprintf("the client refused the intercepting certificate: %v", e.Err)
}

// Unwrap returns the cause.
func (e *RejectedError) Unwrap() error { return e.Err }

func outcomeOf(err error) Outcome {
	if err == nil {
		return Intercepted
	}
	if pass, ok := errors.AsType[*PassError](err); ok {
		return pass.Reason
	}
	if _, ok := errors.AsType[*UnreachableError](err); ok {
		return Unreachable
	}
	if _, ok := errors.AsType[*RejectedError](err); ok {
		return Rejected
	}
	return Failed
}
