package tracing

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Options of a Tracer.
type Options struct {
	// Endpoint is the URL that spans are posted to: see TracesURL.
	Endpoint string
	// Header is sent along: credentials, say. Never logged.
	Header http.Header
	// Ratio of the traces that begin here is recorded, 0 to 1.
	Ratio float64
	// IgnoreParent has Ratio decide on all spans. Without, one whose parent comes
	// from elsewhere is recorded if that is.
	IgnoreParent bool
	// Resource says what the spans are of.
	Resource []Attribute
	// Metrics count what becomes of spans.
	Metrics *Metrics
	Logger  *slog.Logger
}

// Tracer records spans. Its methods may be called at the same time; a nil
// Tracer records none.
type Tracer struct {
	o Options
	// threshold: of the random part of a trace's id, 63 bits, those below are
	// recorded.
	threshold uint64
	exporter  exporter
	queue     chan *Span

	ending  sync.Once
	closing chan struct{} // closed when Shutdown begins
	done    chan struct{} // closed when nothing is sent any more
}

const (
	// queueSpans wait to be sent at most, of about a kilobyte each.
	queueSpans = 2048
	// batchSpans are sent at once.
	batchSpans = 512
	// batchDelay is how long the first of a batch waits for others.
	batchDelay = 5 * time.Second
)

// New makes a Tracer that sends what it records until Shutdown.
func New(o Options) (*Tracer, error) {
	if !(o.Ratio >= 0 && o.Ratio <= 1) {
		return nil, fmt.Errorf("the ratio of recorded traces is %v: want 0 to 1", o.Ratio)
	}
	if err := checkURL(o.Endpoint); err != nil {
		return nil, err
	}
	t := &Tracer{
		o: o, threshold: uint64(o.Ratio * math.MaxInt64), queue: make(chan *Span, queueSpans),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	if o.Ratio == 1 {
		t.threshold = math.MaxUint64
	}
	t.exporter = newExporter(&t.o, t.closing)
	go t.run()
	return t, nil
}

// TracesURL is where a collector takes spans: its base URL, http or https, with
// the path that OTLP gives them.
func TracesURL(base string) (string, error) {
	if err := checkURL(base); err != nil {
		return "", err
	}
	return strings.TrimSuffix(base, "/") + "/v1/traces", nil
}

// maxURLBytes bounds an endpoint.
const maxURLBytes = 2048

// checkURL refuses what no spans can be posted to. Its errors do not show the
// URL: it may hold a password, though it must not.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || len(text) > maxURLBytes, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return errors.New("it is not the URL of a collector, like http://collector:4318 or https://collector:4318")
	case u.User != nil:
		return errors.New("it has a user or a password, which everybody who sees the URL would know: leave them out")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("it has a query or a fragment: want only http:// or https://, host, port and path")
	}
	return nil
}

// Start begins a span. parent is what came with the request or the message, the
// zero Context if nothing did. It returns what to pass on, and the span: nil
// when it is not recorded, in which case parent itself is passed on if it decides, and
// otherwise a context that says so.
func (t *Tracer) Start(parent Context, kind Kind, name string) (Context, *Span) {
	if t == nil {
		return parent, nil
	}
	next := Context{TraceID: parent.TraceID, Flags: parent.Flags &^ flagSampled, State: parent.State}
	remote := parent.Valid()
	if !remote {
		next = Context{TraceID: newTraceID(), Flags: flagRandom}
	}
	sampled := parent.Sampled()
	if !remote || t.o.IgnoreParent {
		sampled = binary.BigEndian.Uint64(next.TraceID[8:])>>1 < t.threshold
	}
	if sampled && len(t.queue) == cap(t.queue) {
		t.o.Metrics.drop(droppedFull, 1)
		sampled = false
	}
	switch {
	case !sampled && remote && !t.o.IgnoreParent:
		return parent, nil
	case !sampled:
		next.SpanID = newSpanID()
		return next, nil
	}
	next.SpanID = newSpanID()
	next.Flags |= flagSampled
	next.State = strings.Clone(strings.ToValidUTF8(next.State, ""))
	return next, &Span{
		tracer: t, context: next, parent: parent.SpanID, remote: remote, kind: kind, start: time.Now(), name: name,
		attributes: make([]Attribute, 0, 12),
	}
}

// take queues a span that has ended.
func (t *Tracer) take(s *Span) {
	select {
	case <-t.closing:
		t.o.Metrics.drop(droppedEnded, 1)
		return
	default:
	}
	select {
	case t.queue <- s:
	default:
		t.o.Metrics.drop(droppedFull, 1)
	}
}

// run sends batches until Shutdown, and then what is left.
func (t *Tracer) run() {
	defer close(t.done)
	defer t.exporter.close()
	for {
		batch, open := t.gather()
		if len(batch) > 0 {
			t.exporter.send(batch)
		}
		if !open {
			t.exporter.sendLast(t.queue)
			return
		}
	}
}

// gather waits for a span and for those that come soon after; false when the
// Tracer is ending.
func (t *Tracer) gather() (batch []*Span, open bool) {
	select {
	case first := <-t.queue:
		batch = append(batch, first)
	case <-t.closing:
		return nil, false
	}
	soon := time.NewTimer(batchDelay)
	defer soon.Stop()
	for len(batch) < batchSpans {
		select {
		case next := <-t.queue:
			batch = append(batch, next)
		case <-soon.C:
			return batch, true
		case <-t.closing:
			return batch, false
		}
	}
	return batch, true
}

// Shutdown sends what is queued, until ctx ends. Spans that end later are
// dropped.
func (t *Tracer) Shutdown(ctx context.Context) {
	if t == nil {
		return
	}
	t.ending.Do(func() {
		stop := context.AfterFunc(ctx, t.exporter.abandon)
		go func() { <-t.done; stop() }()
		close(t.closing)
	})
	select {
	case <-t.done:
	case <-ctx.Done():
	}
}
