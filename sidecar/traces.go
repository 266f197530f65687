package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/tracing"
)

// lastSpans is how long the end of a Tracer may take, so that what it has
// recorded is not lost.
const lastSpans = 3 * time.Second

// traces keeps the Tracer that the Ruleset in force asks for.
type traces struct {
	// trace gives it to who records; nil: nobody does.
	trace   func(*tracing.Tracer)
	metrics *tracing.Metrics
	logger  *slog.Logger

	mu       sync.Mutex      // guards the rest
	inForce  ruleset.Tracing // none: empty
	recorder *tracing.Tracer
}

// use obeys a Ruleset. Limits do not wait for traces: what cannot be obeyed is
// logged, and no traces are recorded.
func (t *traces) use(rs *ruleset.Ruleset) {
	var next ruleset.Tracing
	if rs.Tracing != nil {
		next = *rs.Tracing
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if next == t.inForce {
		return
	}
	t.inForce = next
	before := t.recorder
	t.recorder = t.start(next, rs.Namespace)
	t.trace(t.recorder)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
		defer cancel()
		before.Shutdown(ctx)
	}()
}

// start is nil where no traces are wanted, or they cannot be sent.
func (t *traces) start(wanted ruleset.Tracing, namespace string) *tracing.Tracer {
	if wanted.Endpoint == "" {
		return nil
	}
	endpoint, err := tracing.TracesURL(wanted.Endpoint)
	if err != nil {
		t.logger.Error("no traces are recorded: the operator's --traces-endpoint cannot be used", "error", err)
		return nil
	}
	pod, _ := os.Hostname()
	recorder, err := tracing.New(tracing.Options{
		Endpoint: endpoint, Ratio: wanted.Ratio, Metrics: t.metrics, Logger: t.logger,
		Resource: []tracing.Attribute{
			tracing.Text("service.name", "weir-sidecar"),
			tracing.Text("service.version", version),
			tracing.Text("service.instance.id", cmp.Or(pod, "unknown")),
			tracing.Text("k8s.namespace.name", namespace),
			tracing.Text("k8s.pod.name", cmp.Or(pod, "unknown")),
		},
	})
	if err != nil {
		t.logger.Error("no traces are recorded", "error", err)
		return nil
	}
	return recorder
}

// close sends what is left, once nothing is recorded any more.
func (t *traces) close() {
	ctx, cancel := context.WithTimeout(context.Background(), lastSpans)
	defer cancel()
	t.mu.Lock()
	recorder := t.recorder
	t.mu.Unlock()
	recorder.Shutdown(ctx)
}
