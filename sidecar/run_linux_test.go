package main

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/netns"
)

// rules limit each user to so many requests an hour: of api.spotify.com
// outbound, and of the application inbound.
func (p *pod) rules(requests int64) *ruleset.Ruleset {
	users := []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "X-User-ID", Strip: true}}}
	limits := []ruleset.Limit{{Requests: requests, WindowMillis: time.Hour.Milliseconds()}}
	r := &ruleset.Ruleset{
		Namespace: "bondhu",
		Store:     &ruleset.Store{URL: "redis://" + netns.Peer4 + ":6379", TimeoutMillis: 1000},
		Link:      p.operator.link(),
		Policies: []ruleset.Policy{
			{
				PolicyRef: ruleset.PolicyRef{Name: "served", UID: "2", Generation: 1}, Service: "served",
				Direction: ruleset.Inbound, Sources: users, IfMissing: ruleset.IfMissingShared,
				Limits: limits, OnStoreFailure: ruleset.OnStoreFailureDeny,
			},
			{
				PolicyRef: ruleset.PolicyRef{Name: "spotify", UID: "1", Generation: 1}, Service: "spotify",
				Direction: ruleset.Outbound, Hosts: []string{"api.spotify.com"}, Sources: users,
				IfMissing: ruleset.IfMissingShared, Limits: limits, OnStoreFailure: ruleset.OnStoreFailureDeny,
			},
		},
	}
	r.Seal()
	return r
}

// bootstrap is what injection would stamp into the pod.
func bootstrap(r *ruleset.Ruleset, probes ...ruleset.Probe) *ruleset.Bootstrap {
	bare := *r
	bare.Store = nil
	bare.Seal()
	return &ruleset.Bootstrap{Ruleset: bare, Probes: probes}
}

// names says who the server knows the caller as.
func names(w http.ResponseWriter, r *http.Request) {
	_, _ = fmt.Fprintf(w, "user %q", r.Header.Get("X-User-ID"))
}

// counts asks several times and counts the statuses.
func (p *pod) counts(times int, client *http.Client, url, host, user string) map[int]int {
	p.t.Helper()
	statuses := make(map[int]int)
	for range times {
		status, body := p.ask(client, url, host, user)
		statuses[status]++
		if status == http.StatusOK && host != "other.example" && body != `user ""` {
			p.t.Errorf("the upstream sees %s, expected the header stripped", body)
		}
	}
	return statuses
}

func (p *pod) expect(what string, got map[int]int, want map[int]int) {
	p.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		p.t.Errorf("%s: got %v (status: times), expected %v", what, got, want)
	}
}

func TestPodIsHeldToItsLimits(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	serve(t, p.peer, ":80", names)
	serve(t, p.Host, netns.Pod4+":8080", names)
	r := p.rules(3)
	p.operator.program(r)
	sidecar := p.start(bootstrap(r, ruleset.Probe{Type: ruleset.ProbeHTTP, Port: 8080, Path: "/alive"},
		ruleset.Probe{Type: ruleset.ProbeTCP, Port: 8080}))
	p.eventually("the Ruleset is enforced", p.operator.enforced)

	app, caller := p.from(p.Host, application), p.from(p.peer, 0)
	out4, out6 := "http://"+netns.Peer4+"/", "http://["+netns.Peer6+"]/"
	in := "http://" + netns.Pod4 + ":8080"
	p.expect("outbound, alice", p.counts(5, app, out4, "api.spotify.com", "alice"), map[int]int{200: 3, 429: 2})
	p.expect("outbound, bob, IPv4", p.counts(2, app, out4, "api.spotify.com", "bob"), map[int]int{200: 2})
	p.expect("outbound, bob, IPv6", p.counts(2, app, out6, "api.spotify.com", "bob"), map[int]int{200: 1, 429: 1})
	p.expect("another host is not counted", p.counts(5, app, out4, "other.example", "alice"), map[int]int{200: 5})
	p.expect("inbound, alice", p.counts(5, caller, in+"/", "bondhu", "alice"), map[int]int{200: 3, 429: 2})
	p.expect("the kubelet's probe is not counted", p.counts(5, caller, in+"/alive", "other.example", "alice"), map[int]int{200: 5})
	p.expect("its TCP probe reaches the application",
		p.counts(1, p.from(p.peer, 0), "http://"+netns.Pod4+":14020"+ruleset.HealthTCPPath+"?port=8080", "other.example", ""), map[int]int{200: 1})

	p.operator.program(p.rules(6))
	p.eventually("the edit is enforced", p.operator.enforced)
	p.expect("after the edit alice has three more", p.counts(5, app, out4, "api.spotify.com", "alice"), map[int]int{200: 3, 429: 2})

	p.operator.stop()
	terminate(p, sidecar)
	if info, err := os.Stat(filepath.Join(p.dir, "ruleset.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the saved Ruleset: %v, %v; expected it with mode 0600", info, err)
	}
	p.start(bootstrap(p.rules(3)))
	p.expect("restarted without the operator it enforces its last rules",
		p.counts(3, app, out4, "api.spotify.com", "bob"), map[int]int{200: 3})
	p.expect("and no more", p.counts(2, app, out4, "api.spotify.com", "bob"), map[int]int{429: 2})
	if strings.Contains(p.logs.String(), "the-token") || strings.Contains(p.logs.String(), "redis://") {
		t.Error("the log holds a secret")
	}
}

