package tracing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	// sendTimeout bounds one attempt, as OTLP's exporters have it.
	sendTimeout = 10 * time.Second
	// tries of a batch, the first among them; firstBackoff is doubled before each
	// of the others. What is recorded meanwhile waits in the queue.
	tries        = 5
	firstBackoff = time.Second
	// longestBackoff bounds what a collector's Retry-After can ask for.
	longestBackoff = 30 * time.Second
	// maxAnswerBytes of a collector's answer are read.
	maxAnswerBytes = 64 << 10
)

// exporter posts batches.
type exporter struct {
	o       *Options
	client  *http.Client
	closing <-chan struct{}
	// ctx ends when Shutdown has no patience any more.
	ctx     context.Context
	abandon context.CancelFunc
	failing bool // the last batch was not taken
}

func newExporter(o *Options, closing <-chan struct{}) exporter {
	e := exporter{o: o, closing: closing}
	e.ctx, e.abandon = context.WithCancel(context.Background())
	e.client = &http.Client{
		Timeout: sendTimeout,
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxConnsPerHost: 1, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
		},
		// What is sent elsewhere is sent to somebody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return e
}

func (e *exporter) close() {
	e.abandon()
	e.client.CloseIdleConnections()
}

// sendLast sends what is queued when no more comes.
func (e *exporter) sendLast(queue <-chan *Span) {
	for {
		var batch []*Span
		for len(batch) < batchSpans && len(queue) > 0 {
			batch = append(batch, <-queue)
		}
		if len(batch) == 0 {
			return
		}
		e.send(batch)
	}
}

// refusal of a batch by the collector, or by what is before it.
type refusal struct {
	status int
	// again says whether, and when, it may be sent again; zero: when we like.
	again bool
	after time.Duration
}

func (r *refusal) Error() string { return fmt.Sprintf("the collector answers %d", r.status) }

// send sends a batch, more than once if need be. While a Tracer ends nothing is
// tried again.
func (e *exporter) send(batch []*Span) {
	body, err := proto.Marshal(request(e.o.Resource, batch))
	if err != nil {
		e.failed(batch, fmt.Errorf("encoding spans: %w", err))
		return
	}
	backoff := firstBackoff
	for try := 1; ; try++ {
		rejected, err := e.post(body)
		refused, answered := errors.AsType[*refusal](err)
		switch {
		case err == nil:
			e.taken(batch, rejected)
			return
		case try == tries, answered && !refused.again, !e.pause(refused, backoff):
			e.failed(batch, err)
			return
		}
		backoff = min(2*backoff, longestBackoff)
	}
}

// pause waits before another try; false when there is none.
func (e *exporter) pause(refused *refusal, backoff time.Duration) bool {
	if refused != nil && refused.after > 0 {
		backoff = min(refused.after, longestBackoff)
	}
	timer := time.NewTimer(backoff)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-e.closing:
		return false
	}
}

// post sends a body once. rejected is how many spans the collector did not want.
func (e *exporter) post(body []byte) (rejected int64, err error) {
	r, err := http.NewRequestWithContext(e.ctx, http.MethodPost, e.o.Endpoint, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	for name, values := range e.o.Header {
		r.Header[name] = values
	}
	r.Header.Set("Content-Type", "application/x-protobuf")
	response, err := e.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswerBytes))
	switch status := response.StatusCode; {
	case status >= 200 && status < 300:
		said := &collector.ExportTraceServiceResponse{}
		if err == nil && proto.Unmarshal(answer, said) == nil {
			rejected = said.GetPartialSuccess().GetRejectedSpans()
		}
		return rejected, nil // what it says beside that it has taken them matters no more
	default:
		return 0, refusedWith(response)
	}
}

// refusedWith reads a refusal: which may be tried again is OTLP's to say.
func refusedWith(response *http.Response) *refusal {
	r := &refusal{status: response.StatusCode}
	switch r.status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		r.again = true
	}
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 31); err == nil {
		r.after = time.Duration(seconds) * time.Second
	}
	return r
}

func (e *exporter) taken(batch []*Span, rejected int64) {
	rejected = min(max(rejected, 0), int64(len(batch)))
	e.o.Metrics.export(int64(len(batch)) - rejected)
	e.o.Metrics.drop(droppedRefused, rejected)
	if e.failing {
		e.failing = false
		e.o.Logger.Info("the collector takes spans again")
	}
}

// failed counts what is lost, and says so once.
func (e *exporter) failed(batch []*Span, err error) {
	reason := droppedUnreachable
	if _, answered := errors.AsType[*refusal](err); answered {
		reason = droppedRefused
	}
	e.o.Metrics.drop(reason, int64(len(batch)))
	if !e.failing {
		e.failing = true
		e.o.Logger.Warn("spans are lost: the collector does not take them", "endpoint", e.o.Endpoint, "error", err)
	}
}
