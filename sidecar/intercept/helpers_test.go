package intercept

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// patience bounds every wait for what must happen.
	patience = 30 * time.Second
	// host is the provider's name.
	host = "api.provider.test"
)

// provider is the real host: HTTP over TLS of both versions.
type provider struct {
	*authority // that clients would trust without us
	addr       string
	server     *http.Server
	mu         sync.Mutex
	seen       []tls.ConnectionState // of requests
}

// provide starts a provider; set changes its TLS.
func provide(t testing.TB, set func(*tls.Config)) *provider {
	t.Helper()
	p := &provider{authority: newAuthority(t, "Provider's authority")}
	config := &tls.Config{Certificates: []tls.Certificate{p.served(host, "*.provider.test")}}
	if set != nil {
		set(config)
	}
	p.server = &http.Server{
		TLSConfig: config,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.mu.Lock()
			p.seen = append(p.seen, *r.TLS)
			p.mu.Unlock()
			_, _ = io.WriteString(w, "hello from "+r.Host)
		}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	l := listen(t)
	p.addr = l.Addr().String()
	go func() { _ = p.server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = p.server.Close() })
	return p
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// house is an Interceptor between clients and a provider.
type house struct {
	*Interceptor
	t        testing.TB
	registry *prometheus.Registry
	logged   *syncBuffer
	trustDir string
	upstream string // the provider's address
	addr     string // where clients connect to
	results  chan result
	sessions atomic.Int32 // that stand
}

// result is what became of one connection.
type result struct {
	outcome Outcome
	err     error
}

// build starts an Interceptor for policies that name hosts, which knows
// operator's authority and trusts the provider's.
func build(t testing.TB, operator *authority, p *provider, hosts []string, set ...func(*Config)) *house {
	t.Helper()
	h := &house{
		t: t, registry: prometheus.NewRegistry(), logged: &syncBuffer{},
		trustDir: t.TempDir(), results: make(chan result, 4096),
	}
	cfg := Config{
		Issue: operator.issue, Trust: true, Authorities: operator.pem(), TrustDir: h.trustDir,
		Registerer: h.registry, Logger: slog.New(slog.NewTextHandler(h.logged, nil)),
	}
	if p != nil {
		cfg.ExtraRoots, h.upstream = p.pem(), p.addr
	}
	for _, s := range set {
		s(&cfg)
	}
	var err error
	if h.Interceptor, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	h.leaves.spread = time.Millisecond
	if h.trust != nil {
		h.trust.roots = []string{h.usualRoots()}
	}
	h.use(operator.pem(), hosts...)
	h.addr = h.serve()
	return h
}

