package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// patience bounds every wait for what must happen.
const patience = 10 * time.Second

// house is a proxy that serves one listener before one upstream.
type house struct {
	t        testing.TB
	proxy    *Proxy
	addr     string
	upstream netip.AddrPort
	registry *prometheus.Registry
	redis    *redistest.Server // nil without limits
	reports  *report.Recorder
}

// serve starts a proxy in front of upstream. With policies there is a real
// Redis and a real limiter.
func serve(t testing.TB, direction ruleset.Direction, upstream net.Addr, policies ...ruleset.Policy) *house {
	t.Helper()
	h := build(t, upstream, policies...)
	h.addr = h.listen(direction)
	return h
}

// build makes a proxy that serves nobody yet.
func build(t testing.TB, upstream net.Addr, policies ...ruleset.Policy) *house {
	t.Helper()
	h := &house{t: t, upstream: addrPort(upstream), registry: prometheus.NewRegistry()}
	quiet := slog.New(slog.DiscardHandler)
	h.reports = report.New(report.Options{Logger: quiet})
	config := Config{
		Reports:     h.reports,
		Registerer:  h.registry,
		Logger:      quiet,
		Destination: func(net.Conn) (netip.AddrPort, error) { return h.upstream, nil },
		Probes: []ruleset.Probe{
			{Type: ruleset.ProbeHTTP, Port: h.upstream.Port(), Path: "/healthz?full=1"},
			{Type: ruleset.ProbeGRPC, Port: h.upstream.Port()},
		},
	}
	if len(policies) > 0 {
		h.redis = redistest.Start(t)
		config.Taker = limiterOn(t, h.redis)
	}
	h.proxy = New(config)
	h.apply(policies...)
	return h
}

func limiterOn(t testing.TB, redis *redistest.Server) *limiter.Limiter {
	t.Helper()
	l := limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(l.Close)
	if err := l.Use(&ruleset.Store{URL: redis.URL(), TimeoutMillis: 2000}); err != nil {
		t.Fatalf("use redis: %v", err)
	}
	return l
}

// beside starts another proxy before the same upstream, with the same Redis.
func (h *house) beside(policies ...ruleset.Policy) *house {
	h.t.Helper()
	other := &house{t: h.t, upstream: h.upstream, registry: prometheus.NewRegistry(), redis: h.redis}
	other.proxy = New(Config{
		Taker: limiterOn(h.t, h.redis), Registerer: other.registry, Logger: slog.New(slog.DiscardHandler),
		Destination: func(net.Conn) (netip.AddrPort, error) { return h.upstream, nil },
	})
	other.apply(policies...)
	other.addr = other.listen(ruleset.Inbound)
	return other
}

func (h *house) apply(policies ...ruleset.Policy) {
	h.t.Helper()
	if err := h.proxy.Apply(&ruleset.Ruleset{Namespace: "ns", Policies: policies}); err != nil {
		h.t.Fatalf("apply: %v", err)
	}
}

func (h *house) listen(direction ruleset.Direction) string {
	h.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.proxy.Serve(direction, l) }()
	h.t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // what a test left open is cut
		_ = h.proxy.Shutdown(ctx)
		if err := <-served; err != nil {
			h.t.Errorf("Serve returned %v after Shutdown, want nil", err)
		}
	})
	return l.Addr().String()
}

// client's every connection goes to the proxy, as capture would have it.
func (h *house) client(set func(*http.Protocols)) *http.Client {
	var protocols http.Protocols
	set(&protocols)
	transport := &http.Transport{
		Protocols:             &protocols,
		DisableCompression:    true,
		ExpectContinueTimeout: patience,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", h.addr)
		},
	}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func http1(p *http.Protocols) { p.SetHTTP1(true) }
func http2(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }

// versions runs a test over both versions of HTTP.
func versions(t *testing.T, test func(t *testing.T, protocols func(*http.Protocols))) {
	t.Helper()
	t.Run("http1", func(t *testing.T) { t.Parallel(); test(t, http1) })
	t.Run("http2", func(t *testing.T) { t.Parallel(); test(t, http2) })
}

// application is an HTTP/1.1 and h2c server.
func application(t testing.TB, handler http.HandlerFunc) net.Addr {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	return server.Listener.Addr()
}

// rawServer hands each connection to handle, and closes it after.
func rawServer(t testing.TB, handle func(*net.TCPConn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				handle(c.(*net.TCPConn))
			}()
		}
	}()
	return l.Addr()
}

// dial connects to the proxy; reads and writes are bounded by patience.
func (h *house) dial() *net.TCPConn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		h.t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// raw sends a request that asks to close, and returns everything that comes
// back until the end.
func (h *house) raw(request string) string {
	h.t.Helper()
	c := h.dial()
	write(h.t, c, request)
	answer, err := io.ReadAll(c)
	if err != nil {
		h.t.Fatalf("after %q: %v", answer, err)
	}
	return string(answer)
}

func write(t testing.TB, w io.Writer, s string) {
	t.Helper()
	if _, err := io.WriteString(w, s); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}

func readLine(t testing.TB, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("read a line: %v (got %q)", err, line)
	}
	return strings.TrimRight(line, "\r\n")
}

// do sends a request and reads the whole answer.
func do(t testing.TB, client *http.Client, r *http.Request) (*http.Response, string) {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Method, r.URL, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s %s: body: %v", r.Method, r.URL, err)
	}
	return response, string(body)
}

// ask makes a request; headers are name, value, name, value...
func ask(t testing.TB, method, url string, body io.Reader, headers ...string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// count is the value of a counter whose label values are, in any order, these.
func (h *house) count(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.registry.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			if hasLabels(m, labels) {
				return m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

func hasLabels(m *dto.Metric, values []string) bool {
	for _, want := range values {
		found := false
		for _, label := range m.GetLabel() {
			found = found || label.GetValue() == want
		}
		if !found {
			return false
		}
	}
	return true
}

func (h *house) wantCount(want float64, name string, labels ...string) {
	h.t.Helper()
	if got := h.count(name, labels...); got != want {
		h.t.Errorf("%s%v = %v, want %v", name, labels, got, want)
	}
}

const requests = "weir_sidecar_requests_total"

// eventually waits for a condition that nothing signals.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if holds() {
			return
		}
	}
	t.Fatalf("waited %s in vain: %s", patience, what)
}

// wantClosed reads until the other end has closed or reset c, whose deadline
// is set.
func wantClosed(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal("the connection is still open, want it closed")
	}
}

// wantRefused connects, and expects the connection to end.
func wantRefused(t testing.TB, addr string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return // the reset was that fast
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(patience))
	wantClosed(t, c)
}
