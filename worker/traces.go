package main

import (
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/weir-dev/weir/tracing"
)

// lastSpans is how long the end of a command may wait for the collector.
const lastSpans = 3 * time.Second

// openTracer has the environment's traces sent, if it asks for any. A variable
// that cannot be obeyed is logged, and no reason to do no work. end sends what
// is left.
func openTracer(metrics *tracing.Metrics, logger *slog.Logger) (tracer *tracing.Tracer, end func()) {
	none := func() {}
	o, on, err := tracing.FromEnvironment(os.Getenv, "weir-worker")
	if err == nil && on {
		o.Metrics, o.Logger = metrics, logger
		o.Resource = append(o.Resource, tracing.Text("service.version", version))
		for name, variable := range map[string]string{"k8s.namespace.name": "POD_NAMESPACE", "k8s.pod.name": "POD_NAME"} {
			if value := os.Getenv(variable); value != "" {
				o.Resource = append(o.Resource, tracing.Text(name, value))
			}
		}
		tracer, err = tracing.New(o)
	}
	if err != nil {
		logger.Warn("no traces are recorded", "error", err)
	}
	if tracer == nil {
		return nil, none
	}
	return tracer, func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		tracer.Shutdown(ctx)
	}
}
