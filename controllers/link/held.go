package link

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// held is a request of a sidecar, which waits for the review of its token and
// then until its pod's Ruleset is another. There is one for each pod of the
// cluster, so it is taken out of the HTTP server, whose buffers and stacks would
// be most of the operator's memory: what stays is the connection, and a
// goroutine that sees it close or the next request come. That one goes back to
// the HTTP server.
type held struct {
	server *Server
	conn   net.Conn
	// gone is called when the sidecar is gone, or answered.
	gone func()
	// from and report are known once the request is settled; Enforcing is not kept.
	from   caller
	report ruleset.Report

	// looking says that a look is about to be taken.
	looking atomic.Bool

	mu sync.Mutex
	// settled: it waits for another Ruleset.
	settled  bool
	patience *time.Timer
	hangUp   func()
	// over: it is answered, or the sidecar is gone.
	over bool
	// last: no request may follow on the connection.
	last bool
}

// takeOut takes a request out of the HTTP server; nil when that has answered it.
func (s *Server) takeOut(w http.ResponseWriter, r *http.Request) *held {
	last := r.Close || !r.ProtoAtLeast(1, 1)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.options.Logger.Error(err, "cannot hold a sidecar's request")
		refuse(w, http.StatusInternalServerError, "The request cannot be held.")
		return nil
	}
	if buffered.Reader.Buffered() > 0 { // a request behind the one that is held: no sidecar's
		_ = conn.Close()
		return nil
	}
	if returned, ok := conn.(*returned); ok {
		conn = returned.Conn
	}
	return &held{server: s, conn: conn, last: last}
}

// begin serves the request, at once if it is known whose its token is: reviews
// take turns.
func (h *held) begin(asked question) {
	ctx, cancel := context.WithCancel(context.Background())
	h.gone = cancel
	go h.read()
	if h.server.tokens.knows(asked.token, podTokenKnownFor) {
		go h.serve(ctx, asked)
		return
	}
	h.server.unknown.do(func() { h.serve(ctx, asked) })
}

// serve answers the request, or settles it.
func (h *held) serve(ctx context.Context, asked question) {
	from, report, no := h.server.admit(ctx, asked)
	if no != nil {
		if no.status != http.StatusServiceUnavailable { // else it may be a sidecar
			h.endWithAnswer()
		}
		h.answer(no.status, no.header, []byte(no.sentence+"\n"))
		return
	}
	h.from, h.report = from, ruleset.Report{Version: report.Version, Rejected: report.Rejected}
	switch {
	case h.looked():
	case h.settle():
		h.wake() // for what changed before it was listened to
	default:
		h.end()
	}
}

// settle has the request wait, and says whether it does: not when the sidecar is
// gone, or the server ends.
func (h *held) settle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || !h.server.waiting.add(h) {
		return false
	}
	h.settled = true
	h.gone() // what it ends has ended
	h.gone = func() {}
	h.server.metrics.held.Inc()
	h.hangUp = h.server.options.Rulesets.tell(h.from.pod, h.wake)
	h.patience = time.AfterFunc(h.server.options.Patience, func() { h.answer(http.StatusNoContent, nil, nil) })
	return true
}

// wake has a look taken, soon. It does not block.
func (h *held) wake() {
	if h.looking.CompareAndSwap(false, true) {
		go h.look()
	}
}

func (h *held) look() {
	h.looking.Store(false)
	h.looked()
}

// looked answers when there is something to answer with, and says so.
func (h *held) looked() bool {
	next, err := h.server.newer(context.Background(), h.from, h.report)
	switch {
	case err != nil:
		h.server.options.Logger.Error(err, "cannot answer a sidecar", "namespace", h.from.pod.Namespace, "pod", h.from.pod.Name)
		no := again("The pod's Ruleset cannot be computed now. Try again.")
		h.answer(no.status, no.header, []byte(no.sentence+"\n"))
	case next.gone: // its next request is told so
		h.answer(http.StatusNoContent, nil, nil)
	case next.answer != nil:
		h.answer(http.StatusOK, http.Header{"Content-Type": {"application/json"}}, next.answer.body)
	default:
		return false
	}
	return true
}

