package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// probeTimeout is the kubelet's default for a probe, in which it must answer.
const probeTimeout = time.Second

// healthHandler answers the kubelet and Prometheus. The sidecar's readiness is
// its own, never the application's: the application waits for the sidecar.
func healthHandler(ready func() bool, metrics http.Handler, probes []ruleset.Probe) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready() {
			http.Error(w, "waiting for the operator's Ruleset, or draining", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", metrics)
	mux.HandleFunc("GET "+ruleset.HealthTCPPath, tcpProbe(probes))
	return mux
}

// tcpProbe dials a port of this pod in the kubelet's stead. Only the ports of
// the pod's own TCP probes: it is no port scanner for whoever reaches it.
func tcpProbe(probes []ruleset.Probe) http.HandlerFunc {
	ports := make(map[uint16]bool)
	for _, probe := range probes {
		if probe.Type == ruleset.ProbeTCP {
			ports[probe.Port] = true
		}
	}
	return func(w http.ResponseWriter, r *http.Request) {
		local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		port, err := parsePort(r.URL.Query().Get("port"))
		if !ok || err != nil || !ports[port] {
			http.Error(w, "no TCP probe of this pod asks for that port", http.StatusNotFound)
			return
		}
		address := netip.AddrPortFrom(local.AddrPort().Addr().Unmap(), port)
		if err := dial(r.Context(), address.String()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	}
}

// dial opens a connection and closes it.
func dial(ctx context.Context, address string) error {
	dialer := net.Dialer{Timeout: probeTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}
