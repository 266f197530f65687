package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// deadline bounds every wait of these tests; none takes nearly as long.
const deadline = 20 * time.Second

// maxRuleset is as small as these tests' Rulesets allow, to be quick.
const maxRuleset = 16 << 10

// operator speaks the contract of ruleset/link.go over TLS: it answers a
// Report at once when it knows another Ruleset, and holds it otherwise.
type operator struct {
	t       *testing.T
	server  *httptest.Server
	ca      string
	hold    time.Duration
	reports chan ruleset.Report // every Report that came with the token

	mu      sync.Mutex
	token   string
	current *ruleset.Ruleset
	refuse  int // a status to answer with instead
	raw     func(http.ResponseWriter)
	changed chan struct{}
	asked   int
	// certify answers for certificates.
	certify http.HandlerFunc
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	certificate, ca := selfSigned(t)
	o := &operator{
		t: t, ca: ca, token: "first", hold: 50 * time.Millisecond,
		reports: make(chan ruleset.Report, 4096), changed: make(chan struct{}),
	}
	o.server = httptest.NewUnstartedServer(http.HandlerFunc(o.answer))
	o.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	o.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	o.server.StartTLS()
	t.Cleanup(o.stop)
	return o
}

func (o *operator) stop() {
	o.server.CloseClientConnections()
	o.server.Close()
}

func (o *operator) link() ruleset.Link {
	return ruleset.Link{Address: o.server.Listener.Addr().String(), CABundle: o.ca}
}

// set changes what the operator says, and wakes the requests that it holds.
func (o *operator) set(change func(*operator)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
	close(o.changed)
	o.changed = make(chan struct{})
}

func (o *operator) program(r *ruleset.Ruleset) {
	o.set(func(o *operator) { o.current = r })
}

func (o *operator) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.asked
}

func (o *operator) answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == ruleset.CertificatePath {
		o.mu.Lock()
		certify, token := o.certify, o.token
		o.mu.Unlock()
		if r.Method != http.MethodPost || r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		certify(w, r)
		return
	}
	var report ruleset.Report
	if r.Method != http.MethodPost || r.URL.Path != ruleset.LinkPath {
		o.t.Errorf("got %s %s, expected POST %s", r.Method, r.URL.Path, ruleset.LinkPath)
	}
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
		o.t.Errorf("the report is not JSON: %v", err)
	}
	patience := time.After(o.hold)
	for first := true; ; first = false {
		o.mu.Lock()
		current, refuse, raw, token, changed := o.current, o.refuse, o.raw, o.token, o.changed
		if first {
			o.asked++
		}
		o.mu.Unlock()
		switch {
		case refuse != 0:
			w.WriteHeader(refuse)
			return
		case r.Header.Get("Authorization") != "Bearer "+token:
			w.WriteHeader(http.StatusUnauthorized)
			return
		case raw != nil:
			raw(w)
			return
		}
		if first {
			o.reports <- report
		}
		told := report.Rejected != nil && current != nil && report.Rejected.Version == current.Version
		if current != nil && current.Version != report.Version && !told {
			_ = json.NewEncoder(w).Encode(current)
			return
		}
		select {
		case <-changed:
		case <-patience:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-r.Context().Done():
			return
		}
	}
}

// report waits for a Report that is as wanted.
func (o *operator) report(what string, wanted func(ruleset.Report) bool) ruleset.Report {
	o.t.Helper()
	timeout := time.After(deadline)
	for {
		select {
		case r := <-o.reports:
			if wanted(r) {
				return r
			}
		case <-timeout:
			o.t.Fatalf("no report came that %s", what)
		}
	}
}

func (o *operator) acknowledged(version string) ruleset.Report {
	o.t.Helper()
	return o.report("acknowledges "+version, func(r ruleset.Report) bool { return r.Version == version })
}

// selfSigned makes a certificate for 127.0.0.1 that is its own authority.
func selfSigned(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "weir test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// pod is a sidecar's link with what it applied and logged.
type pod struct {
	*Client
	t    *testing.T
	dir  string
	logs *lines

	mu      sync.Mutex
	applied []string
	refuse  string // a policy's name that cannot be applied
	blind   []string
}

var errRefused = errors.New("a policy of this name cannot be applied")

// newPod makes a Client in dir with short waits; it does not start it.
func newPod(t *testing.T, bootstrap *ruleset.Ruleset, dir string) *pod {
	t.Helper()
	if dir == "" {
		dir = t.TempDir()
	}
	p := &pod{t: t, dir: dir, logs: &lines{}, refuse: "impossible"}
	p.write("token", "first\n")
	client, err := New(Config{
		Bootstrap: bootstrap, StateDir: dir, TokenFile: filepath.Join(dir, "token"),
		Registerer: prometheus.NewRegistry(),
		Logger:     slog.New(slog.NewTextHandler(p.logs, nil)),
		NotIntercepting: func() []string {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.blind
		},
		Apply: func(r *ruleset.Ruleset) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, policy := range r.Policies {
				if policy.Name == p.refuse {
					return errRefused
				}
			}
			p.applied = append(p.applied, r.Version)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	client.limits.ruleset = maxRuleset
	client.limits.interval = time.Millisecond
	client.limits.firstBackoff = time.Millisecond
	client.limits.longestBackoff = 20 * time.Millisecond
	p.Client = client
	return p
}

// start restores and runs until the test ends or stop is called.
func (p *pod) start() (stop func()) {
	p.Restore()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); p.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	p.t.Cleanup(stop)
	return stop
}

func (p *pod) write(name, content string) {
	p.t.Helper()
	temporary := filepath.Join(p.dir, name+".new")
	if err := os.WriteFile(temporary, []byte(content), 0o600); err != nil {
		p.t.Fatal(err)
	}
	if err := os.Rename(temporary, filepath.Join(p.dir, name)); err != nil {
		p.t.Fatal(err)
	}
}

// inForce are the versions that were applied, in order.
func (p *pod) inForce() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]string(nil), p.applied...)
}

// eventually waits for a condition that no channel tells of.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(deadline); !condition(); {
		select {
		case <-end:
			t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

// lines collects what is logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// rules makes a sealed Ruleset with a Store and a policy for each name.
func rules(link ruleset.Link, policies ...string) *ruleset.Ruleset {
	r := &ruleset.Ruleset{
		Namespace: "bondhu", Link: link,
		Store: &ruleset.Store{URL: "redis://:hidden@redis:6379", TimeoutMillis: 100},
	}
	for i, name := range policies {
		r.Policies = append(r.Policies, ruleset.Policy{
			PolicyRef: ruleset.PolicyRef{Name: name, UID: fmt.Sprint("uid-", i), Generation: int64(i + 1)},
		})
	}
	r.Seal()
	return r
}

// stamped is the same without the Store, as injection stamps it into a pod.
func stamped(r *ruleset.Ruleset) *ruleset.Ruleset {
	bare := *r
	bare.Store = nil
	bare.Seal()
	return &bare
}

// writeBody answers 200 with a body.
func writeBody(body io.Reader) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { _, _ = io.Copy(w, body) }
}