// answer ends the request; only the first answer counts.
func (h *held) answer(status int, header http.Header, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	h.leave()
	h.server.metrics.answered(status)
	_ = h.conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	if _, err := h.conn.Write(encodeAnswer(status, header, body, h.last)); err != nil || h.last {
		_ = h.conn.Close()
		return
	}
	_ = h.conn.SetWriteDeadline(time.Time{})
	_ = h.conn.SetReadDeadline(time.Now().Add(idleTimeout)) // for the next request
}

// end has the sidecar ask another replica.
func (h *held) end() {
	h.endWithAnswer()
	h.answer(http.StatusNoContent, nil, nil)
}

// endWithAnswer has the connection closed once the request is answered.
func (h *held) endWithAnswer() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = true
}

// leave is called once, with mu held.
func (h *held) leave() {
	h.over = true
	h.gone()
	if !h.settled {
		return
	}
	h.patience.Stop()
	h.hangUp()
	h.server.waiting.remove(h)
	h.server.metrics.held.Dec()
}

// read waits for what the sidecar does next: it goes away, or, once it is
// answered, asks again.
func (h *held) read() {
	untilReadable(h.conn)
	first := make([]byte, 1)
	count, _ := h.conn.Read(first)
	h.mu.Lock()
	answered := h.over
	if !answered {
		h.leave()
	}
	next := answered && count == 1
	h.mu.Unlock()
	if !next || !h.server.returning.give(&returned{Conn: h.conn, first: first}) {
		_ = h.conn.Close()
	}
}

// encodeAnswer is an HTTP/1.1 response.
func encodeAnswer(status int, header http.Header, body []byte, last bool) []byte {
	if header == nil {
		header = http.Header{}
	}
	if len(body) > 0 && header.Get("Content-Type") == "" {
		header.Set("Content-Type", "text/plain; charset=utf-8")
	}
	response := http.Response{
		StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, Header: header, Close: last,
		ContentLength: int64(len(body)), Body: io.NopCloser(bytes.NewReader(body)),
	}
	var encoded bytes.Buffer
	_ = response.Write(&encoded) // to memory
	return encoded.Bytes()
}

// waiting are the requests that are held, one a pod: a new one ends the one
// before, which its sidecar has given up.
type waiting struct {
	mu       sync.Mutex
	requests map[types.UID]*held
	closed   bool
}

// add says whether requests may still be held.
func (w *waiting) add(h *held) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	if w.requests == nil {
		w.requests = map[types.UID]*held{}
	}
	if before := w.requests[h.from.uid]; before != nil {
		go before.answer(http.StatusNoContent, nil, nil)
	}
	w.requests[h.from.uid] = h
	return true
}

func (w *waiting) remove(h *held) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.requests[h.from.uid] == h {
		delete(w.requests, h.from.uid)
	}
}

// close answers all: their sidecars ask another replica.
func (w *waiting) close() {
	w.mu.Lock()
	w.closed = true
	all := make([]*held, 0, len(w.requests))
	for _, h := range w.requests {
		all = append(all, h)
	}
	w.mu.Unlock()
	var answering sync.WaitGroup
	for _, h := range all {
		answering.Go(h.end)
	}
	answering.Wait()
}

// returned is a connection with a next request, whose first byte was read.
type returned struct {
	net.Conn
	first []byte
}

func (r *returned) Read(p []byte) (int, error) {
	if len(r.first) > 0 && len(p) > 0 {
		count := copy(p, r.first)
		r.first = nil
		return count, nil
	}
	return r.Conn.Read(p)
}

// returning is a listener for connections that go back to the HTTP server.
type returning struct {
	address net.Addr
	conns   chan net.Conn
	closing sync.Once
	closed  chan struct{}
}

func newReturning() *returning {
	return &returning{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give says whether somebody took the connection.
func (r *returning) give(conn net.Conn) bool {
	select {
	case r.conns <- conn:
		return true
	case <-r.closed:
		return false
	}
}

// Accept is of net.Listener.
func (r *returning) Accept() (net.Conn, error) {
	select {
	case conn := <-r.conns:
		return conn, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

// Close is of net.Listener.
func (r *returning) Close() error {
	r.closing.Do(func() { close(r.closed) })
	return nil
}

// Addr is of net.Listener.
func (r *returning) Addr() net.Addr { return r.address }
