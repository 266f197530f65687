package conformance

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/netns"
)

const (
	// application is the user that the pod's application runs as.
	application = 1000
	// memoryTarget is the GOMEMLIMIT that injection gives a sidecar, bytes.
	memoryTarget = 128 << 20 / 10 * 9
)

// pod is a host with the real sidecar, captured as injection does it, and a peer
// with an upstream at port 80. Its operator is a stand-in.
type pod struct {
	*netns.Host
	t    *testing.T
	peer *netns.Host
	pid  int // the sidecar's
}

func newPod(t *testing.T) *pod {
	t.Helper()
	p := &pod{t: t}
	p.Host, p.peer = netns.Pair(t)
	binary := program(t, "../..", "./sidecar")
	dir := p.stateDir()
	p.startRedis(dir)
	if err := p.run(exec.Command(binary, "capture", "--outbound-ports=80")); err != nil {
		t.Fatalf("capturing: %v", err)
	}
	p.startSidecar(binary, dir)
	return p
}

// stateDir is one of the sidecar's user, with a token.
func (p *pod) stateDir() string {
	p.t.Helper()
	dir, err := os.MkdirTemp("", "weir-pod-") // which that user may enter, other than the test's own
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte("the-token"), 0o600); err != nil {
		p.t.Fatal(err)
	}
	for _, path := range []string{dir, token} {
		if err := os.Chown(path, ruleset.UID, ruleset.UID); err != nil {
			p.t.Fatal(err)
		}
	}
	return dir
}

func (p *pod) startRedis(dir string) {
	p.t.Helper()
	p.peer.Start(exec.Command("redis-server", "--bind", netns.Peer4, "--port", "6379", "--protected-mode", "no",
		"--save", "", "--appendonly", "no", "--dir", dir))
	p.eventually("Redis accepts", func() error {
		c, err := p.peer.Dial(context.Background(), net.Dialer{}, 0, netns.Peer4+":6379")
		if err == nil {
			err = c.Close()
		}
		return err
	})
}

// startSidecar starts the sidecar as its user and waits until it enforces.
func (p *pod) startSidecar(binary, dir string) {
	p.t.Helper()
	operator := newStandIn(p.Host)
	p.t.Cleanup(operator.stop)
	rules := &ruleset.Ruleset{
		Namespace: "ns", Link: operator.link(),
		Policies: []ruleset.Policy{policy(ruleset.Outbound, plenty)},
	}
	rules.Seal()
	stamped := must(json.Marshal(ruleset.Bootstrap{Ruleset: *rules}))
	rules.Store = &ruleset.Store{URL: "redis://" + netns.Peer4 + ":6379", TimeoutMillis: patience.Milliseconds()}
	rules.Seal()
	operator.program(rules)

	command := exec.Command(binary, "--state-dir="+dir, "--token-file="+filepath.Join(dir, "token"))
	command.Env = []string{ruleset.BootstrapEnv + "=" + string(stamped), fmt.Sprint("GOMEMLIMIT=", memoryTarget)}
	command.Stderr = p.t.Output()
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ruleset.UID, Gid: ruleset.UID}}
	process := p.Start(command)
	p.pid = process.Pid
	p.eventually("the sidecar enforces", func() error { return operator.acknowledged(rules.Version) })
}

// run runs a program in the pod to its end.
func (p *pod) run(command *exec.Cmd) error {
	p.t.Helper()
	select {
	case err := <-p.Start(command).Ended:
		return err
	case <-time.After(patience):
		return fmt.Errorf("it did not end in %v", patience)
	}
}

// eventually waits until a condition that nothing tells of holds.
func (p *pod) eventually(what string, condition func() error) {
	p.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if err = condition(); err == nil {
			return
		}
	}
	p.t.Fatalf("waited in vain until %s: %v", what, err)
}

// dial connects to the upstream as the application, whose connections are
// captured.
func (p *pod) dial(ctx context.Context) (net.Conn, error) {
	return p.Dial(ctx, net.Dialer{}, application, netns.Peer4+":80")
}

// memory is a figure of the sidecar's memory in bytes: VmRSS now, VmHWM at most
// since forgetPeak.
func (p *pod) memory(figure string) int64 {
	p.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	if err != nil {
		p.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), figure+":")
	kibibytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.ParseInt(kibibytes, 10, 64)
	if err != nil {
		p.t.Fatalf("reading %s: %v", figure, err)
	}
	return n << 10
}

func (p *pod) forgetPeak() {
	p.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte("5"), 0); err != nil {
		p.t.Fatal(err)
	}
}

// standIn is an operator that speaks the contract of ruleset/link.go, on the
// pod's loopback.
type standIn struct {
	server *httptest.Server

	mu    sync.Mutex
	rules *ruleset.Ruleset
	given chan struct{} // closed when there are rules
	acked string
}

func newStandIn(host *netns.Host) *standIn {
	o := &standIn{given: make(chan struct{})}
	o.server = httptest.NewUnstartedServer(http.HandlerFunc(o.answer))
	_ = o.server.Listener.Close()
	o.server.Listener = host.Listen("127.0.0.1:0")
	o.server.StartTLS()
	return o
}

func (o *standIn) stop() {
	o.server.CloseClientConnections()
	o.server.Close()
}

func (o *standIn) link() ruleset.Link {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.server.Certificate().Raw})
	return ruleset.Link{Address: o.server.Listener.Addr().String(), CABundle: string(certificate)}
}

// program gives the rules, once.
func (o *standIn) program(rules *ruleset.Ruleset) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rules = rules
	close(o.given)
}

// acknowledged is an error until the sidecar enforces a version.
func (o *standIn) acknowledged(version string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.acked != version {
		return fmt.Errorf("version %q is acknowledged", o.acked)
	}
	return nil
}

func (o *standIn) answer(w http.ResponseWriter, r *http.Request) {
	var report ruleset.Report
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	<-o.given
	o.mu.Lock()
	o.acked = report.Version
	rules := o.rules
	o.mu.Unlock()
	if rules.Version != report.Version {
		_ = json.NewEncoder(w).Encode(rules) // the sidecar asks again when it fails
		return
	}
	<-r.Context().Done()
}
