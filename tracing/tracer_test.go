package tracing

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	otlp "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/weir-dev/weir/test/collector"
)

// stand is a Tracer and what it sends to.
type stand struct {
	*Tracer
	t       *testing.T
	to      *collector.Collector
	metrics *Metrics
	logs    *strings.Builder
}

func newStand(t *testing.T, change ...func(*Options)) *stand {
	t.Helper()
	s := &stand{t: t, to: collector.Start(t), metrics: NewMetrics(prometheus.NewRegistry(), "test"), logs: &strings.Builder{}}
	endpoint, err := TracesURL(s.to.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{
		Endpoint: endpoint, Ratio: 1, Metrics: s.metrics, Logger: slog.New(slog.NewTextHandler(s.logs, nil)),
		Resource: []Attribute{Text("service.name", "test")},
	}
	for _, apply := range change {
		apply(&o)
	}
	if s.Tracer, err = New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.end(0) })
	return s
}

// end waits for what is left.
func (s *stand) end(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.Shutdown(ctx)
}

func (s *stand) wantCounts(exported float64, dropped map[string]float64) {
	s.t.Helper()
	if got := testutil.ToFloat64(s.metrics.exported); got != exported {
		s.t.Errorf("%v spans count as exported, want %v", got, exported)
	}
	for _, reason := range []string{droppedFull, droppedUnreachable, droppedRefused, droppedEnded} {
		if got := testutil.ToFloat64(s.metrics.dropped.WithLabelValues(reason)); got != dropped[reason] {
			s.t.Errorf("%v spans count as dropped: %s, want %v", got, reason, dropped[reason])
		}
	}
}

func TestASpanReachesTheCollectorAsItWas(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	parent := Parse("00-"+traceHex+"-"+spanHex+"-01", "vendor=1")
	next, span := s.Start(parent, Server, "GET")
	span.Set(Text("text", "a"), Number("number", 7), Flag("flag", true))
	span.Set(Text("text", strings.Repeat("x", 1000)), Text("broken", "a\xffb"))
	span.Event("policy", Text("weir.policy", "ns/p"))
	span.Child("wait", time.Now().Add(-time.Second))
	span.Fail("502")
	span.Fail("connection_lost")
	span.End()
	span.Set(Number("late", 1))
	span.End()
	s.end(patience)
	spans := s.to.Wait(2)
	child, got := spans[0], spans[1]
	if got.TraceID != traceHex || got.ParentID != spanHex || got.State != "vendor=1" || !got.Remote {
		t.Errorf("got %+v, want the parent's trace", got)
	}
	if next.Parent() != "00-"+traceHex+"-"+got.SpanID+"-01" || next.State != "vendor=1" {
		t.Errorf("passes on %s and %s, want the span as the parent", next.Parent(), next.State)
	}
	if got.Name != "GET" || got.Kind != 2 || !got.Failed || got.End.Before(got.Start) || got.Resource["service.name"] != "test" {
		t.Errorf("got %+v", got)
	}
	for key, want := range map[string]any{
		"text": strings.Repeat("x", maxTextBytes), "number": int64(7), "flag": true, "broken": "a?b", "error.type": "502", "late": nil,
	} {
		if got.Attributes[key] != want {
			t.Errorf("attribute %s is %v, want %v", key, got.Attributes[key], want)
		}
	}
	if len(got.Events) != 1 || got.Events[0].Attributes["weir.policy"] != "ns/p" {
		t.Errorf("events %+v, want the policy's", got.Events)
	}
	if child.ParentID != got.SpanID || child.TraceID != traceHex || child.Kind != 1 || child.Remote || child.End.Sub(child.Start) < time.Second {
		t.Errorf("got the child %+v of %s", child, got.SpanID)
	}
	s.wantCounts(2, nil)
}

const patience = 10 * time.Second

func TestWhoDecidesOnRecording(t *testing.T) {
	t.Parallel()
	sampled := Parse("00-"+traceHex+"-"+spanHex+"-01", "")
	not := Parse("00-"+traceHex+"-"+spanHex+"-00", "")
	for _, c := range []struct {
		reason   string
		ratio    float64
		ignore   bool
		parent   Context
		recorded bool
	}{
		{"a parent that is recorded", 0, false, sampled, true},
		{"a parent that is not", 1, false, not, false},
		{"no parent, all", 1, false, Context{}, true},
		{"no parent, none", 0, false, Context{}, false},
		{"all, whatever the parent", 1, true, not, true},
		{"none, whatever the parent", 0, true, sampled, false},
	} {
		s := newStand(t, func(o *Options) { o.Ratio, o.IgnoreParent = c.ratio, c.ignore })
		next, span := s.Start(c.parent, Client, "x")
		if (span != nil) != c.recorded || next.Sampled() != c.recorded || !next.Valid() {
			t.Errorf("%s: got %v and %s, want it to be recorded: %v", c.reason, span != nil, next.Parent(), c.recorded)
		}
		if c.parent.Valid() && next.TraceID != c.parent.TraceID {
			t.Errorf("%s: passes on %s, want the same trace", c.reason, next.Parent())
		}
	}
	var none *Tracer
	if next, span := none.Start(not, Client, "x"); span != nil || next != not {
		t.Errorf("without a Tracer: got %v and %+v, want the parent", span, next)
	}
}

