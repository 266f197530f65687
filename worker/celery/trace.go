package celery

import (
	"encoding/json"

	"github.com/weir-dev/weir/tracing"
)

// traceHeaders are W3C Trace Context as OpenTelemetry's instrumentation of
// Celery puts it into a message: headers beside Celery's own, which Celery
// passes over. Retries of ours keep them; of a Python worker's that instrumentation
// writes them anew.
type traceHeaders struct {
	Parent optionalText `json:"traceparent,omitempty"`
	State  optionalText `json:"tracestate,omitempty"`
}

// optionalText is a string or nothing: a trace is no reason to refuse a message.
type optionalText string

func (o *optionalText) UnmarshalJSON(raw []byte) error {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		*o = optionalText(text)
	}
	return nil
}

func (h *traceHeaders) context() tracing.Context {
	return tracing.Parse(string(h.Parent), string(h.State))
}

func writeTrace(c tracing.Context) traceHeaders {
	if !c.Valid() {
		return traceHeaders{}
	}
	return traceHeaders{Parent: optionalText(c.Parent()), State: optionalText(c.State)}
}

// SpanEnqueue begins the name of the span of an enqueued call; with the
// attributes of DescribeEnqueue it is as OpenTelemetry's instrumentation of
// Celery has it.
const SpanEnqueue = "apply_async/"

// AttributePeriodicTask is "namespace/name" of the resource that a call goes
// back to.
const AttributePeriodicTask = "weir.periodic_task"

// DescribeEnqueue says what is enqueued; arguments are nobody else's affair.
func DescribeEnqueue(span *tracing.Span, call *Signature) {
	span.Set(
		tracing.Text("celery.action", "apply_async"),
		tracing.Text("celery.task_name", call.Task),
		tracing.Text("messaging.system", "celery"),
		tracing.Text("messaging.operation.type", "send"),
		tracing.Text("messaging.destination.name", call.Queue),
	)
	if call.PeriodicTask != "" {
		span.Set(tracing.Text(AttributePeriodicTask, call.PeriodicTask))
	}
}
