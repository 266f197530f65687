package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/sidecar/capture"
	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/link"
	"github.com/weir-dev/weir/sidecar/proxy"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/tracing"
)

// maxExplicitPorts is how many ports injection gives a pod.
const maxExplicitPorts = 64

// options of the command run.
type options struct {
	outboundPort, inboundPort, localPort, healthPort uint16
	stateDir, trustDir, tokenFile, auditFile         string
	drainTimeout                                     time.Duration
}

// sidecar is everything that serves, wired together.
type sidecar struct {
	limiter  *limiter.Limiter
	reports  *report.Recorder
	audit    *audit.Log // nil: none
	tls      *intercept.Interceptor
	proxy    *proxy.Proxy
	traces   *traces
	link     *link.Client
	registry *prometheus.Registry // of all metrics
	health   *http.Server
	local    *http.Server
	draining atomic.Bool
	failed   chan error // one of the servers ended
}

// run serves until a signal, then lets requests in flight end. A second signal
// ends it at once.
func run(o options, bootstrap *ruleset.Bootstrap, logger *slog.Logger, signals <-chan os.Signal) error {
	s, err := wire(o, bootstrap, logger)
	if err != nil {
		return err
	}
	s.link.Restore() // before the first connection is accepted
	if err := s.listen(o, bootstrap.Explicit); err != nil {
		return err
	}
	linked, unlink := context.WithCancel(context.Background())
	defer unlink()
	go s.link.Run(linked)
	go s.reportInterception(linked)
	s.reports.Start()
	logger.Info("serving", "version", version, "namespace", bootstrap.Ruleset.Namespace)
	select {
	case err := <-s.failed:
		return err
	case <-signals:
	}
	logger.Info("draining", "timeout", o.drainTimeout.String())
	drained := make(chan error, 1)
	go func() { drained <- s.drain(o.drainTimeout) }()
	select {
	case err := <-drained:
		if err != nil {
			logger.Warn("what was still in flight after the drain timeout was cut", "error", err)
		}
		return nil
	case <-signals:
		return errors.New("ended at once by a second signal")
	}
}

// reportInterception tells the operator of each change of what this pod cannot
// intercept.
func (s *sidecar) reportInterception(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.tls.Changed():
			s.link.Nudge()
		}
	}
}

