package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// http2Server serves the sessions whose clients speak HTTP/2, which net/http
// does at both ends.
type http2Server struct {
	server *server
	http   *http.Server
	queue  *queue
}

// sessionKey is the context key of a request's *http2Conn.
type sessionKey struct{}

// http2Conn is the client's end of a session, as net/http sees it.
type http2Conn struct {
	*stream
	session   *session
	transport *http.Transport
	later     later
	ended     sync.Once
	spoke     atomic.Bool // there was a request
}

func newHTTP2Server(s *server) *http2Server {
	h := &http2Server{server: s, queue: &queue{conns: make(chan net.Conn), done: make(chan struct{}), addr: s.listener.Addr()}}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h.http = &http.Server{
		Handler:           h,
		Protocols:         &protocols,
		ReadHeaderTimeout: headTimeout,
		MaxHeaderBytes:    maxHeadBytes,
		HTTP2:             flowControl(),
		ErrorLog:          s.proxy.quiet,
		// "OPTIONS *" is the application's to answer.
		DisableGeneralOptionsHandler: true,
		BaseContext:                  func(net.Listener) context.Context { return s.proxy.cut },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, sessionKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				c.(*http2Conn).end()
			}
		},
	}
	return h
}

func (h *http2Server) serve() { _ = h.http.Serve(h.queue) } // ends with the queue

// handHTTP2 lets net/http serve the session.
func (s *session) handHTTP2() {
	if err := s.connected(); err != nil {
		s.become(modeUndecided, modeHanded)
	} else if !s.takeUpstream() {
		s.opaque() // the destination spoke first
		return
	}
	s.serveHTTP2()
}

// serveHTTP2 has net/http read both ends.
func (s *session) serveHTTP2() {
	c := &http2Conn{stream: &s.client, session: s}
	c.transport = newHTTP2Transport(s, &c.later)
	if !s.server.http2.queue.put(c) {
		c.end()
	}
}

// newHTTP2Transport has the session's connection for its first, and dials more
// when the destination lets that one end (GOAWAY) or take no more streams.
func newHTTP2Transport(s *session, others *later) *http.Transport {
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP2(true)
	var taken atomic.Bool // the first
	return &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			switch {
			case taken.Swap(true):
				return others.dial(ctx, network, s.address)
			case s.dialErr != nil:
				return nil, s.dialErr
			}
			return &s.up, nil
		},
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			if !taken.Swap(true) {
				return s.secure.Upstream, nil
			}
			return s.secure.Connect(ctx, func(ctx context.Context) (net.Conn, error) { return others.dial(ctx, network, s.address) })
		},
		Protocols:             &protocols,
		HTTP2:                 flowControl(),
		ExpectContinueTimeout: time.Second, // as long as clients wait
		// The body passes as the application encoded it.
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeadBytes,
	}
}

// flowControl bounds what is on the way of a stream whose reader is slow, which
// net/http would have be 4 MiB. All of a connection's streams together may have
// as much, so that none holds up another.
func flowControl() *http.HTTP2Config {
	const perStream, streams = 256 << 10, 250
	return &http.HTTP2Config{
		MaxConcurrentStreams: streams, MaxReceiveBufferPerStream: perStream, MaxReceiveBufferPerConnection: streams * perStream,
	}
}

// Read notes that the client went on: the preface is from one that accepted
// the certificate, whether or not it has a request.
func (c *http2Conn) Read(b []byte) (int, error) {
	n, err := c.stream.Read(b)
	if n > 0 && !c.spoke.Swap(true) {
		c.session.spoke(nil)
	}
	return n, err
}

// end ends the session, once net/http has closed the client's end.
func (c *http2Conn) end() {
	c.ended.Do(func() {
		c.transport.CloseIdleConnections()
		c.later.end()
		if !c.spoke.Load() {
			c.session.spoke(io.EOF)
		}
		c.session.end()
	})
}

// ServeHTTP decides on one request and forwards or refuses it.
func (h *http2Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(sessionKey{}).(*http2Conn)
	if !ok {
		panic("proxy: request without its connection") // only handHTTP2 makes connections
	}
	x := &exchange{server: h.server, conn: c, w: w, waits: waitsToSend(r)}
	var seen request
	seen.requestOf(r, c.session.remote)
	seen.names = c.session.names
	if h.server.direction == ruleset.Inbound && seen.probed(h.server.proxy.probes, c.session.destination.Port()) {
		x.forward(r)
		return
	}
	refused, err := x.admit(r.Context(), h.server.proxy, h.server.direction, &seen, x)
	if x.span != nil {
		defer x.ends()
	}
	switch {
	case err != nil:
		panic(http.ErrAbortHandler) // nobody waits for an answer
	case refused != nil:
		x.status = refused.write(w, r)
	default:
		strip(r, x.policies)
		x.traceHeader(r.Header)
		x.forward(r)
	}
	x.served = true
}

// exchange is one request of HTTP/2 and its response.
type exchange struct {
	admission
	server *server
	conn   *http2Conn
	w      http.ResponseWriter
	// proxyAuthenticate of the response: see RoundTrip.
	proxyAuthenticate []string
	// alone: the response's head is all of it.
	alone bool
	// waits: the client sends its body when it is asked to.
	waits bool
	// status that the client gets; 0: none yet.
	status int
	// served: the response has come to its end.
	served bool
}

// ends ends the request's span.
func (x *exchange) ends() {
	if x.status != 0 {
		respond(x.span, x.server.direction, x.status)
	}
	if !x.served {
		x.span.Fail("connection_lost")
	}
	x.span.End()
}

