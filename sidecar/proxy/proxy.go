// Package proxy is the sidecar's data path: it accepts captured connections,
// matches each HTTP request to the policies of the Ruleset, names the caller,
// takes from the caller's quotas and forwards the request to the connection's
// original destination, or refuses it.
//
// What is not HTTP in clear text, TLS included, is relayed byte for byte and
// counted in a metric. To an admitted HTTP request and its response the proxy
// adds and changes nothing but what RFC 9110 asks of an intermediary
// (hop-by-hop fields), the identity headers that a policy strips, Inbound the
// RateLimit fields, and traceparent where the request is recorded as a span.
package proxy

import (
	"context"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/tracing"
)

// Taker decides on takes. An error that wraps limiter.ErrStore means that the
// store did not decide in time.
type Taker interface {
	// Take takes all or nothing.
	TakeInto(context.Context, []limiter.Take, []limiter.Quota) (limiter.Decision, error)
	// Remaining answers as Take would, and takes nothing.
	Remaining(context.Context, []limiter.Take) (limiter.Decision, error)
	// TakeLocally and RemainingLocally decide without the store.
	TakeLocally([]limiter.Take, []limiter.Quota) (limiter.Decision, error)
	RemainingLocally([]limiter.Take) (limiter.Decision, error)
	// Forget what is remembered of some callers of a service.
	Forget(namespace, service string, identities []string)
}

// Config is what a Proxy needs of its surroundings.
type Config struct {
	Taker Taker
	// Destination returns where an accepted connection was going before it
	// was captured.
	Destination func(net.Conn) (netip.AddrPort, error)
	// Interceptor ends TLS where policies say so; absent: nowhere.
	Interceptor *intercept.Interceptor
	// Probes of the kubelet are forwarded Inbound without counting.
	Probes []ruleset.Probe
	// Reports are told what became of requests; absent: nobody is.
	Reports *report.Recorder
	// Registerer receives the metrics; absent: they are counted unseen.
	Registerer prometheus.Registerer
	// Logger; absent: slog.Default.
	Logger *slog.Logger
}

// Proxy serves captured connections. Its methods may be used concurrently.
type Proxy struct {
	taker       Taker
	destination func(net.Conn) (netip.AddrPort, error)
	probes      []ruleset.Probe
	log         *slog.Logger
	quiet       *stdlog.Logger // what net/http says, at debug level
	interceptor *intercept.Interceptor
	metrics     *metrics
	reports     *report.Recorder

	apply sync.Mutex // serializes Apply
	table atomic.Pointer[table]
	// tracer is nil while no traces are wanted.
	tracer atomic.Pointer[tracing.Tracer]

	// draining ends when Shutdown begins, cut when its patience has ended.
	draining context.Context
	drain    context.CancelFunc
	cut      context.Context
	sever    context.CancelFunc

	mu      sync.Mutex // guards servers and closed
	servers []*server
	closed  bool
	// sessions are the connections being served.
	sessions sessions
	// lines are the requests that wait.
	lines lines
}

// New returns a Proxy that forwards everything until Apply gives it rules.
// It panics when the metrics are registered already.
func New(c Config) *Proxy {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Registerer == nil {
		c.Registerer = prometheus.NewRegistry()
	}
	p := &Proxy{
		taker:       c.Taker,
		destination: c.Destination,
		probes:      c.Probes,
		interceptor: c.Interceptor,
		log:         c.Logger,
		quiet:       slog.NewLogLogger(c.Logger.Handler(), slog.LevelDebug),
		metrics:     newMetrics(c.Registerer),
		reports:     c.Reports,
	}
	p.table.Store(&table{})
	p.draining, p.drain = context.WithCancel(context.Background())
	p.cut, p.sever = context.WithCancel(context.Background())
	return p
}

// Apply makes rs the rules of every request that arrives from now on, and of
// those that wait. An error says which policy cannot be obeyed; the rules before stay in force.
func (p *Proxy) Apply(rs *ruleset.Ruleset) error {
	next, err := compile(rs)
	if err != nil {
		return fmt.Errorf("apply ruleset %q: %w", rs.Version, err)
	}
	p.apply.Lock()
	defer p.apply.Unlock()
	p.metrics.follow(p.table.Load(), next)
	next.report(p.reports)
	p.table.Store(next)
	for _, policy := range next.policies {
		var identities []string
		for _, reset := range policy.Resets {
			identities = append(identities, reset.Identity)
		}
		if len(identities) > 0 {
			p.taker.Forget(rs.Namespace, policy.Service, identities)
		}
	}
	p.lines.wake()
	return nil
}

// Trace records requests that meet a policy with t from now on; nil: none.
func (p *Proxy) Trace(t *tracing.Tracer) { p.tracer.Store(t) }

// Serve accepts connections of one direction from l until Shutdown, and then
// returns nil. It closes l.
func (p *Proxy) Serve(direction ruleset.Direction, l net.Listener) error {
	return p.serve(newServer(p, direction, l))
}

func (p *Proxy) serve(s *server) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return errors.Join(net.ErrClosed, s.listener.Close())
	}
	p.servers = append(p.servers, s)
	p.mu.Unlock()
	return s.serve()
}

// Shutdown stops accepting and waits until the requests in flight have been
// answered and opaque relays, tunnels and upgraded connections have ended.
// What still lives when ctx ends is cut, and ctx's error returned.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	servers := p.servers
	p.mu.Unlock()

	p.drain()
	errs := make(chan error, len(servers))
	for _, s := range servers {
		go func() { errs <- s.shutdown(ctx) }()
	}
	var err error
	for range servers {
		err = errors.Join(err, <-errs)
	}
	if err == nil {
		err = p.sessions.drain(ctx)
	}
	p.sever()
	p.sessions.sever()
	for _, s := range servers {
		err = errors.Join(err, s.http2.http.Close())
	}
	return err
}
