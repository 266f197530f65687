package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// side is one way from the client to the application.
type side struct {
	name    string
	address netip.AddrPort // where the client connects
	// command makes a proxy that admits so many requests a minute for each user;
	// nil: there is none.
	command func(limit int64) (*exec.Cmd, error)
	ready   func(context.Context) error
	limits  bool // whether it refuses anything
	store   bool // whether it does so by Redis
}

// The limits, in requests a minute: no user reaches the first, and each has
// reached the second before anything is measured.
var limitOf = map[Traffic]int64{Admitted: 10_000, Refused: 1}

const window = time.Minute

// sides in their order.
func (s *stage) sides() []*side {
	sides := []*side{
		{name: direct, address: uncaptured},
		{name: weir, address: captured, command: s.sidecar("sidecar"), ready: sidecarReady, limits: true, store: true},
	}
	if s.options.Other != "" {
		sides = append(sides, &side{name: other, address: captured, command: s.sidecar("other"), ready: sidecarReady, limits: true, store: true})
	}
	for i, name := range haproxySides {
		sides = append(sides, &side{name: name, address: captured, command: s.haproxy(i + 1), ready: accepts, limits: true})
	}
	return append(sides, &side{name: netHTTP, address: captured, command: func(int64) (*exec.Cmd, error) {
		return s.role("reverse", ":"+strconv.Itoa(ruleset.InboundPort), captured.String())
	}, ready: accepts})
}

// sidecar is a binary in the stage's folder, as injection would start it.
func (s *stage) sidecar(name string) func(int64) (*exec.Cmd, error) {
	return func(limit int64) (*exec.Cmd, error) {
		bootstrap := ruleset.Bootstrap{Ruleset: ruleset.Ruleset{
			Namespace: "bench", Store: &ruleset.Store{URL: "redis://" + redisAddress, TimeoutMillis: 2000}, Link: s.link(),
			Policies: []ruleset.Policy{{
				PolicyRef: ruleset.PolicyRef{Name: "bench", UID: "1", Generation: 1}, Service: "bench",
				Direction: ruleset.Inbound, Sources: []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "X-User-ID"}}},
				IfMissing: ruleset.IfMissingReject, OnStoreFailure: ruleset.OnStoreFailureDeny,
				Limits: []ruleset.Limit{{Requests: limit, WindowMillis: window.Milliseconds()}},
			}},
		}}
		bootstrap.Ruleset.Seal()
		encoded, err := json.Marshal(bootstrap)
		if err != nil {
			return nil, err
		}
		state := filepath.Join(s.folder, "state")
		command := exec.Command(filepath.Join(s.folder, name), "--state-dir="+state, "--token-file="+filepath.Join(state, "token"))
		command.Env = []string{ruleset.BootstrapEnv + "=" + string(encoded)}
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ruleset.UID, Gid: ruleset.UID}}
		return command, nil
	}
}

// haproxyConfig counts each user's requests of the last minute in a stick table,
// and is HAProxy's default otherwise: it keeps and shares connections.
const haproxyConfig = `global
  nbthread %d
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
frontend captured
  bind :%d
  stick-table type string len 64 size 100k expire 1m store http_req_rate(60s)
  http-request track-sc0 req.hdr(X-User-ID)
  http-request deny deny_status 429 if { sc_http_req_rate(0) gt %d }
  default_backend application
backend application
  server application %s
`

func (s *stage) haproxy(threads int) func(int64) (*exec.Cmd, error) {
	return func(limit int64) (*exec.Cmd, error) {
		file := filepath.Join(s.folder, "haproxy.cfg")
		config := fmt.Appendf(nil, haproxyConfig, threads, ruleset.InboundPort, limit, captured)
		if err := os.WriteFile(file, config, 0o600); err != nil {
			return nil, err
		}
		return exec.Command(s.haproxyPath, "-db", "-f", file), nil
	}
}

// accepts is ready where connections are accepted.
func accepts(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(pod, ruleset.InboundPort).String())
	if err != nil {
		return err
	}
	return conn.Close()
}

// sidecarReady asks as the kubelet does.
func sidecarReady(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+netip.AddrPortFrom(pod, ruleset.HealthPort).String()+"/readyz", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the sidecar is not ready: %s", response.Status)
	}
	return nil
}