// usualRoots is a file as an image has it.
func (h *house) usualRoots() string {
	file := filepath.Join(h.t.TempDir(), "roots.crt")
	roots := append(encode([]*x509.Certificate{newAuthority(h.t, "Some usual root").cert}),
		encode([]*x509.Certificate{newAuthority(h.t, "Some usual root").cert})...)
	if err := os.WriteFile(file, roots, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

func (h *house) use(authorities string, hosts ...string) {
	h.t.Helper()
	if err := h.Use(&ruleset.Ruleset{Authorities: authorities, Policies: []ruleset.Policy{intercepting("spotify", hosts...)}}); err != nil {
		h.t.Fatalf("use: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	h.Settle(ctx)
}

func intercepting(name string, hosts ...string) ruleset.Policy {
	return ruleset.Policy{
		PolicyRef: ruleset.PolicyRef{Name: name}, Direction: ruleset.Outbound, Intercept: true, Hosts: hosts,
	}
}

// serve accepts connections, intercepts them and relays what passes, as the proxy does.
func (h *house) serve() string {
	h.t.Helper()
	l := listen(h.t)
	var serving sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(func() {
		_ = l.Close()
		cancel()
		serving.Wait()
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { h.receive(ctx, &peeked{Conn: c}) })
		}
	}()
	return l.Addr().String()
}

func (h *house) receive(ctx context.Context, c *peeked) {
	defer context.AfterFunc(ctx, func() { _ = c.Conn.Close() })()
	defer func() { _ = c.Conn.Close() }()
	hello, status := c.readHello()
	if status == NotTLS {
		hello = Hello{}
	}
	session, err := h.Intercept(ctx, hello, c, h.dial)
	h.results <- result{outcomeOf(err), err}
	if _, pass := errors.AsType[*PassError](err); pass {
		up, err := h.dial(ctx)
		if err != nil {
			return
		}
		defer context.AfterFunc(ctx, func() { _ = up.Close() })()
		relay(c, up)
		return
	}
	if err != nil {
		return
	}
	h.sessions.Add(1)
	defer h.sessions.Add(-1)
	defer context.AfterFunc(ctx, func() { _ = session.Upstream.NetConn().Close() })()
	first := make([]byte, 1)
	n, err := session.Client.Read(first)
	if n == 0 {
		session.Unused(err)
		_ = session.Upstream.Close()
		return
	}
	session.Used()
	relay(&withPrefix{session.Client, first}, &upstream{session.Upstream, session})
}

func (h *house) dial(ctx context.Context) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", h.upstream)
}

// outcome is what became of the next connection to end its handshake.
func (h *house) outcome() Outcome {
	h.t.Helper()
	select {
	case r := <-h.results:
		return r.outcome
	case <-time.After(patience):
		h.t.Fatal("no connection came")
		return ""
	}
}

// want fails when the next connection has another outcome.
func (h *house) want(outcome Outcome) {
	h.t.Helper()
	select {
	case r := <-h.results:
		if r.outcome != outcome {
			h.t.Errorf("the connection's outcome is %s (%v), want %s", r.outcome, r.err, outcome)
		}
	case <-time.After(patience):
		h.t.Fatalf("no connection came, want one that is %s", outcome)
	}
}

// client connects to the house whatever it asks for, and trusts pool.
func (h *house) client(pool *x509.CertPool, set ...func(*tls.Config)) *http.Client {
	return clientTo(h.t, h.addr, pool, set...)
}

func clientTo(t testing.TB, addr string, pool *x509.CertPool, set ...func(*tls.Config)) *http.Client {
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		},
	}
	for _, s := range set {
		s(transport.TLSClientConfig)
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

// get asks for the page of a host, over a new connection.
func get(client *http.Client, name string) (*http.Response, error) {
	client.CloseIdleConnections()
	response, err := client.Get("https://" + name + "/")
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err == nil && string(body) != "hello from "+name {
		err = errors.New("the body is " + string(body))
	}
	return response, err
}

// patient is called while waiting; it fails the test when that took too long.
func patient(t testing.TB) func(what string) {
	deadline := time.Now().Add(patience)
	return func(what string) {
		t.Helper()
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// counted is the metric of an outcome.
func (h *house) counted(outcome Outcome) float64 {
	h.t.Helper()
	for _, m := range h.family("weir_sidecar_tls_connections_total") {
		if m.GetLabel()[0].GetValue() == string(outcome) {
			return m.GetCounter().GetValue()
		}
	}
	h.t.Fatalf("outcome %s is not in the metrics", outcome)
	return 0
}

func (h *house) family(name string) []*dto.Metric {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	return nil
}

// peeked is a connection whose first bytes were looked at and are read again.
type peeked struct {
	net.Conn
	prefix []byte
}

func (c *peeked) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *peeked) readHello() (Hello, Status) {
	buffer := make([]byte, 4<<10)
	for n := 0; ; {
		if n == len(buffer) {
			buffer = append(buffer, make([]byte, n)...)
		}
		hello, status := ReadHello(buffer[:n])
		if status != NeedMore {
			c.prefix = buffer[:n]
			return hello, status
		}
		more, err := c.Conn.Read(buffer[n:])
		n += more
		if err != nil {
			c.prefix = buffer[:n]
			return Hello{}, NotTLS
		}
	}
}

func (c *peeked) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// withPrefix is a connection of which something was read.
type withPrefix struct {
	*tls.Conn
	prefix []byte
}

func (c *withPrefix) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// upstream is a session's, which is told of its end.
type upstream struct {
	*tls.Conn
	session *Session
}

func (u *upstream) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if err != nil {
		u.session.UpstreamEnded(err)
	}
	return n, err
}

// relay copies both ways until both are done, passing on each end.
func relay(a, b net.Conn) {
	var both sync.WaitGroup
	copyTo := func(dst, src net.Conn) {
		_, err := io.Copy(dst, src)
		if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil {
			_ = half.CloseWrite()
			return
		}
		_, _ = dst.Close(), src.Close()
	}
	both.Go(func() { copyTo(a, b) })
	both.Go(func() { copyTo(b, a) })
	both.Wait()
	_, _ = a.Close(), b.Close()
}

// syncBuffer is a log.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