func TestRatioOfRootsIsRecorded(t *testing.T) {
	t.Parallel()
	s := newStand(t, func(o *Options) { o.Ratio = 0.25 })
	recorded := 0
	const roots = 4000 // of which 1000 are expected, with a deviation of 27
	for range roots {
		if _, span := s.Start(Context{}, Client, "x"); span != nil {
			recorded++
			span.Discard()
		}
	}
	if recorded < 850 || recorded > 1150 {
		t.Errorf("%d of %d are recorded, want about a quarter", recorded, roots)
	}
}

// Not parallel: what others allocate counts.
func TestWhatIsNotRecordedAllocatesNothing(t *testing.T) {
	s := newStand(t, func(o *Options) { o.Ratio = 0 })
	const parent = "00-" + traceHex + "-" + spanHex + "-00"
	for _, text := range []string{parent, ""} {
		if allocated := testing.AllocsPerRun(100, func() {
			if _, span := s.Start(Parse(text, "a=b"), Server, "GET"); span != nil {
				t.Fatal("recorded")
			}
		}); allocated != 0 {
			t.Errorf("parent %q: %v allocations, want none", text, allocated)
		}
	}
}

// A collector that is away holds nobody up: what finds no place is not recorded.
func TestAFullQueueRecordsNothing(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	release := make(chan struct{})
	defer close(release)
	s.to.Answer(func(http.ResponseWriter, *http.Request) { <-release })
	ended := 0
	for {
		next, span := s.Start(Context{}, Client, "x")
		if span == nil {
			if next.Sampled() {
				t.Error("what is not recorded is passed on as recorded")
			}
			break
		}
		span.End()
		if ended++; ended > 2*queueSpans+batchSpans {
			t.Fatalf("%d spans were recorded and not sent", ended)
		}
	}
	parent := Parse("00-"+traceHex+"-"+spanHex+"-01", "")
	if next, span := s.Start(parent, Client, "x"); span != nil || next != parent {
		t.Errorf("got %v and %+v, want the parent untouched", span, next)
	}
	s.wantCounts(0, map[string]float64{droppedFull: 2})
}

func TestWhatTheCollectorRefuses(t *testing.T) {
	t.Parallel()
	partly, err := proto.Marshal(&otlp.ExportTraceServiceResponse{PartialSuccess: &otlp.ExportTracePartialSuccess{RejectedSpans: 1}})
	if err != nil {
		t.Fatal(err)
	}
	asked := 0 // of the last case
	for _, c := range []struct {
		reason   string
		answer   http.HandlerFunc
		posts    int
		exported float64
		dropped  map[string]float64
	}{
		{"for good", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }, 1, 0, map[string]float64{droppedRefused: 2}},
		{"some", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(partly) }, 1, 1, map[string]float64{droppedRefused: 1}},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, 1, 0, map[string]float64{droppedRefused: 2}},
		{"once", func(w http.ResponseWriter, _ *http.Request) {
			if asked++; asked == 1 {
				w.Header().Set("Retry-After", "1")
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}, 2, 2, nil},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			s := newStand(t)
			s.to.Answer(c.answer)
			for range 2 {
				_, span := s.Start(Context{}, Client, "x")
				span.End()
			}
			deadline := time.Now().Add(2 * patience) // a batch is gathered for 5 s
			for s.to.Posts() < c.posts && time.Now().Before(deadline) {
				time.Sleep(5 * time.Millisecond)
			}
			s.end(patience)
			if got := s.to.Posts(); got != c.posts {
				t.Errorf("posted %d times, want %d", got, c.posts)
			}
			s.wantCounts(c.exported, c.dropped)
		})
	}
}

func TestAnUnreachableCollectorIsLoggedOnce(t *testing.T) {
	t.Parallel()
	s := newStand(t, func(o *Options) { o.Endpoint = "http://127.0.0.1:1/v1/traces" })
	_, span := s.Start(Context{}, Client, "x")
	span.End()
	_, late := s.Start(Context{}, Client, "x")
	s.end(patience) // tries once
	late.End()
	s.wantCounts(0, map[string]float64{droppedUnreachable: 1, droppedEnded: 1})
	if got := strings.Count(s.logs.String(), "spans are lost"); got != 1 {
		t.Errorf("said %d times that spans are lost, want once: %s", got, s.logs)
	}
}

func TestTheEndWaitsNoLongerThanItMay(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	release := make(chan struct{})
	defer close(release)
	s.to.Answer(func(http.ResponseWriter, *http.Request) { <-release })
	_, span := s.Start(Context{}, Client, "x")
	span.End()
	began := time.Now()
	s.end(50 * time.Millisecond)
	if took := time.Since(began); took > sendTimeout/2 {
		t.Errorf("took %v, want no more than was granted", took)
	}
	<-s.done
	s.wantCounts(0, map[string]float64{droppedUnreachable: 1})
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]string{
		"http://collector:4318":          "http://collector:4318/v1/traces",
		"https://collector.example/":     "https://collector.example/v1/traces",
		"https://collector.example/otlp": "https://collector.example/otlp/v1/traces",
	} {
		if got, err := TracesURL(base); got != want || err != nil {
			t.Errorf("%s: got %s and %v, want %s", base, got, err, want)
		}
	}
	for _, base := range []string{
		"", "collector:4318", "grpc://collector:4317", "http://", "http://:4318", "http://me:s3cret@collector", "http://collector?key=s3cret", "http://collector#x", "http://collector/%zz",
	} {
		if got, err := TracesURL(base); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %s and %v, want an error without secrets", base, got, err)
		}
	}
	if _, err := New(Options{Endpoint: "http://collector", Ratio: 1.5}); err == nil {
		t.Error("a ratio of 1.5 is accepted")
	}
}
