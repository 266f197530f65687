package proxy

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/collector"
	"github.com/weir-dev/weir/tracing"
)

const (
	parentTrace = "0af7651916cd43dd8448eb211c80319c"
	parentSpan  = "b7ad6b7169203331"
	recordedBy  = "00-" + parentTrace + "-" + parentSpan + "-01"
	leftOutBy   = "00-" + parentTrace + "-" + parentSpan + "-00"
)

// traced has the proxy record a ratio of what begins there. flush sends what was
// recorded; nothing is recorded after it.
func (h *house) traced(ratio float64) (to *collector.Collector, flush func()) {
	h.t.Helper()
	to = collector.Start(h.t)
	endpoint, err := tracing.TracesURL(to.URL)
	if err != nil {
		h.t.Fatal(err)
	}
	tracer, err := tracing.New(tracing.Options{
		Endpoint: endpoint, Ratio: ratio, Logger: slog.New(slog.DiscardHandler),
		Metrics: tracing.NewMetrics(prometheus.NewRegistry(), "test"),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.proxy.Trace(tracer)
	flush = func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		tracer.Shutdown(ctx)
	}
	h.t.Cleanup(flush)
	return to, flush
}

func wantAttributes(t *testing.T, got map[string]any, want map[string]any) {
	t.Helper()
	for key, value := range want {
		if got[key] != value {
			t.Errorf("attribute %s is %v, want %v; of %v", key, got[key], value, got)
		}
	}
}

// arrived is what the upstream got of a request.
type arrived struct {
	parents, states []string
	length          int
}

func recorder(t *testing.T, status int) (net.Addr, chan arrived) {
	got := make(chan arrived, 16)
	return application(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- arrived{r.Header.Values("Traceparent"), r.Header.Values("Tracestate"), len(body)}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "ok")
	}), got
}

func TestARecordedRequestIsASpanBetweenCallerAndCalled(t *testing.T) {
	t.Parallel()
	for _, direction := range []ruleset.Direction{ruleset.Inbound, ruleset.Outbound} {
		t.Run(string(direction), func(t *testing.T) {
			t.Parallel()
			versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
				upstream, got := recorder(t, 200)
				policy := basic("p", func(p *ruleset.Policy) {
					p.Direction, p.Hosts = direction, []string{"app"}
					p.Limits = []ruleset.Limit{{Requests: 3, WindowMillis: minute}}
				})
				h := serve(t, direction, upstream, policy)
				to, _ := h.traced(0)
				r := ask(t, http.MethodPost, "http://app/secret/path?token=s3cret", strings.NewReader("body"),
					"X-User-ID", "alice", "Authorization", "Bearer s3cret", "traceparent", recordedBy, "tracestate", "vendor=1")
				if response, _ := do(t, h.client(protocols), r); response.StatusCode != 200 {
					t.Fatalf("status %d, want 200", response.StatusCode)
				}
				span := to.Wait(1)[0]
				kind := map[ruleset.Direction]int{ruleset.Inbound: 2, ruleset.Outbound: 3}[direction]
				if span.TraceID != parentTrace || span.ParentID != parentSpan || span.State != "vendor=1" || int(span.Kind) != kind || span.Failed {
					t.Errorf("got %+v, want kind %d and the caller's trace", span, kind)
				}
				forwarded := <-got
				want := "00-" + parentTrace + "-" + span.SpanID + "-01"
				if fmt.Sprint(forwarded) != fmt.Sprint(arrived{[]string{want}, []string{"vendor=1"}, 4}) {
					t.Errorf("forwarded %+v, want the parent %s, the state and the body", forwarded, want)
				}
				wantAttributes(t, span.Attributes, map[string]any{
					"http.request.method": "POST", "http.response.status_code": int64(200), "server.address": "app",
					"weir.policy": "ns/p", "weir.service": "p", "weir.decision": "admitted", "weir.remembered": false,
					"weir.limit.requests": int64(3), "weir.limit.window_ms": int64(60_000), "weir.limit.remaining": int64(2),
				})
				for _, secret := range []string{"s3cret", "alice", "secret/path", "X-User-ID"} {
					if strings.Contains(to.Raw(), secret) {
						t.Errorf("%q was sent to the collector", secret)
					}
				}
			})
		})
	}
}

