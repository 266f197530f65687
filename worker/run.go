package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
	"github.com/weir-dev/weir/worker/tasks"
)

// runOptions of the command run.
type runOptions struct {
	config     runner.Config
	queues     string
	visibility time.Duration
	address    string
	scorer     string
}

func runCommand(flags *flag.FlagSet, args []string, stderr io.Writer) error {
	o := runOptions{}
	c := &o.config
	hostname, _ := os.Hostname()
	flags.StringVar(&o.queues, "queues", "celery", "queues to take from, separated by commas")
	flags.IntVar(&c.Concurrency, "concurrency", 8, "how many calls run at once")
	flags.StringVar(&c.Hostname, "hostname", "weir@"+cmp.Or(os.Getenv("POD_NAME"), hostname), "node name in Celery's events and remote control")
	flags.DurationVar(&c.Grace, "grace", 25*time.Second, "how long calls may go on after SIGTERM; what is left is given back")
	flags.IntVar(&c.Retry.MaxRetries, "max-retries", 3, "how often a failed call runs again where its message does not say")
	flags.DurationVar(&c.Retry.InitialBackoff, "initial-backoff", 10*time.Second, "time before the first retry, doubled for each")
	flags.DurationVar(&c.Retry.MaxBackoff, "max-backoff", 10*time.Minute, "longest time before a retry")
	flags.DurationVar(&c.SoftTimeLimit, "soft-time-limit", 0, "when a call is asked to end where its message does not say; 0: never")
	flags.DurationVar(&c.TimeLimit, "time-limit", celery.DefaultTimeLimit, "when a call has failed where its message does not say")
	flags.DurationVar(&c.ResultTTL, "result-ttl", celery.DefaultResultTTL, "how long results are kept where their message does not say")
	flags.IntVar(&c.MaxCrashes, "max-crashes", celery.DefaultMaxCrashes, "how many workers may end while they run a message before it is a dead letter")
	flags.IntVar(&c.DeadLetters, "dead-letters", celery.DefaultDeadLetters, "how many dead letters of a queue are kept")
	flags.DurationVar(&c.Lease, "lease", celery.DefaultLease, "how long this worker may be silent before others take what it runs")
	flags.DurationVar(&o.visibility, "visibility-timeout", celery.DefaultVisibilityTimeout, "that of the Celery workers of the same Redis")
	flags.StringVar(&o.address, "metrics-address", ":8080", "address of /metrics, /healthz and /readyz; 0 turns it off")
	flags.StringVar(&o.scorer, "scorer", cmp.Or(os.Getenv("WEIR_SCORER"), "lexicon"), "what scores sentiment where a call does not say: lexicon or openai (default WEIR_SCORER)")
	var level slog.Level
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := parse(flags, args); err != nil {
		return err
	}
	for queue := range strings.SplitSeq(o.queues, ",") {
		c.Queues = append(c.Queues, strings.TrimSpace(queue))
	}
	switch {
	case c.Lease < time.Second:
		return usageError{fmt.Errorf("--lease is %v: want at least 1s", c.Lease)}
	case o.visibility < c.Lease:
		return usageError{fmt.Errorf("--visibility-timeout is %v: want at least the lease, %v", o.visibility, c.Lease)}
	case c.Grace < 0:
		return usageError{fmt.Errorf("--grace is %v: want no negative duration", c.Grace)}
	}
	c.Logger = slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return o.run(ctx)
}

func (o *runOptions) run(ctx context.Context) error {
	c := &o.config
	broker, err := openBroker(celery.Options{VisibilityTimeout: o.visibility})
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	registry := prometheus.NewRegistry()
	tracer, endTraces := openTracer(tracing.NewMetrics(registry, "weir_worker"), c.Logger)
	defer endTraces()
	c.Tracer = tracer
	worker, err := o.wire(broker, registry)
	if err != nil {
		return usageError{err}
	}
	if o.address != "0" {
		close, err := serve(o.address, worker, registry)
		if err != nil {
			return err
		}
		defer close()
	}
	c.Logger.Info("taking tasks", "version", version, "queues", c.Queues, "concurrency", c.Concurrency, "tasks", c.Registry.Names())
	if err := worker.Run(ctx); err != nil {
		return err
	}
	c.Logger.Info("ended")
	return nil
}

// wire makes the worker; nothing runs yet.
func (o *runOptions) wire(broker *celery.Broker, registry *prometheus.Registry) (*runner.Runner, error) {
	c := &o.config
	var err error
	if c.Registry, err = tasks.New(tasks.Options{Redis: broker.Client(), Scorer: o.scorer}); err != nil {
		return nil, err
	}
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	c.Broker, c.Registerer = broker, registry
	return runner.New(*c)
}

// serve answers probes and metrics.
func serve(address string, worker *runner.Runner, registry *prometheus.Registry) (end func(), err error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics and probes: %w", err)
	}
	server := &http.Server{
		Handler:           handler(worker, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute,
		IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return func() { _ = server.Close() }, nil
}

// handler answers /metrics, /healthz (the process lives) and /readyz (the broker
// answers).
func handler(worker interface{ Ready() bool }, metrics http.Handler) http.Handler {
	mux := http.NewServeMux()
	if metrics != nil {
		mux.Handle("GET /metrics", metrics)
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !worker.Ready() {
			http.Error(w, "Redis does not answer", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}
