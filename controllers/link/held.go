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

// held is a request that waits until its pod's Ruleset is another. There is one
// for each pod of the cluster, so it is taken out of the HTTP server, whose
// buffers and stacks would be most of the operator's memory: what stays is the
// connection, and a goroutine that sees it close or the next request come. That
// one goes back to the HTTP server.
type held struct {
	server *Server
	conn   net.Conn
	from   caller
	report ruleset.Report // without Enforcing

	// looking says that a look is about to be taken.
	looking  atomic.Bool
	patience *time.Timer
	hangUp   func()

	mu sync.Mutex
	// over: it is answered, or the sidecar is gone.
	over bool
	// last: no request may follow on the connection.
	last bool
}

// hold takes a request out of the HTTP server. Its sidecar has no newer Ruleset
// to get by now.
func (s *Server) hold(w http.ResponseWriter, r *http.Request, from caller, report ruleset.Report) {
	last := r.Close || !r.ProtoAtLeast(1, 1)
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.options.Logger.Error(err, "cannot hold a sidecar's request")
		refuse(w, http.StatusInternalServerError, "The request cannot be held.")
		return
	}
	if buffered.Reader.Buffered() > 0 { // a request behind the one that is held: no sidecar's
		_ = conn.Close()
		return
	}
	if returned, ok := conn.(*returned); ok {
		conn = returned.Conn
	}
	report.Enforcing, report.NotIntercepting = nil, nil
	h := &held{server: s, conn: conn, from: from, report: report, last: last}
	s.metrics.held.Inc()
	h.mu.Lock()
	h.hangUp = s.options.Rulesets.tell(from.pod, h.wake)
	h.patience = time.AfterFunc(s.options.Patience, func() { h.answer(http.StatusNoContent, nil) })
	h.mu.Unlock()
	go h.read()
	if !s.waiting.add(h) {
		h.end()
		return
	}
	h.wake() // for what changed before it was listened to
}

// wake has a look taken, soon. It does not block.
func (h *held) wake() {
	if h.looking.CompareAndSwap(false, true) {
		go h.look()
	}
}

// look answers when there is something to answer with.
func (h *held) look() {
	h.looking.Store(false)
	next, err := h.server.newer(context.Background(), h.from, h.report)
	switch {
	case err != nil:
		h.server.options.Logger.Error(err, "cannot answer a sidecar", "namespace", h.from.pod.Namespace, "pod", h.from.pod.Name)
		h.answer(http.StatusServiceUnavailable, []byte(cannotCompute))
	case next.gone: // its next request is told so
		h.answer(http.StatusNoContent, nil)
	case next.answer != nil:
		h.answer(http.StatusOK, next.answer.body)
	}
}

// answer ends the request; only the first answer counts.
func (h *held) answer(status int, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return
	}
	h.leave()
	h.server.metrics.answered(status)
	_ = h.conn.SetWriteDeadline(time.Now().Add(requestTimeout))
	if _, err := h.conn.Write(encodeAnswer(status, body, h.last)); err != nil || h.last {
		_ = h.conn.Close()
		return
	}
	_ = h.conn.SetWriteDeadline(time.Time{})
	_ = h.conn.SetReadDeadline(time.Now().Add(idleTimeout)) // for the next request
}

// end has the sidecar ask another replica.
func (h *held) end() {
	h.mu.Lock()
	h.last = true
	h.mu.Unlock()
	h.answer(http.StatusNoContent, nil)
}

// leave is called once, with mu held.
func (h *held) leave() {
	h.over = true
	h.patience.Stop()
	h.hangUp()
	h.server.waiting.remove(h)
	h.server.metrics.held.Dec()
}

// read waits for what the sidecar does next: it goes away, or, once it is
// answered, asks again.
func (h *held) read() {
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
func encodeAnswer(status int, body []byte, last bool) []byte {
	header := http.Header{}
	switch status {
	case http.StatusOK:
		header.Set("Content-Type", "application/json")
	case http.StatusServiceUnavailable:
		header.Set("Content-Type", "text/plain; charset=utf-8")
		header.Set("Retry-After", "1")
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
		go before.answer(http.StatusNoContent, nil)
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
