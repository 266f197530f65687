package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/netns"
)

// deadline bounds every wait of these tests; none takes nearly as long.
const deadline = 20 * time.Second

// application is the user that the application runs as.
const application = 1000

// binary is the sidecar, built once for all tests; empty where none can use it.
var binary string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	if !netns.Available("the sidecar in a pod of our own") {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "weir-sidecar-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary = filepath.Join(dir, "sidecar")
	build := exec.CommandContext(context.Background(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("building the sidecar: %v\n%s", err, out)
		return 1
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the sidecar's user runs it
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

// pod is a host with the sidecar beside an application, and its surroundings:
// a peer with upstreams and Redis, and the operator.
type pod struct {
	*netns.Host
	t    *testing.T
	peer *netns.Host
	dir  string // the sidecar's state and token
	logs *output

	operator *operator
	redis    *netns.Process
}

// newPod sets up everything but the sidecar, and captures.
func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t, logs: &output{}}
	p.Host, p.peer = netns.Pair(t)
	var err error
	if p.dir, err = os.MkdirTemp("", "weir-pod-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(p.dir) })
	if err := os.WriteFile(filepath.Join(p.dir, "token"), []byte("the-token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{p.dir, filepath.Join(p.dir, "token")} {
		if err := os.Chown(path, ruleset.UID, ruleset.UID); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the sidecar said:\n%s", p.logs)
		}
	})
	p.operator = newOperator(p.Host)
	t.Cleanup(p.operator.stop)
	p.startRedis()
	p.install()
	return p
}

// startRedis starts a redis-server on the peer and waits until it accepts.
func (p *pod) startRedis() {
	p.t.Helper()
	p.redis = p.peer.Start(exec.CommandContext(p.t.Context(), "redis-server", "--bind", netns.Peer4, "--port", "6379",
		"--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", p.dir))
	p.eventually("Redis accepts", func() error {
		conn, err := p.peer.Dial(context.Background(), net.Dialer{}, 0, netns.Peer4+":6379")
		if err == nil {
			err = conn.Close()
		}
		return err
	})
}

// install runs the init container's command.
func (p *pod) install() {
	p.t.Helper()
	var out bytes.Buffer
	command := exec.CommandContext(p.t.Context(), binary, "capture", "--inbound-ports=8080", "--outbound-ports=80")
	command.Stdout, command.Stderr = &out, &out
	process := p.Start(command)
	if err := p.ended(process); err != nil {
		p.t.Fatalf("capturing: %v: %s", err, out.String())
	}
}

// launch starts the sidecar as its user.
func (p *pod) launch(bootstrap *ruleset.Bootstrap) *netns.Process {
	p.t.Helper()
	encoded, err := json.Marshal(bootstrap)
	if err != nil {
		p.t.Fatal(err)
	}
	command := exec.CommandContext(p.t.Context(), binary, "--state-dir="+p.dir, "--token-file="+filepath.Join(p.dir, "token"))
	command.Env = []string{ruleset.BootstrapEnv + "=" + string(encoded)}
	command.Stdout, command.Stderr = p.logs, p.logs
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ruleset.UID, Gid: ruleset.UID}}
	return p.Start(command)
}

// start starts the sidecar and waits until it is ready.
func (p *pod) start(bootstrap *ruleset.Bootstrap) *netns.Process {
	p.t.Helper()
	process := p.launch(bootstrap)
	p.eventually("the sidecar is ready", func() error {
		status, _, err := p.try(p.from(p.peer, 0), "http://"+netns.Pod4+":14020/readyz", "pod", "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("readyz answers %d", status)
		}
		return err
	})
	return process
}

// ended waits for a program's end.
func (p *pod) ended(process *netns.Process) error {
	p.t.Helper()
	select {
	case err := <-process.Ended:
		return err
	case <-time.After(deadline):
		p.t.Fatal("a program did not end")
		return nil
	}
}

// from is an HTTP client on a host, as a user, of one connection a request.
func (p *pod) from(host *netns.Host, uid int) *http.Client {
	return &http.Client{
		Timeout: deadline,
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
				return host.Dial(ctx, net.Dialer{}, uid, address)
			},
		},
	}
}

// ask sends a user's request to a URL under a Host, and returns the answer's
// status and body.
func (p *pod) ask(client *http.Client, url, host, user string) (int, string) {
	p.t.Helper()
	status, body, err := p.try(client, url, host, user)
	if err != nil {
		p.t.Fatalf("asking %s: %v", url, err)
	}
	return status, body
}

// try is ask where an error is expected, or not on the test's goroutine.
func (p *pod) try(client *http.Client, url, host, user string) (int, string, error) {
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	request.Host = host
	request.Header.Set("X-User-ID", user)
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// eventually waits until a condition that nothing tells of holds.
func (p *pod) eventually(what string, condition func() error) {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(deadline)
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-end:
			p.t.Fatalf("waited in vain until %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// serve answers HTTP on a host and port with a handler.
func serve(t *testing.T, host *netns.Host, address string, handler http.HandlerFunc) {
	t.Helper()
	server := &http.Server{Handler: handler, ReadHeaderTimeout: deadline}
	listener := host.Listen(address)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// operator is a TLS server on the pod's loopback that speaks the contract of
// ruleset/link.go.
type operator struct {
	server *httptest.Server

	mu      sync.Mutex
	current *ruleset.Ruleset
	changed chan struct{}
	acked   string
}

func newOperator(host *netns.Host) *operator {
	o := &operator{changed: make(chan struct{})}
	o.server = httptest.NewUnstartedServer(http.HandlerFunc(o.answer))
	_ = o.server.Listener.Close()
	o.server.Listener = host.Listen("127.0.0.1:0")
	o.server.StartTLS()
	return o
}

func (o *operator) stop() {
	o.server.CloseClientConnections()
	o.server.Close()
}

func (o *operator) link() ruleset.Link {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.server.Certificate().Raw})
	return ruleset.Link{Address: o.server.Listener.Addr().String(), CABundle: string(certificate)}
}

// program makes r the pod's Ruleset.
func (o *operator) program(r *ruleset.Ruleset) {
	r.Seal()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.current = r
	close(o.changed)
	o.changed = make(chan struct{})
}

// enforced is an error until the sidecar has acknowledged what was programmed.
func (o *operator) enforced() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.acked != o.current.Version {
		return fmt.Errorf("version %q is acknowledged, expected %q", o.acked, o.current.Version)
	}
	return nil
}

func (o *operator) answer(w http.ResponseWriter, r *http.Request) {
	var report ruleset.Report
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil || r.Header.Get("Authorization") != "Bearer the-token" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	for {
		o.mu.Lock()
		o.acked = report.Version
		current, changed := o.current, o.changed
		o.mu.Unlock()
		if current != nil && current.Version != report.Version {
			_ = json.NewEncoder(w).Encode(current)
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

// output collects what a program prints.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
