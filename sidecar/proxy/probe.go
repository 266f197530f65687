package proxy

import (
	"net/http"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const healthCheckMethod = "/grpc.health.v1.Health/Check"

// isProbe reports whether the request is what the kubelet sends for one of
// the probes. It goes by port and path: a User-Agent can be anybody's.
func isProbe(probes []ruleset.Probe, port uint16, r *http.Request) bool {
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
			if r.Method == http.MethodGet && r.RequestURI == path {
				return true
			}
		case ruleset.ProbeGRPC:
			if r.Method == http.MethodPost && r.RequestURI == healthCheckMethod && isGRPC(r) {
				return true
			}
		case ruleset.ProbeTCP: // injection sends it to the health port
		}
	}
	return false
}
