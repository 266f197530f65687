// Package collector receives spans for tests as an OpenTelemetry collector
// does: OTLP over HTTP, in protobuf.
package collector

import (
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	otlp "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span that was received. Attributes are strings, int64s and bools.
type Span struct {
	TraceID, SpanID, ParentID string
	State                     string
	Name                      string
	Kind                      trace.Span_SpanKind
	Remote                    bool // its parent is another process'
	Start, End                time.Time
	Attributes, Resource      map[string]any
	Events                    []Event
	Failed                    bool
}

// Event of a span.
type Event struct {
	Name       string
	Attributes map[string]any
}

// Collector keeps what it receives.
type Collector struct {
	// URL is the base that exporters are given.
	URL string

	t  testing.TB
	mu sync.Mutex
	// answer, when set, answers instead.
	answer http.HandlerFunc
	spans  []Span
	raw    []byte
	posts  int
}

// Start serves until the test ends.
func Start(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{t: t}
	server := httptest.NewServer(c)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	c.URL = server.URL
	return c
}

// Answer has every later post answered so, and its spans forgotten; nil: as
// before.
func (c *Collector) Answer(answer http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answer = answer
}

func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.posts++
	answer := c.answer
	c.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the exporter has ended
	}
	request := &otlp.ExportTraceServiceRequest{}
	switch err := proto.Unmarshal(body, request); {
	case r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf":
		c.t.Errorf("got %s %s of %s: OTLP has POST /v1/traces of application/x-protobuf", r.Method, r.URL.Path, r.Header.Get("Content-Type"))
		w.WriteHeader(http.StatusNotFound)
		return
	case err != nil:
		c.t.Errorf("got what is no ExportTraceServiceRequest: %v", err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if answer != nil {
		answer(w, r)
		return
	}
	c.mu.Lock()
	c.keep(request)
	c.raw = append(c.raw, body...)
	c.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-protobuf")
}

func (c *Collector) keep(request *otlp.ExportTraceServiceRequest) {
	for _, from := range request.GetResourceSpans() {
		resource := read(from.GetResource().GetAttributes())
		for _, scope := range from.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				one := Span{
					TraceID: hex.EncodeToString(s.GetTraceId()), SpanID: hex.EncodeToString(s.GetSpanId()),
					ParentID: hex.EncodeToString(s.GetParentSpanId()), State: s.GetTraceState(), Name: s.GetName(), Kind: s.GetKind(),
					Remote: s.GetFlags()&uint32(trace.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK) != 0,
					Start:  time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
					Attributes: read(s.GetAttributes()), Resource: resource,
					Failed: s.GetStatus().GetCode() == trace.Status_STATUS_CODE_ERROR,
				}
				for _, e := range s.GetEvents() {
					one.Events = append(one.Events, Event{e.GetName(), read(e.GetAttributes())})
				}
				c.spans = append(c.spans, one)
			}
		}
	}
}

func read(attributes []*common.KeyValue) map[string]any {
	values := map[string]any{}
	for _, a := range attributes {
		switch value := a.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			values[a.GetKey()] = value.StringValue
		case *common.AnyValue_IntValue:
			values[a.GetKey()] = value.IntValue
		case *common.AnyValue_BoolValue:
			values[a.GetKey()] = value.BoolValue
		}
	}
	return values
}

// Spans received so far.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Span(nil), c.spans...)
}

// Raw is everything that was received, as it came.
func (c *Collector) Raw() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.raw)
}

// Posts counts the requests so far.
func (c *Collector) Posts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.posts
}

// patience bounds every wait; exporters gather spans for 5 s.
const patience = 30 * time.Second

// Wait waits until n spans have come, and fails when there are others.
func (c *Collector) Wait(n int) []Span {
	c.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		spans := c.Spans()
		if len(spans) == n {
			return spans
		}
		if len(spans) > n || time.Now().After(deadline) {
			c.t.Fatalf("%d spans have come, want %d: %+v", len(spans), n, spans)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
