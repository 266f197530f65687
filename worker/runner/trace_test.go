package runner

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/test/collector"
	"github.com/weir-dev/weir/tracing"
	"github.com/weir-dev/weir/worker/celery"
)

const (
	enqueuedIn = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceID    = "0af7651916cd43dd8448eb211c80319c"
	enqueuedBy = "b7ad6b7169203331"
)

// traced has a worker record the runs of recorded traces, and others by ratio.
func traced(t *testing.T, ratio float64) (to *collector.Collector, change func(*Config), flush func()) {
	t.Helper()
	to = collector.Start(t)
	endpoint, err := tracing.TracesURL(to.URL)
	if err != nil {
		t.Fatal(err)
	}
	tracer, err := tracing.New(tracing.Options{
		Endpoint: endpoint, Ratio: ratio, Logger: slog.New(slog.DiscardHandler),
		Metrics: tracing.NewMetrics(prometheus.NewRegistry(), "test"),
	})
	if err != nil {
		t.Fatal(err)
	}
	flush = func() {
		ctx, cancel := context.WithTimeout(context.Background(), waitTime)
		defer cancel()
		tracer.Shutdown(ctx)
	}
	t.Cleanup(flush)
	return to, func(c *Config) { c.Tracer = tracer }, flush
}

func byName(t *testing.T, spans []collector.Span, name string) (found []collector.Span) {
	t.Helper()
	for _, span := range spans {
		if span.Name == name {
			found = append(found, span)
		}
	}
	if len(found) == 0 {
		t.Fatalf("there is no span %s among %+v", name, spans)
	}
	return found
}

func TestATraceGoesFromEnqueueOverTriesAndChildrenToTheResults(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	to, change, flush := traced(t, 0)
	called := make(chan tracing.Context, 4)
	w := s.start(Registry{
		"parent": func(ctx context.Context, c *Call) (any, error) {
			called <- tracing.FromContext(ctx)
			if c.Retries == 0 {
				return nil, errors.New("the password is s3cret")
			}
			_, err := c.Enqueue(ctx, Child{Key: "a", Signature: celery.Signature{Task: "child"}}, Child{Key: "b", Signature: celery.Signature{Task: "child"}})
			return "done", err
		},
		"child": func(context.Context, *Call) (any, error) { return nil, Permanent(errors.New("s3cret")) },
	}, change)
	s.send(celery.Signature{
		ID: "p", Task: "parent", Args: []any{"s3cret"}, PeriodicTask: "ns/hourly", Trace: tracing.Parse(enqueuedIn, "vendor=1"),
	})
	s.waitResult("p", celery.Success)
	for _, key := range []string{"a", "b"} {
		s.waitResult(celery.DeriveID("p", key), celery.Failure)
	}
	s.waitNothingHeld()
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	flush()
	spans := to.Wait(5) // two tries, the sending, two children
	for _, span := range spans {
		if span.TraceID != traceID || span.State != "vendor=1" {
			t.Errorf("%s is of another trace: %+v", span.Name, span)
		}
	}
	tries := byName(t, spans, "run/parent")
	for i, span := range tries {
		want := map[string]any{
			"celery.action": "run", "celery.task_name": "parent", "celery.retries": int64(i), "celery.state": "RETRY",
			"messaging.system": "celery", "messaging.destination.name": "q", "messaging.message.id": "p",
			"messaging.operation.type": "process", "weir.periodic_task": "ns/hourly", "weir.outcome": "retried", "error.type": "_OTHER",
		}
		if i == 1 {
			want["celery.state"], want["weir.outcome"], want["error.type"] = "SUCCESS", nil, nil
		}
		for key, value := range want {
			if span.Attributes[key] != value {
				t.Errorf("try %d: %s is %v, want %v", i, key, span.Attributes[key], value)
			}
		}
		if span.ParentID != enqueuedBy || span.Kind != 5 || span.Failed != (i == 0) || !span.Remote {
			t.Errorf("try %d: got %+v, want it to follow from the enqueuing", i, span)
		}
		if in := <-called; in.Parent() != "00-"+traceID+"-"+span.SpanID+"-01" {
			t.Errorf("try %d: the task runs in %s, want its span %s", i, in.Parent(), span.SpanID)
		}
	}
	sending := byName(t, spans, "apply_async/child")[0]
	if sending.ParentID != tries[1].SpanID || sending.Kind != 4 || sending.Attributes["messaging.batch.message_count"] != int64(2) {
		t.Errorf("got the sending %+v, want it to follow from %s", sending, tries[1].SpanID)
	}
	for _, child := range byName(t, spans, "run/child") {
		if child.ParentID != sending.SpanID || child.Attributes["celery.state"] != "FAILURE" || child.Attributes["error.type"] != "permanent" || !child.Failed {
			t.Errorf("got the child %+v, want it to follow from %s", child, sending.SpanID)
		}
	}
	if strings.Contains(to.Raw(), "s3cret") {
		t.Error("an error's text, or an argument, was sent to the collector")
	}
}

func TestWhatIsNotRunIsRecordedToo(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	to, change, flush := traced(t, 0)
	w := s.start(Registry{"t": func(context.Context, *Call) (any, error) { return nil, nil }}, change)
	from := tracing.Parse(enqueuedIn, "")
	s.send(celery.Signature{ID: "late", Task: "t", Expires: time.Now().Add(-time.Minute), Trace: from})
	s.send(celery.Signature{ID: "parked", Task: "t", ETA: time.Now().Add(time.Hour), Trace: from})
	s.waitResult("late", celery.Revoked)
	s.wait("the other to be parked", func() bool {
		return s.redis.HLen(t.Context(), "unacked").Val() == 1 && s.redis.ZCard(t.Context(), "weir.running").Val() == 0
	})
	if err := w.end(); err != nil {
		t.Fatal(err)
	}
	flush()
	span := to.Wait(1)[0]
	if span.Attributes["celery.state"] != "REVOKED" || span.Attributes["weir.outcome"] != "expired" || span.Attributes["messaging.message.id"] != "late" {
		t.Errorf("got %+v, want the one that expired", span)
	}
}

func TestRunsThatAreNotRecordedPassTheirTraceOn(t *testing.T) {
	t.Parallel()
	leftOut := strings.TrimSuffix(enqueuedIn, "01") + "00"
	for _, c := range []struct {
		reason, parent string
		tracing        bool
		sampled        bool // what the child's message says; there is none without a parent
	}{
		{"who enqueued does not record", leftOut, true, false},
		{"no traces here", enqueuedIn, false, true},
		{"no traces here, and none there", "", false, false},
	} {
		s := newStand(t)
		to, change, flush := traced(t, 1)
		if !c.tracing {
			change = func(*Config) {}
		}
		seen := make(chan tracing.Context, 1)
		s.start(Registry{
			"parent": func(ctx context.Context, call *Call) (any, error) {
				return call.Enqueue(ctx, Child{Key: "a", Signature: celery.Signature{Task: "child"}})
			},
			"child": func(ctx context.Context, _ *Call) (any, error) { seen <- tracing.FromContext(ctx); return nil, nil },
		}, change)
		s.send(celery.Signature{ID: "p", Task: "parent", Trace: tracing.Parse(c.parent, "")})
		if got := <-seen; got.Parent() != c.parent || got.Sampled() != c.sampled {
			t.Errorf("%s: the child follows from %q, want %q", c.reason, got.Parent(), c.parent)
		}
		s.waitNothingHeld()
		flush()
		if spans := to.Spans(); len(spans) > 0 {
			t.Errorf("%s: recorded %+v", c.reason, spans)
		}
	}
}