// wire makes the parts and connects them; nothing serves yet.
func wire(o options, bootstrap *ruleset.Bootstrap, logger *slog.Logger) (*sidecar, error) {
	registry := prometheus.NewRegistry()
	buildInfo := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_sidecar_build_info", Help: "1, labelled with what was built.",
		ConstLabels: prometheus.Labels{"version": version, "go_version": runtime.Version()},
	})
	buildInfo.Set(1)
	registry.MustRegister(buildInfo, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	s := &sidecar{registry: registry, failed: make(chan error, 4+maxExplicitPorts)}
	var err error
	if o.auditFile != "" {
		if s.audit, err = audit.Open(o.auditFile, logger); err != nil {
			return nil, err
		}
	}
	s.limiter = limiter.New(limiter.Options{Logger: logger, Registerer: registry, Audit: s.audit})
	s.reports = report.New(report.Options{Logger: logger, Registerer: registry})
	s.tls, err = intercept.New(intercept.Config{
		Issue: func(ctx context.Context, request []byte) ([]byte, error) { return s.link.Certificate(ctx, request) },
		Trust: bootstrap.Trust, Authorities: bootstrap.Ruleset.Authorities, TrustDir: o.trustDir,
		Registerer: registry, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	s.proxy = proxy.New(proxy.Config{
		Taker: s.limiter, Interceptor: s.tls, Destination: capture.OriginalDestination, Probes: bootstrap.Probes,
		Reports: s.reports, Registerer: registry, Logger: logger,
	})
	s.traces = &traces{trace: s.proxy.Trace, metrics: tracing.NewMetrics(registry, "weir_sidecar"), logger: logger}
	s.link, err = link.New(link.Config{
		Bootstrap: &bootstrap.Ruleset, Apply: applier(s.proxy.Apply, s.tls.Use, s.useStore, s.traces.use), NotIntercepting: s.tls.NotIntercepting,
		StoreAway: s.limiter.Away,
		TokenFile: o.tokenFile, StateDir: o.stateDir, Registerer: registry, Logger: logger,
	})
	if err != nil {
		return nil, err
	}
	ready := func() bool { return s.link.Ready() && !s.draining.Load() }
	s.health = server(healthHandler(ready, promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), bootstrap.Probes), logger)
	s.local = server(s.proxy.LocalHandler(), logger)
	return s, nil
}

// useStore has takes decided in a store, and what happens reported there.
func (s *sidecar) useStore(store *ruleset.Store) error {
	if err := s.limiter.Use(store); err != nil {
		return err
	}
	s.reports.Use(store)
	return nil
}

// applier puts a Ruleset in force whole or not at all. The rules go first: to
// take them back costs nothing, while a store that is given up and taken back
// loses its connections.
func applier(rules, tls func(*ruleset.Ruleset) error, store func(*ruleset.Store) error, traces func(*ruleset.Ruleset)) func(*ruleset.Ruleset) error {
	inForce := &ruleset.Ruleset{}
	return func(next *ruleset.Ruleset) error {
		if err := rules(next); err != nil {
			return err
		}
		if err := tls(next); err != nil {
			return errors.Join(fmt.Errorf("preparing to intercept: %w", err), rules(inForce))
		}
		if err := store(next.Store); err != nil {
			return errors.Join(fmt.Errorf("using the store: %w", err), rules(inForce), tls(inForce))
		}
		traces(next) // can be done without
		inForce = next
		return nil
	}
}

// server is an HTTP server of our own, bounded in time and size.
func server(handler http.Handler, logger *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// listen opens every port before it serves any, so that a port that is taken
// is an error and not half a sidecar.
func (s *sidecar) listen(o options, explicit *ruleset.Explicit) error {
	serving, err := s.listenForConnections(o, explicit)
	if err != nil {
		return err
	}
	local, err := listenLocally(o.localPort)
	if err != nil {
		return fmt.Errorf("listening for the local API: %w", err)
	}
	var plain net.ListenConfig
	health, err := plain.Listen(context.Background(), "tcp", ":"+strconv.Itoa(int(o.healthPort)))
	if err != nil {
		return fmt.Errorf("listening for health and metrics: %w", err)
	}
	for what, serve := range serving {
		go s.serve(what, serve)
	}
	go s.serve("the local API", func() error { return s.local.Serve(local) })
	go s.serve("health and metrics", func() error { return s.health.Serve(health) })
	return nil
}

// listenForConnections opens the ports that connections of the pod reach,
// captured or named by its clients, and says how each is served.
func (s *sidecar) listenForConnections(o options, explicit *ruleset.Explicit) (map[string]func() error, error) {
	ctx := context.Background()
	serving := map[string]func() error{}
	if explicit == nil {
		outbound, err := capture.Listen(ctx, o.outboundPort)
		if err != nil {
			return nil, err
		}
		inbound, err := capture.Listen(ctx, o.inboundPort)
		if err != nil {
			return nil, err
		}
		serving["outbound connections"] = func() error { return s.proxy.Serve(ruleset.Outbound, outbound) }
		serving["inbound connections"] = func() error { return s.proxy.Serve(ruleset.Inbound, inbound) }
		return serving, nil
	}
	outbound, err := listenLocally(o.outboundPort)
	if err != nil {
		return nil, fmt.Errorf("listening as the pod's forward proxy: %w", err)
	}
	serving["the pod's clients"] = func() error { return s.proxy.ServeExplicit(outbound) }
	for _, port := range explicit.Inbound {
		listener, err := capture.Listen(ctx, port.Listen)
		if err != nil {
			return nil, err
		}
		serving[fmt.Sprintf("connections for port %d", port.Port)] = func() error { return s.proxy.ServeFor(port.Port, listener) }
	}
	return serving, nil
}

// listenLocally listens on loopback, which only the pod reaches.
func listenLocally(port uint16) (net.Listener, error) {
	var plain net.ListenConfig
	return plain.Listen(context.Background(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
}

// serve reports a server that ended before it was told to.
func (s *sidecar) serve(what string, serve func() error) {
	err := serve()
	if err == nil || errors.Is(err, http.ErrServerClosed) || s.draining.Load() {
		return
	}
	s.failed <- fmt.Errorf("serving %s: %w", what, err)
}

// drain lets requests in flight end, no longer than timeout. Health and
// metrics answer until then.
func (s *sidecar) drain(timeout time.Duration) error {
	s.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	err := errors.Join(s.proxy.Shutdown(ctx), s.local.Shutdown(ctx))
	_ = s.health.Close()
	s.limiter.Close()
	s.reports.Close()
	if s.audit != nil {
		err = errors.Join(err, s.audit.Close())
	}
	s.tls.Close()
	s.traces.close()
	return err
}