// What is not recorded passes byte for byte.
func TestRequestsThatAreNotRecordedAreForwardedAsTheyCame(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, fields string
		ratio          float64
	}{
		{"nobody traces", "", 0},
		{"the caller does not record", "traceparent: " + leftOutBy + "\r\nTraceState: a=1\r\n", 1},
		{"the parent is malformed, and the ratio none", "traceparent: 00-x\r\n", 0},
		{"there are two parents, and the ratio is none", "traceparent: " + recordedBy + "\r\ntraceparent: " + recordedBy + "\r\n", 0},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			request := "GET /x HTTP/1.1\r\nHost: app\r\nx-user-id:  alice \r\n" + c.fields + "Connection: close\r\n\r\n"
			got := make(chan string, 1)
			upstream := rawServer(t, func(conn *net.TCPConn) {
				b := make([]byte, len(request))
				_, _ = io.ReadFull(conn, b)
				got <- string(b)
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			})
			h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(nil)))
			to, flush := h.traced(c.ratio)
			if answer := h.raw(request); !strings.HasPrefix(answer, "HTTP/1.1 204") {
				t.Fatalf("got %q", answer)
			}
			if forwarded := <-got; forwarded != request {
				t.Errorf("forwarded %q, want %q", forwarded, request)
			}
			flush()
			if spans := to.Spans(); len(spans) != 0 {
				t.Errorf("recorded %+v", spans)
			}
		})
	}
}

// All other bytes stay as they were: the parent is the last field.
func TestARecordedHeadChangesInItsParentAlone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, before, after string }{
		{"a parent", "TraceParent:" + recordedBy + "\r\ntracestate: a=1\r\n", "tracestate: a=1\r\n"},
		{"no parent", "", ""},
		{"no parent, and a state of nobody's", "tracestate: a=1\r\n", ""},
		{"several parents", "traceparent: " + recordedBy + "\r\ntraceparent: " + recordedBy + "\r\n", ""},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			const first, last = "GET /x HTTP/1.1\r\nHost: app\r\nx-user-id:  alice \r\n", "Connection: close\r\n"
			got := make(chan string, 1)
			upstream := rawServer(t, func(conn *net.TCPConn) {
				var head strings.Builder
				for b := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
					if _, err := conn.Read(b); err != nil {
						break
					}
					head.Write(b)
				}
				got <- head.String()
				_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			})
			h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(nil)))
			to, _ := h.traced(1)
			h.raw(first + c.before + last + "\r\n")
			span := to.Wait(1)[0]
			flags := "01"
			if span.TraceID != parentTrace {
				flags = "03" // we chose it at random
			}
			want := first + c.after + last + "traceparent: 00-" + span.TraceID + "-" + span.SpanID + "-" + flags + "\r\n\r\n"
			if forwarded := <-got; forwarded != want {
				t.Errorf("forwarded %q, want %q", forwarded, want)
			}
		})
	}
}

