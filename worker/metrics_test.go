package main

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/test/metricstable"
	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
	"github.com/weir-dev/weir/worker/runner"
)

func TestAllMetricsAreInTheTable(t *testing.T) {
	broker, err := celery.Open("redis://127.0.0.1:1", celery.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	registry := prometheus.NewRegistry()
	tracing.NewMetrics(registry, "weir_worker")
	o := runOptions{scorer: "lexicon", config: runner.Config{Queues: []string{"q"}, Concurrency: 1, Logger: slog.New(slog.DiscardHandler)}}
	if _, err := o.wire(broker, registry); err != nil {
		t.Fatal(err)
	}
	metricstable.Check(t, "worker", registry)
}