// Who is not in the pod reaches neither the local API nor the forward proxy that
// a pod without capture has.
func TestLocalPortsAreLocal(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	proxied := bootstrap(p.rules(3))
	proxied.Explicit = &ruleset.Explicit{}
	p.start(proxied)
	for _, port := range []int{ruleset.LocalPort, ruleset.OutboundPort} {
		for host, reaches := range map[*netns.Host]bool{p.Host: true, p.peer: false} {
			for _, address := range []string{"127.0.0.1", netns.Pod4, "[" + netns.Pod6 + "]"} {
				want := reaches && address == "127.0.0.1"
				conn, err := host.Dial(t.Context(), net.Dialer{Timeout: deadline}, 0, fmt.Sprintf("%s:%d", address, port))
				if err == nil {
					_ = conn.Close()
				}
				if (err == nil) != want {
					t.Errorf("from the pod %v, %s:%d: error %v, want it reached: %v", reaches, address, port, err, want)
				}
			}
		}
	}
}

// terminate ends the sidecar as the kubelet does.
func terminate(p *pod, sidecar *netns.Process) {
	p.t.Helper()
	if err := sidecar.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.ended(sidecar); err != nil {
		p.t.Errorf("the sidecar ended with %v, expected 0", err)
	}
}

func TestRequestsInFlightEndBeforeTheSidecar(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	arrived, answer := make(chan struct{}, 1), make(chan struct{})
	serve(t, p.peer, ":80", func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-answer
		names(w, r)
	})
	r := p.rules(3)
	p.operator.program(r)
	sidecar := p.start(bootstrap(r))
	answered := make(chan error, 1)
	go func() {
		status, body, err := p.try(p.from(p.Host, application), "http://"+netns.Peer4+"/", "other.example", "")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("status %d: %s", status, body)
		}
		answered <- err
	}()
	<-arrived
	if err := sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	health := (&url.URL{Scheme: "http", Host: netns.Pod4 + ":14020", Path: "/readyz"}).String()
	p.eventually("it is not ready any more", func() error {
		if status, _ := p.ask(p.from(p.peer, 0), health, "pod", ""); status != http.StatusServiceUnavailable {
			return fmt.Errorf("readyz answers %d", status)
		}
		return nil
	})
	close(answer)
	if err := <-answered; err != nil {
		t.Errorf("the request in flight got %v, expected its answer", err)
	}
	if err := p.ended(sidecar); err != nil {
		t.Errorf("the sidecar ended with %v, expected 0", err)
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	arrived, never := make(chan struct{}, 1), make(chan struct{})
	serve(t, p.peer, ":80", func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-never
	})
	defer close(never)
	r := p.rules(3)
	p.operator.program(r)
	sidecar := p.start(bootstrap(r))
	go func() { _, _, _ = p.try(p.from(p.Host, application), "http://"+netns.Peer4+"/", "other.example", "") }()
	<-arrived
	if err := sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.eventually("it drains", func() error {
		if !strings.Contains(p.logs.String(), `"draining"`) {
			return fmt.Errorf("nothing says so")
		}
		return nil
	})
	if err := sidecar.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.ended(sidecar); err == nil {
		t.Error("the sidecar ended with 0, although it was cut")
	}
}

func TestPortThatIsTakenIsSaid(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.Listen("127.0.0.1:14000")
	process := p.launch(bootstrap(p.rules(3)))
	if err := p.ended(process); err == nil || !strings.Contains(p.logs.String(), "listening for the local API") {
		t.Errorf("the sidecar ended with %v, expected an error that names the port", err)
	}
}