func TestRefusalsAreRecorded(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		upstream, _ := recorder(t, 200)
		wide := basic("wide", func(p *ruleset.Policy) { p.Limits[0].Requests = 100 })
		tight := basic("tight", func(p *ruleset.Policy) { p.Limits[0].Requests = 1 })
		watched := basic("watched", func(p *ruleset.Policy) { p.Observe, p.Limits[0].Requests = true, 1 })
		h := serve(t, ruleset.Outbound, upstream, tight, watched, wide)
		client := h.client(protocols)
		to, _ := h.traced(0)
		for _, want := range []int{200, 429} {
			r := ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "alice", "traceparent", recordedBy)
			if response, _ := do(t, client, r); response.StatusCode != want {
				t.Fatalf("status %d, want %d", response.StatusCode, want)
			}
		}
		spans := to.Wait(2)
		admitted, refused := spans[0], spans[1]
		if len(admitted.Events) != 3 {
			t.Errorf("events %+v, want one for each policy", admitted.Events)
		}
		for _, e := range admitted.Events {
			wantAttributes(t, e.Attributes, map[string]any{"weir.decision": "admitted"})
		}
		wantAttributes(t, admitted.Attributes, map[string]any{"weir.policy": "ns/tight", "weir.limit.remaining": int64(0)})
		if !refused.Failed {
			t.Error("a call that is refused is no error, to a client it should be")
		}
		wantAttributes(t, refused.Attributes, map[string]any{
			"weir.policy": "ns/tight", "weir.decision": "limited", "http.response.status_code": int64(429), "error.type": "429",
			"weir.limit.requests": int64(1), "weir.limit.remaining": int64(0),
		})
		if after, _ := refused.Attributes["weir.retry_after_ms"].(int64); after < 1 || after > 60_000 {
			t.Errorf("the next slot is in %d ms, want it within the window", after)
		}
	})
}

func TestTheTimeThatARequestWaitsIsAPartOfItsSpan(t *testing.T) {
	t.Parallel()
	upstream, _ := recorder(t, 200)
	policy := holding("p", 1, minute, nil)
	policy.Limits[0].WindowMillis = 300
	h := serve(t, ruleset.Inbound, upstream, policy)
	to, _ := h.traced(0)
	client := h.client(http1)
	for range 2 {
		do(t, client, ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "alice", "traceparent", recordedBy))
	}
	var wait, whole collector.Span
	for _, span := range to.Wait(3) {
		if span.Name == "wait" {
			wait = span
		}
	}
	for _, span := range to.Spans() {
		if span.SpanID == wait.ParentID {
			whole = span
		}
	}
	wantAttributes(t, wait.Attributes, map[string]any{"weir.policy": "ns/p", "weir.service": "p", "weir.ending": "forwarded"})
	wantAttributes(t, whole.Attributes, map[string]any{"weir.decision": "admitted"})
	if wait.End.Sub(wait.Start) < 50*time.Millisecond || wait.Start.Before(whole.Start) || wait.End.After(whole.End) {
		t.Errorf("waited from %v to %v within %v to %v", wait.Start, wait.End, whole.Start, whole.End)
	}
}

func TestRequestsWithoutAnAnswerAreRecordedAsFailed(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		for _, c := range []struct {
			reason string
			handle func(http.ResponseWriter)
			want   map[string]any
		}{
			{"the application fails", func(w http.ResponseWriter) { w.WriteHeader(503) }, map[string]any{"error.type": "503", "http.response.status_code": int64(503)}},
			{"the connection is lost", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, map[string]any{}},
		} {
			upstream := application(t, func(w http.ResponseWriter, _ *http.Request) { c.handle(w) })
			h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(nil)))
			to, _ := h.traced(1)
			if response, err := h.client(protocols).Do(ask(t, http.MethodPost, "http://app/", nil, "X-User-ID", "alice")); err == nil {
				_ = response.Body.Close()
			}
			span := to.Wait(1)[0]
			wantAttributes(t, span.Attributes, c.want)
			if !span.Failed || span.Attributes["error.type"] == nil {
				t.Errorf("%s: got %+v, want an error", c.reason, span)
			}
		}
	})
}

