package proxy

import (
	"net/http"
	"net/netip"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// field is one line of a head.
type field struct{ name, value string }

// request is what policies look at, whichever HTTP version brought it. Its
// strings may lie in a connection's buffer: they hold until the request has
// been forwarded or refused, and who keeps one for longer clones it.
type request struct {
	method string
	// host is the authority that the request is for, as sent, port included.
	host string
	// names are the hosts that its connection is for, whatever host says.
	names names
	// target is the request-target as sent; path and query are its parts, still
	// encoded. What has none (CONNECT, OPTIONS *) has an empty path.
	target, path, query string
	// fields in the order of their arrival. Host is host's, whether it is
	// among them or not.
	fields []field
	// remote is the address that the connection came from.
	remote netip.Addr
}

// requestOf reads a request of net/http's into r, which it makes anew.
func (r *request) requestOf(h *http.Request, remote netip.Addr) {
	fields := r.fields[:0]
	for name, lines := range h.Header {
		for _, line := range lines {
			fields = append(fields, field{name, line})
		}
	}
	*r = request{method: h.Method, host: h.Host, target: h.RequestURI, fields: fields, remote: remote}
	r.path, r.query = splitTarget(r.target)
}

// splitTarget finds path and query in a request-target, RFC 9112 section 3.2.
func splitTarget(target string) (path, query string) {
	path, query, _ = strings.Cut(target, "?")
	if path == "" || path[0] == '/' {
		return path, query
	}
	_, rest, absolute := strings.Cut(path, "://")
	if !absolute {
		return "", query // "*", or an authority
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		return rest[i:], query
	}
	return "", query
}

// first is the first line of a field that says anything, without the space
// around it. Later lines are ignored: a gateway that sets the field replaces
// it, and one that appends has not vouched for the lines before.
func (r *request) first(name string) string {
	for i := range r.fields {
		if sameName(r.fields[i].name, name) {
			if value := trimSpace(r.fields[i].value); value != "" {
				return value
			}
		}
	}
	return ""
}

// isGRPC reports whether the request is gRPC, of any message encoding, or
// gRPC-Web.
func (r *request) isGRPC() bool {
	return strings.HasPrefix(r.first("Content-Type"), "application/grpc")
}

// sameName compares names of fields, which have no case.
func sameName(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// trimSpace removes optional white space, RFC 9110 section 5.6.3.
func trimSpace(s string) string { return strings.Trim(s, " \t") }

// probed reports whether the request is what the kubelet sends for one of the
// probes. It goes by port and path: a User-Agent can be anybody's.
func (r *request) probed(probes []ruleset.Probe, port uint16) bool {
	for i := range probes {
		if probes[i].Port != port {
			continue
		}
		switch probes[i].Type {
		case ruleset.ProbeHTTP:
			path := probes[i].Path
			if path == "" {
				path = "/"
			}
			if r.method == http.MethodGet && r.target == path {
				return true
			}
		case ruleset.ProbeGRPC:
			if r.method == http.MethodPost && r.target == healthCheckMethod && r.isGRPC() {
				return true
			}
		case ruleset.ProbeTCP: // injection sends it to the health port
		}
	}
	return false
}

const healthCheckMethod = "/grpc.health.v1.Health/Check"
