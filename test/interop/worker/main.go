// Command worker is the real runner with tasks that tests can count.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
)

func main() {
	logger := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	if err := run(logger); err != nil {
		logger.Error("ended", "error", err.Error())
		os.Exit(1)
	}
	logger.Info("ended")
}

func run(logger *slog.Logger) error {
	c := runner.Config{
		Logger: logger, Registerer: prometheus.NewRegistry(),
		Retry: celery.RetryPolicy{MaxRetries: 20, InitialBackoff: 100 * time.Millisecond, MaxBackoff: time.Second},
	}
	var o celery.Options
	queues := flag.String("queues", "celery", "")
	flag.IntVar(&c.Concurrency, "concurrency", 4, "")
	flag.StringVar(&c.Hostname, "hostname", "weir@test", "")
	flag.DurationVar(&c.Grace, "grace", 10*time.Second, "")
	flag.DurationVar(&c.Lease, "lease", celery.DefaultLease, "")
	flag.IntVar(&c.MaxCrashes, "max-crashes", celery.DefaultMaxCrashes, "")
	flag.DurationVar(&o.VisibilityTimeout, "visibility-timeout", celery.DefaultVisibilityTimeout, "")
	flag.DurationVar(&o.Timeout, "timeout", celery.DefaultTimeout, "")
	flag.Parse()
	c.Queues = strings.Split(*queues, ",")

	var err error
	if c.Broker, err = celery.Open(os.Getenv("CELERY_BROKER_URL"), o); err != nil {
		return err
	}
	defer func() { _ = c.Broker.Close() }()
	who := cmp.Or(strings.TrimPrefix(c.Hostname, "weir@"), "weir")
	t := tasks{redis: c.Broker.Client(), who: who}
	c.Registry = runner.Registry{"record": t.record, "hold": t.hold, "handover": t.handover, "flaky": t.flaky}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	worker, err := runner.New(c)
	if err != nil {
		return err
	}
	logger.Info("taking tasks")
	return worker.Run(ctx)
}

// tasks note their runs in sets: a command that go-redis sends twice counts once.
type tasks struct {
	redis *redis.Client
	who   string
}

func (t tasks) note(ctx context.Context, set string, n int) error {
	return t.redis.SAdd(ctx, set, fmt.Sprintf("%d/%s/%s", n, t.who, uuid.NewString())).Err()
}

// record notes that run n began and ended, and who ran it.
func (t tasks) record(ctx context.Context, call *runner.Call) (any, error) {
	var p struct {
		N  int     `json:"n"`
		MS float64 `json:"ms,omitempty"`
	}
	if err := call.Bind(&p); err != nil {
		return nil, err
	}
	if err := t.note(ctx, "interop:begun", p.N); err != nil {
		return nil, err
	}
	if err := last(ctx, time.Duration(p.MS*float64(time.Millisecond))); err != nil {
		return nil, err
	}
	return p.N, t.note(ctx, "interop:runs", p.N)
}

// hold notes that run n began, takes a while, and notes that it ended.
func (t tasks) hold(ctx context.Context, call *runner.Call) (any, error) {
	var p struct {
		N       int     `json:"n"`
		Seconds float64 `json:"seconds"`
	}
	if err := call.Bind(&p); err != nil {
		return nil, err
	}
	if err := t.note(ctx, "interop:begun", p.N); err != nil {
		return nil, err
	}
	if err := last(ctx, time.Duration(p.Seconds*float64(time.Second))); err != nil {
		return nil, err
	}
	return p.N, t.note(ctx, "interop:runs", p.N)
}

// handover says how often the call was tried before.
func (t tasks) handover(_ context.Context, call *runner.Call) (any, error) {
	return map[string]any{"retries": call.Retries, "by": t.who}, nil
}

// flaky fails until its key exists.
func (t tasks) flaky(ctx context.Context, call *runner.Call) (any, error) {
	var p struct {
		Key string `json:"key"`
	}
	if err := call.Bind(&p); err != nil {
		return nil, err
	}
	if n, err := t.redis.Exists(ctx, p.Key).Result(); err != nil || n == 0 {
		return nil, runner.Permanent(errors.New("the key is not there"))
	}
	return "at last", nil
}

func last(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
