package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/collector"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
)

// The command reads its environment, so these tests set it and are not parallel.

func TestEnqueuingIsTraced(t *testing.T) {
	server := redistest.Start(t)
	to := collector.Start(t)
	t.Setenv("CELERY_BROKER_URL", server.URL())
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", to.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret")
	run := func(job string) (said string) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		began := time.Now()
		line := "enqueue --task=t --queue=q --args=[\"s3cret\"] --periodic-task=ns/name --uid=uid --job=" + job
		if code := command(strings.Fields(line), &stdout, &stderr); code != exitOK {
			t.Fatalf("exit code %d: %s", code, stderr.String())
		}
		if took := time.Since(began); took > 2*lastSpans {
			t.Errorf("took %v", took)
		}
		return stderr.String()
	}
	// parent is the traceparent of the message that was enqueued last.
	parent := func() string {
		t.Helper()
		var message struct{ Headers map[string]any }
		if err := json.Unmarshal([]byte(server.Client().LIndex(t.Context(), "q", 0).Val()), &message); err != nil {
			t.Fatal(err)
		}
		text, _ := message.Headers["traceparent"].(string)
		return text
	}
	run("job-1")
	span := to.Wait(1)[0]
	if span.Name != "apply_async/t" || span.Kind != 4 || span.Failed || span.Resource["service.name"] != "weir-worker" {
		t.Errorf("got %+v", span)
	}
	for key, want := range map[string]any{
		"celery.task_name": "t", "messaging.destination.name": "q", "messaging.message.id": celery.OccurrenceID("uid", "job-1", ""),
		"weir.periodic_task": "ns/name", "weir.enqueued": "enqueued",
	} {
		if span.Attributes[key] != want {
			t.Errorf("%s is %v, want %v", key, span.Attributes[key], want)
		}
	}
	if want := "00-" + span.TraceID + "-" + span.SpanID + "-03"; parent() != want {
		t.Errorf("the message's traceparent is %q, want %s", parent(), want)
	}
	if strings.Contains(to.Raw(), "s3cret") {
		t.Error("the arguments were sent to the collector")
	}

	t.Setenv("OTEL_TRACES_SAMPLER", "always_off")
	run("job-2")
	if got := tracing.Parse(parent(), ""); !got.Valid() || got.Sampled() {
		t.Errorf("what is not recorded goes on as %q, want that to say so", parent())
	}

	t.Setenv("OTEL_TRACES_SAMPLER", "s3cret")
	if said := run("job-3"); !strings.Contains(said, "OTEL_TRACES_SAMPLER") {
		t.Errorf("says %q of a sampler that is none, want its variable", said)
	}
	t.Setenv("OTEL_TRACES_SAMPLER", "")
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1") // nobody
	if said := run("job-4"); !strings.Contains(said, "spans are lost") || strings.Contains(said, "s3cret") {
		t.Errorf("says %q of a collector that is away", said)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "")
	run("job-5")
	if got := parent(); got != "" {
		t.Errorf("without traces the message has the traceparent %q", got)
	}
	if waiting := server.Client().LLen(t.Context(), "q").Val(); waiting != 5 {
		t.Errorf("%d messages wait, want all 5: traces are no reason to enqueue nothing", waiting)
	}
	to.Wait(1)
}
