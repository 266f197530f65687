package runner

import (
	"errors"

	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
)

// Names of spans and attributes are those of OpenTelemetry's instrumentation of
// Celery, so that the traces of Python's workers and ours read alike.
const (
	spanRun = "run/"
	// attributeOutcome says what became of a message that did not succeed, as
	// weir_worker_not_run_total does.
	attributeOutcome = "weir.outcome"
	attributeRetries = "celery.retries"
	attributeState   = "celery.state"
)

// trace begins the span of a delivery: from when it was taken until its result
// is stored. It follows from who enqueued it, also when it is tried again.
func (r *Runner) trace(one *run) {
	if one.Message == nil {
		return
	}
	one.trace, one.span = r.c.Tracer.Start(one.Trace, tracing.Consumer, spanRun+one.Task)
	if one.span == nil {
		return
	}
	one.span.Set(
		tracing.Text("celery.action", "run"),
		tracing.Text("celery.task_name", one.Task),
		tracing.Text("messaging.system", "celery"),
		tracing.Text("messaging.operation.type", "process"),
		tracing.Text("messaging.destination.name", one.Queue),
		tracing.Text("messaging.message.id", one.ID),
		tracing.Number(attributeRetries, int64(one.Retries)),
	)
	if one.PeriodicTask != "" {
		one.span.Set(tracing.Text(celery.AttributePeriodicTask, one.PeriodicTask))
	}
}

// traceEnd says how a run has ended: with err, unless it is nil. The span itself
// ends when that is stored.
func (one *run) traceEnd(state celery.State, err error) {
	if one.span == nil {
		return
	}
	one.span.Set(tracing.Text(attributeState, string(state)))
	if err != nil {
		one.span.Fail(errorType(err))
	}
}

// traceUnfit says what became of a delivery that was not run. One that is to
// come again has no span yet.
func (one *run) traceUnfit(why string) {
	if one.span == nil {
		return
	}
	switch why {
	case "parked", "passed":
		one.span.Discard()
	case "revoked", "expired":
		one.span.Set(tracing.Text(attributeState, string(celery.Revoked)))
	default:
		one.span.Set(tracing.Text(attributeState, string(celery.Failure)))
		one.span.Fail(why)
	}
}

// errorType is one word for an error, whose text may hold anything.
func errorType(err error) string {
	_, panicked := errors.AsType[*panicError](err)
	_, later := errors.AsType[*RetryAfter](err)
	switch {
	case errors.Is(err, ErrSoftTimeLimit):
		return "SoftTimeLimitExceeded"
	case errors.Is(err, ErrTimeLimit):
		return "TimeLimitExceeded"
	case panicked:
		return "panic"
	case IsPermanent(err):
		return "permanent"
	case later:
		return "retry_after"
	}
	return "_OTHER" // as semantic conventions call what has no name
}

// traceChildren has the calls that a run makes follow from it: one span for all,
// as they are sent together.
func (r *Runner) traceChildren(one *run, children []celery.Signature) *tracing.Span {
	if len(children) == 0 {
		return nil
	}
	next, span := r.c.Tracer.Start(one.trace, tracing.Producer, celery.SpanEnqueue+children[0].Task)
	for i := range children {
		children[i].Trace = next
	}
	if span != nil {
		celery.DescribeEnqueue(span, &children[0])
		span.Set(tracing.Number("messaging.batch.message_count", int64(len(children))))
	}
	return span
}
