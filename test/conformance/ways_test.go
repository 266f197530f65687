package conformance

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/proxy"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// service is the quota's name in what the sidecar adds to responses.
const service = "conformance"

// plenty is a limit that no conversation reaches.
const plenty = 1_000_000

// way leads clients to an upstream.
type way struct {
	name string
	// tls: both ends speak TLS.
	tls bool
	// quotas: responses are given RateLimit fields.
	quotas bool
	// host is the address that all listen on; empty: 127.0.0.1.
	host string
	// open leads to the upstream; the test's end closes the way.
	open func(t testing.TB, s *store, w way, upstream net.Addr) path
}

// path is an open way.
type path struct {
	// addr is where clients connect to.
	addr string
	// roots are PEM: what clients verify the other end's certificate with.
	// Empty in clear.
	roots []byte
}

// The ways without the sidecar, which the others are compared with.
var (
	direct     = way{name: "direct", open: straight}
	directTLS  = way{name: "direct TLS", tls: true, open: straight}
	direct6    = way{name: "direct IPv6", host: "::1", open: straight}
	directTLS6 = way{name: "direct TLS IPv6", tls: true, host: "::1", open: straight}
)

// The ways through the sidecar, all with a policy in force.
var (
	inbound     = way{name: "inbound", quotas: true, open: through(ruleset.Inbound)}
	outbound    = way{name: "outbound", open: through(ruleset.Outbound)}
	passthrough = way{name: "TLS passed through", tls: true, open: through(ruleset.Outbound)}

	intercepted = way{name: "TLS intercepted", tls: true, open: intercepting}

	ways = []way{inbound, outbound, passthrough, intercepted}
)

// over6 is a way over IPv6.
func over6(w way) way {
	w.name += " IPv6"
	w.host = "::1"
	return w
}

// without is the way that w is compared with.
func without(w way) way {
	switch {
	case w.tls && w.host != "":
		return directTLS6
	case w.tls:
		return directTLS
	case w.host != "":
		return direct6
	}
	return direct
}

// listen listens at the way's address.
func (w way) listen(t testing.TB) *net.TCPListener {
	t.Helper()
	host := w.host
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.(*net.TCPListener)
}

func (w way) path(addr net.Addr) path {
	p := path{addr: addr.String()}
	if w.tls {
		p.roots = upstreamIdentity().root
	}
	return p
}

func straight(_ testing.TB, _ *store, w way, upstream net.Addr) path { return w.path(upstream) }

// through opens a way through a proxy of one direction.
func through(direction ruleset.Direction) func(testing.TB, *store, way, net.Addr) path {
	return func(t testing.TB, s *store, w way, upstream net.Addr) path {
		t.Helper()
		l := w.listen(t)
		s.serve(t, direction, l, upstream, nil, policy(direction, plenty))
		return w.path(l.Addr())
	}
}

// intercepting opens a way through a proxy that ends TLS for the upstream's name.
func intercepting(t testing.TB, s *store, w way, upstream net.Addr) path {
	t.Helper()
	p := policy(ruleset.Outbound, plenty)
	p.Hosts, p.Intercept = []string{upstreamName}, true
	p.OnStoreFailure = ruleset.OnStoreFailureAllow // Deny ends what is no HTTP within the TLS
	i, err := intercept.New(intercept.Config{
		Issue: operator().issue, Trust: true, Authorities: string(operator().root), TrustDir: t.TempDir(),
		ExtraRoots: string(upstreamIdentity().root),
		Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("making an interceptor: %v", err)
	}
	t.Cleanup(i.Close)
	if err := i.Use(&ruleset.Ruleset{Namespace: "ns", Authorities: string(operator().root), Policies: []ruleset.Policy{p}}); err != nil {
		t.Fatalf("using the policies: %v", err)
	}
	l := w.listen(t)
	s.serve(t, ruleset.Outbound, l, upstream, i, p)
	return path{addr: l.Addr().String(), roots: operator().root}
}

// policy limits each X-User-ID to so many requests an hour.
func policy(direction ruleset.Direction, requests int64) ruleset.Policy {
	return ruleset.Policy{
		PolicyRef: ruleset.PolicyRef{Name: service, UID: "1", Generation: 1},
		Service:   service, Direction: direction,
		Sources:        []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "X-User-ID"}}},
		IfMissing:      ruleset.IfMissingShared,
		OnStoreFailure: ruleset.OnStoreFailureDeny,
		Limits:         []ruleset.Limit{{Requests: requests, WindowMillis: time.Hour.Milliseconds()}},
	}
}

// store decides on takes, with a real Redis.
type store struct{ limiter *limiter.Limiter }

func newStore(t testing.TB) *store {
	t.Helper()
	l := limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)})
	t.Cleanup(l.Close)
	if err := l.Use(&ruleset.Store{URL: redistest.Start(t).URL(), TimeoutMillis: patience.Milliseconds()}); err != nil {
		t.Fatalf("use redis: %v", err)
	}
	return &store{limiter: l}
}

// serve serves a listener with a proxy before one upstream. Without i no TLS
// is intercepted.
func (s *store) serve(t testing.TB, direction ruleset.Direction, l net.Listener, upstream net.Addr, i *intercept.Interceptor, policies ...ruleset.Policy) {
	t.Helper()
	destination := upstream.(*net.TCPAddr).AddrPort()
	p := proxy.New(proxy.Config{
		Taker:       s.limiter,
		Interceptor: i,
		Logger:      slog.New(slog.DiscardHandler),
		Destination: func(net.Conn) (netip.AddrPort, error) { return destination, nil },
	})
	if err := p.Apply(&ruleset.Ruleset{Namespace: "ns", Policies: policies}); err != nil {
		t.Fatalf("apply: %v", err)
	}
	served := make(chan error, 1)
	go func() { served <- p.Serve(direction, l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // what a test left open is cut
		_ = p.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v after Shutdown, want nil", err)
		}
	})
}