func TestNoPolicyNoSpan(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		upstream, got := recorder(t, 200)
		h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(func(p *ruleset.Policy) {
			p.Match = []ruleset.Match{{Methods: []string{"POST"}}}
		})))
		to, flush := h.traced(1)
		client := h.client(protocols)
		for _, url := range []string{"http://app/", "http://app/healthz?full=1"} {
			do(t, client, ask(t, http.MethodGet, url, nil, "traceparent", recordedBy))
			if forwarded := <-got; len(forwarded.parents) != 1 || forwarded.parents[0] != recordedBy {
				t.Errorf("forwarded %+v, want the caller's", forwarded)
			}
		}
		flush()
		if spans := to.Spans(); len(spans) != 0 {
			t.Errorf("recorded %+v", spans)
		}
	})
}

// A collector that does not answer holds no request up.
func TestACollectorThatIsAwayHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	upstream, got := recorder(t, 200)
	h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = 1_000_000 })))
	to, _ := h.traced(1)
	release := make(chan struct{})
	defer close(release)
	to.Answer(func(http.ResponseWriter, *http.Request) { <-release })
	client := h.client(http1)
	parents := 0
	for range 3000 { // more than the queue and a batch hold
		response, _ := do(t, client, ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "alice"))
		if response.StatusCode != 200 {
			t.Fatalf("status %d, want 200", response.StatusCode)
		}
		parents += len((<-got).parents)
	}
	if parents == 0 || parents == 3000 {
		t.Errorf("%d of 3000 requests were recorded, want those that the queue holds", parents)
	}
	if to.Posts() == 0 {
		t.Error("nothing was sent to the collector, so nothing was shown")
	}
}

// Not parallel, as what others allocate counts. Off, it costs a look at a
// pointer; on, a request that is not recorded allocates nothing either.
func TestRequestsThatAreNotRecordedAllocateNothing(t *testing.T) {
	policy := basic("p", inbound(nil))
	p := New(Config{Taker: &admitting{decision: limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: policy.Limits[0]}}}}})
	if err := p.Apply(&ruleset.Ruleset{Namespace: "ns", Policies: []ruleset.Policy{policy}}); err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, proxy: p}
	ctx := t.Context()
	for _, c := range []struct {
		reason string
		parent string
		on     bool
	}{
		{"no traces", recordedBy, false},
		{"the caller does not record", leftOutBy, true},
		{"no caller, and the ratio is none", "", true},
	} {
		h.proxy.Trace(nil)
		if c.on {
			h.traced(0)
		}
		s := &session{seen: request{method: "GET", host: "app", path: "/", fields: []field{
			{"X-User-ID", "alice"}, {"traceparent", c.parent}, {"tracestate", "a=1"},
		}}}
		if allocated := testing.AllocsPerRun(100, func() {
			if refused, err := s.admit(ctx, p, ruleset.Inbound, &s.seen, s); refused != nil || err != nil {
				t.Fatal(refused, err)
			}
		}); allocated != 0 {
			t.Errorf("%s: %v allocations, want none", c.reason, allocated)
		}
		if s.span != nil {
			t.Errorf("%s: recorded", c.reason)
		}
	}
}

// BenchmarkAdmit is what tracing costs beside a decision that costs nothing.
func BenchmarkAdmit(b *testing.B) {
	policy := basic("p", inbound(nil))
	p := New(Config{Taker: &admitting{decision: limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: policy.Limits[0]}}}}})
	if err := p.Apply(&ruleset.Ruleset{Namespace: "ns", Policies: []ruleset.Policy{policy}}); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, parent string }{{"off", recordedBy}, {"not_recorded", leftOutBy}, {"recorded", recordedBy}} {
		b.Run(c.name, func(b *testing.B) {
			h := &house{t: b, proxy: p}
			p.Trace(nil)
			if c.name != "off" {
				h.traced(0)
			}
			s := &session{seen: request{method: "GET", host: "app", path: "/", fields: []field{{"X-User-ID", "alice"}, {"traceparent", c.parent}}}}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.admit(b.Context(), p, ruleset.Inbound, &s.seen, s); err != nil {
					b.Fatal(err)
				}
				s.span.Discard()
			}
		})
	}
}