// waitsToSend reports whether the client of a request of net/http's server for
// HTTP/2 said "Expect: 100-continue", which only that server's own body still
// knows: the field itself is taken away.
func waitsToSend(r *http.Request) bool {
	body := reflect.Indirect(reflect.ValueOf(r.Body))
	if body.Kind() != reflect.Struct {
		return false
	}
	waits := body.FieldByName("needsContinue")
	return waits.Kind() == reflect.Bool && waits.Bool()
}

// watch has nothing to add: net/http ends ctx with the client's stream.
func (x *exchange) watch(ctx context.Context) (context.Context, func()) { return ctx, func() {} }

// forward sends the request to the destination and streams the response back.
func (x *exchange) forward(r *http.Request) {
	reverse := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		FlushInterval:  -1,
		ErrorLog:       x.server.proxy.quiet,
		BufferPool:     buffers{},
		ModifyResponse: x.modifyResponse,
		ErrorHandler:   x.upstreamFailed,
	}
	reverse.ServeHTTP(headWriter{x.w, x}, r)
}

// headWriter sends a response's head as the destination did: at once when a
// body follows, be it empty, and with the end in it when it stands alone.
// ReverseProxy flushes at a moment of its own, and a head alone would now and
// then go out apart from its end: to gRPC such a one, Trailers-Only, has no
// status.
type headWriter struct {
	http.ResponseWriter
	x *exchange
}

func (w headWriter) WriteHeader(status int) {
	if status == http.StatusContinue {
		return // reading the request's body sends it
	}
	w.ResponseWriter.WriteHeader(status)
	if status >= http.StatusOK {
		_ = w.FlushError() // copying the body finds the same error
	}
}

// FlushError is called by http.ResponseController.
func (w headWriter) FlushError() error {
	if w.x.alone {
		return nil
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// rewrite undoes what ReverseProxy changes for gateways and a transparent
// proxy must not.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme = "http"
	if x.conn.session.secure != nil {
		out.URL.Scheme = "https"
	}
	out.URL.Host = x.conn.session.address
	if in.Method != http.MethodConnect {
		// The target goes on byte for byte, absolute form included. An Opaque
		// that begins with "//" would become one; there the parsed path must do.
		target, query, hasQuery := strings.Cut(in.RequestURI, "?")
		if !strings.HasPrefix(target, "//") {
			out.URL.Opaque = target
		}
		out.URL.RawQuery = query
		out.URL.ForceQuery = hasQuery && query == ""
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Proxy-Authorization"} {
		if values, ok := in.Header[name]; ok {
			out.Header[name] = values
		}
	}
	if x.waits {
		out.Header.Set("Expect", "100-continue")
	}
	// The server fills this map when the body has ended; a copy stays empty.
	out.Trailer = in.Trailer
	if out.Body != nil {
		// ReverseProxy's own is not closed when the destination has heard enough,
		// and the response would wait for the rest of the request.
		out.Body = in.Body
	}
}

// RoundTrip keeps Proxy-Authenticate, which ReverseProxy takes away: it is the
// answer of a forward proxy that the application itself talks to.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := x.conn.transport.RoundTrip(r)
	if err == nil {
		x.proxyAuthenticate = response.Header["Proxy-Authenticate"]
	}
	return response, err
}

func (x *exchange) modifyResponse(response *http.Response) error {
	x.status = response.StatusCode
	x.alone = response.ContentLength == 0 || response.Request.Method == http.MethodHead
	h := x.w.Header()
	addRateLimitFields(h, x.quotas)
	for _, name := range []string{"Content-Type", "Date"} {
		if _, ok := response.Header[name]; !ok {
			h[name] = nil // or net/http invents one
		}
	}
	if x.proxyAuthenticate != nil {
		response.Header["Proxy-Authenticate"] = x.proxyAuthenticate
	}
	return nil
}

// upstreamFailed answers 502, or nothing when nobody waits for an answer.
func (x *exchange) upstreamFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone: net/http ends it quietly
	}
	if failed := x.conn.session.dialErr; failed == nil || !errors.Is(err, failed) { // counted before
		x.server.proxy.metrics.upstream.WithLabelValues(string(x.server.direction)).Inc()
	}
	x.server.proxy.log.Debug("forwarding failed", "direction", x.server.direction, "error", err)
	x.alone = true
	x.status = unreachable().write(w, r)
}

// strip removes from a request what its policies strip, trailers included.
func strip(r *http.Request, policies []*policy) {
	var names []string
	for _, p := range policies {
		names = append(names, p.stripped...)
	}
	for _, name := range names {
		delete(r.Header, name)
	}
	if len(names) > 0 && len(r.Trailer) > 0 {
		body := stripped{ReadCloser: r.Body, trailer: r.Trailer, names: names}
		body.strip() // what is announced
		r.Body = body
	}
}

// stripped is a body whose end brings trailers, which some are taken out of.
type stripped struct {
	io.ReadCloser
	trailer http.Header
	names   []string
}

func (b stripped) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.strip()
	}
	return n, err
}

func (b stripped) strip() {
	for _, name := range b.names {
		delete(b.trailer, name)
	}
}

// buffers lends ReverseProxy its copy buffers.
type buffers struct{}

func (buffers) Get() []byte  { return bufferPool.Get().(*[bufferBytes]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[bufferBytes]byte)(b)) }

// queue is the listener of the http.Server: it yields the connections that
// turned out to speak HTTP/2.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

// put hands a connection over; false when the server has ended.
func (q *queue) put(c net.Conn) bool {
	select {
	case q.conns <- c:
		return true
	case <-q.done:
		return false
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.done:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.once.Do(func() { close(q.done) })
	return nil
}

func (q *queue) Addr() net.Addr { return q.addr }
