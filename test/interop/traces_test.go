package interop

import (
	"fmt"
	"testing"

	"github.com/weir-dev/weir/test/collector"
	"github.com/weir-dev/weir/test/redistest"
)

// Headers of W3C Trace Context are where OpenTelemetry's instrumentation of
// Celery puts and looks for them: attributes of the request, in Python.

func TestATraceGoesFromOurEnqueuingToPython(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	to := collector.Start(t)
	code, out := command(t, []string{
		"CELERY_BROKER_URL=" + redis.URL(), "WEIR_JOB_NAME=nightly-1", "OTEL_EXPORTER_OTLP_ENDPOINT=" + to.URL,
	}, "enqueue", "--periodic-task", "team/nightly", "--uid", "uid-1", "--task", "traced")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	span := to.Wait(1)[0]
	python := newCaller(t, redis.URL())
	celeryWorker(t, redis.URL(), nil)
	got := value[map[string]any](python, fmt.Sprintf(`get(%q)`, occurrence("nightly-1")))
	if want := "00-" + span.TraceID + "-" + span.SpanID + "-03"; got["traceparent"] != want {
		t.Errorf("Python runs it with %v, want the traceparent %s", got, want)
	}
}

func TestATraceGoesFromPythonToOurRun(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	to := collector.Start(t)
	p := startProcess(t, "the worker", nil, nil,
		[]string{"CELERY_BROKER_URL=" + redis.URL(), "OTEL_EXPORTER_OTLP_ENDPOINT=" + to.URL}, workerBinary, "run", "--metrics-address", "0")
	p.says("taking tasks")
	python := newCaller(t, redis.URL())
	celeryWorker(t, redis.URL(), nil, "--queues", "python")
	const traceID, spanID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	headers := fmt.Sprintf(`{"traceparent": "00-%s-%s-01", "tracestate": "vendor=1"}`, traceID, spanID)
	got := value[echo](python, fmt.Sprintf(`get(app.send_task("debug_task", args=[1], headers=%s).id)`, headers))
	theirs := value[map[string]any](python, fmt.Sprintf(`get(app.send_task("traced", queue="python", headers=%s).id)`, headers))
	if theirs["traceparent"] != "00-"+traceID+"-"+spanID+"-01" || theirs["tracestate"] != "vendor=1" {
		t.Errorf("Python itself runs it with %v, so headers that it sends are elsewhere", theirs)
	}
	span := to.Wait(1)[0]
	if span.TraceID != traceID || span.ParentID != spanID || span.State != "vendor=1" || span.Attributes["messaging.message.id"] != got.ID {
		t.Errorf("got %+v of call %s, want it to follow from Python's", span, got.ID)
	}
}
