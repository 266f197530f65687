package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/tracing"
)

const (
	// dialTimeout bounds connecting to a destination.
	dialTimeout = 10 * time.Second
	// headTimeout bounds a request's head from its first bytes on. Between
	// requests a connection may be idle for as long as both ends like.
	headTimeout = 30 * time.Second
	// linger is how long a client may take to read the last answer and close,
	// before what it still sends resets the connection.
	linger = 2 * time.Second
)

var dialer = net.Dialer{Timeout: dialTimeout}

// mode is what a session's two ends speak. It changes once from undecided, and
// from HTTP/1 to opaque after an upgrade.
type mode int32

const (
	modeUndecided mode = iota
	modeHTTP1
	modeOpaque
	// modeHanded: somebody else reads both ends.
	modeHanded
)

// session is one connection of a client and the one to its destination that
// stands for it: the destination sees connections begin and end as it would
// without a proxy. Two goroutines each read one end: requests those of the
// client, responses those of the destination. Whoever reads an end sees it
// close at once.
type session struct {
	server *server
	// address is where to dial; destination is it, of a captured connection.
	address     string
	destination netip.AddrPort
	remote      netip.Addr
	// forwards: the client takes this for its forward proxy. next serves the
	// requests that it has for another destination.
	forwards bool
	next     *session
	// names are the hosts that the connection is for.
	names names
	// secure is the TLS that ended here; nil when there is none.
	secure     *intercept.Session
	client, up stream

	mode atomic.Int32
	// pending: a request is under way whose response has not ended.
	pending atomic.Bool
	// busy is false while the client may be told to go; see drain.
	busy atomic.Bool
	// last: the client gets no further response.
	last atomic.Bool
	// halfClosed: the client has ended its sending.
	halfClosed atomic.Bool

	// writing orders what goes to the client.
	writing sync.Mutex

	mu      sync.Mutex // guards the next five, and which connections client and up are
	changed sync.Cond  // of them, of mode and of pending
	// dialled: the destination was reached, or dialErr says why not.
	dialled bool
	dialErr error
	waiting atomic.Bool // somebody waits for changed
	closing bool        // told to go while idle
	ended   int         // goroutines that have
	held    bool        // the client's request waits; see watch
	// deserted: the destination has left meanwhile.
	deserted atomic.Bool

	// Of the client's reader: the head that it reads, what policies see of it,
	// the body that follows, and scratch.
	in   head
	seen request
	admission
	body     chunks
	trailers []byte
	scratch  []byte
	reply    answer // of our own
	// asked is written by it before pending, and read by the other.
	asked asking
	// out is the head that the destination's reader reads.
	out head
	// responding: some of the response has gone to the client; writing guards it.
	responding bool
	// traced is the span of the request under way; nil: not recorded.
	traced atomic.Pointer[tracing.Span]
}

// asking is what the response's reader must know of its request.
type asking struct {
	head, connect, upgrade bool
	protocols              []byte // to upgrade to
	// added to the response's head: whole lines.
	added []byte
}

func (s *session) modeIs(m mode) bool { return mode(s.mode.Load()) == m }

// become changes the mode, unless the other goroutine has changed it before.
func (s *session) become(from, to mode) bool {
	if !s.mode.CompareAndSwap(int32(from), int32(to)) {
		return false
	}
	s.wake()
	if from == modeUndecided {
		_ = s.client.SetReadDeadline(time.Time{}) // see dial
	}
	return true
}

func (s *session) wake() {
	s.mu.Lock()
	s.changed.Broadcast()
	s.mu.Unlock()
}

// await waits until ok holds, which is called with mu held.
func (s *session) await(ok func() bool) {
	s.waiting.Store(true)
	s.mu.Lock()
	for !ok() {
		s.changed.Wait()
	}
	s.mu.Unlock()
	s.waiting.Store(false)
}

// answered notes that the response has ended, before its last bytes are sent:
// the client may ask on as soon as it has them.
func (s *session) answered() {
	s.endTraced() // before the next request may begin
	s.pending.Store(false)
	if s.waiting.Load() {
		s.wake()
	}
}

// run serves the session until both its ends are done.
func (s *session) run() {
	s.changed.L = &s.mu
	go s.upstreamSide()
	s.clientSide()
}

// end is the end of one of the two goroutines; the last closes.
func (s *session) end() {
	s.mu.Lock()
	s.ended++
	last := s.ended == 2
	s.changed.Broadcast()
	s.mu.Unlock()
	if !last {
		return
	}
	s.lostTraced()
	_ = s.client.Close()
	if s.up.Conn != nil {
		_ = s.up.Close()
	}
	if !s.modeIs(modeHanded) { // else net/http may be within a read of either
		s.client.release()
		s.up.release()
	}
	s.server.proxy.sessions.remove(s)
}

// abort resets both ends: what was under way is lost, and they must know.
func (s *session) abort() {
	s.mu.Lock()
	ends := [...]net.Conn{s.client.Conn, s.up.Conn} // they may be others soon: see redial and enter
	s.mu.Unlock()
	for _, end := range ends {
		if end != nil {
			one := stream{Conn: end}
			one.reset()
		}
	}
}

// upstreamSide dials the destination at once, so that it is there when the
// client has spoken, and speaks first if that is its protocol.
func (s *session) upstreamSide() {
	defer s.end()
	if !s.dialled && !s.dial() {
		return
	}
	for {
		if s.up.empty() {
			s.out.forget()
			if err := s.up.fill(); err != nil {
				s.upstreamEnded(err)
				return
			}
		}
		switch mode(s.mode.Load()) {
		case modeUndecided:
			if resemblesSettings(s.up.bytes()) && len(s.up.bytes()) < settingsBytes && s.hearOut() {
				continue
			}
			if resemblesSettings(s.up.bytes()) && len(s.up.bytes()) >= settingsBytes {
				// A server of HTTP/2 that speaks first; its clients do not wait.
				s.await(func() bool { return !s.modeIs(modeUndecided) || s.ended > 0 })
				if s.modeIs(modeUndecided) {
					return
				}
				continue
			}
			if s.mode.CompareAndSwap(int32(modeUndecided), int32(modeOpaque)) {
				s.wake()
				if !passes(s.named(s.names)) {
					s.abort()
					return
				}
				s.server.proxy.metrics.passed.WithLabelValues(string(s.server.direction), kindOpaque).Inc()
				_ = s.client.SetReadDeadline(time.Unix(1, 0)) // its reader sees the mode
			}
		case modeHTTP1:
			if !s.response() {
				return
			}
		case modeOpaque:
			s.pipe(&s.client, &s.up)
			return
		case modeHanded:
			return
		}
	}
}

// settingsBytes are the header of an HTTP/2 frame (RFC 9113 section 4.1).
const settingsBytes = 9

// hearOut waits a moment for the rest of a frame's header. It is false when
// nothing more has come.
func (s *session) hearOut() bool {
	if _, err := s.up.room(); err != nil || s.up.SetReadDeadline(time.Now().Add(sniffWait)) != nil {
		return false
	}
	err := s.up.fill()
	_ = s.up.SetReadDeadline(time.Time{})
	return err == nil || !s.modeIs(modeUndecided)
}

// resemblesSettings reports whether data may begin with an HTTP/2 SETTINGS
// frame, which servers send without waiting for the client (RFC 9113 section
// 3.4): length of at most 16,384, type 4, no stream.
func resemblesSettings(data []byte) bool {
	pattern := [9]byte{3: 4}
	for i := range min(len(data), len(pattern)) {
		if i == 1 || i == 2 || i == 4 { // length, flags
			continue
		}
		if data[i] != pattern[i] {
			return false
		}
	}
	return true
}

// dial connects to the destination and says so.
func (s *session) dial() bool {
	p := s.server.proxy
	up, err := s.dialUpstream(p.cut)
	if err == nil {
		if err = s.dialsItself(up); err != nil {
			_ = up.Close()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	s.dialled = true
	if err != nil {
		p.metrics.upstream.WithLabelValues(string(s.server.direction)).Inc()
		p.log.Debug("destination unreachable", "direction", s.server.direction, "error", err)
		s.dialErr = fmt.Errorf("dial original destination: %w", err)
		if s.modeIs(modeUndecided) {
			// One that waits for the server to speak must learn that there is none.
			_ = s.client.SetReadDeadline(time.Now().Add(sniffWait))
		}
		return false
	}
	s.up.open(up)
	return s.ended == 0
}

// connected waits for the dial.
func (s *session) connected() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.dialled {
		s.changed.Wait()
	}
	return s.dialErr
}

// upstreamEnded does for the client what the destination did.
func (s *session) upstreamEnded(err error) {
	if s.secure != nil {
		s.secure.UpstreamEnded(err)
	}
	if s.modeIs(modeHanded) || s.desert() {
		return
	}
	switch {
	case errors.Is(err, net.ErrClosed): // by the other goroutine, which looks after the client
		return
	case !errors.Is(err, io.EOF):
		s.abort()
		return
	}
	if s.become(modeUndecided, modeOpaque) || s.modeIs(modeOpaque) {
		_ = s.client.CloseWrite()
		return
	}
	if s.pending.Load() {
		s.server.proxy.metrics.upstream.WithLabelValues(string(s.server.direction)).Inc()
		s.lostTraced()
	}
	s.lastAnswered()
}

// lastAnswered ends the client's connection after its last answer, leaving it
// time to read that.
func (s *session) lastAnswered() {
	s.last.Store(true)
	s.answered()
	s.writing.Lock()
	_ = s.client.CloseWrite()
	s.writing.Unlock()
	_ = s.client.SetReadDeadline(time.Now().Add(linger))
}

// clientSide finds out what the client speaks and serves it.
func (s *session) clientSide() {
	kind, err := s.sniff()
	switch {
	case s.modeIs(modeOpaque): // the destination spoke first
		_ = s.client.SetReadDeadline(time.Time{})
		s.opaque()
		return
	case err != nil:
		s.leave()
		return
	}
	switch kind {
	case speaksHTTP:
		if s.become(modeUndecided, modeHTTP1) {
			s.requests()
			return
		}
		_ = s.client.SetReadDeadline(time.Time{})
		s.opaque()
	case speaksHTTP2:
		s.handHTTP2()
	case speaksTLS:
		s.secured()
	default:
		if s.client.empty() { // it has ended its sending, and asked for nothing
			s.pass(kind, nil)
			return
		}
		s.pass(kind, s.named(s.names))
	}
}

// leave ends the session whose client is gone, cannot be served, or was told
// to go before it spoke.
func (s *session) leave() {
	s.mu.Lock()
	told := s.closing
	s.mu.Unlock()
	if told {
		s.hangUp()
	} else {
		s.abort()
	}
	s.end()
}

// opaque relays what the client sends until it ends.
func (s *session) opaque() {
	defer s.end()
	s.pipe(&s.up, &s.client)
}

// pipe copies src to dst. The end of one direction is passed on and leaves the
// other open, as in TCP; a reset is passed on as a reset.
func (s *session) pipe(dst, src *stream) {
	err := src.copyAll(dst)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// upstreamSide's, meant for a reader that had spoken to it already.
		_ = src.SetReadDeadline(time.Time{})
		err = src.copyAll(dst)
	}
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		s.abort()
	}
}

// takeUpstream ends the reading of the destination's end, for somebody else to
// do it. What was read meanwhile is read again from s.up. It returns false when
// the destination spoke first and the session is opaque.
func (s *session) takeUpstream() bool {
	if !s.become(modeUndecided, modeHanded) {
		return false
	}
	_ = s.up.SetReadDeadline(time.Unix(1, 0))
	s.await(func() bool { return s.ended > 0 })
	_ = s.up.SetReadDeadline(time.Time{})
	return true
}

// drain tells the session to end as soon as nothing is under way.
func (s *session) drain() {
	s.mu.Lock()
	client := s.client.Conn
	idle := !s.busy.Load() && !s.modeIs(modeOpaque)
	s.closing = s.closing || idle
	s.mu.Unlock()
	if idle && !s.pending.Load() && !s.modeIs(modeOpaque) { // pending ends after an upgrade
		_ = client.SetReadDeadline(time.Unix(1, 0))
	}
}

// begin notes that a request has begun; it is false when the session was told
// to go before.
func (s *session) begin() bool {
	s.busy.Store(true) // before it is asked, as drain asks after it has begun
	if s.server.proxy.draining.Err() == nil {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy.Store(!s.closing)
	return !s.closing
}

// sniff reads until it is clear what the client speaks, at most sniffBytes. It
// has no patience with one that pauses within its first line, and any with one
// that has not begun.
func (s *session) sniff() (protocol, error) {
	s.client.heads = true
	err := s.client.fill()
	s.spoke(err)
	switch {
	case errors.Is(err, io.EOF): // it may listen on
		return speaksOther, nil
	case err != nil:
		return undecided, err
	case !s.begin():
		return undecided, net.ErrClosed
	}
	kind := classify(s.client.bytes())
	if kind == undecided {
		kind, err = s.sniffOn()
	}
	if kind == resemblesHTTP {
		// net/http's to refuse where there are limits to evade; elsewhere it passes.
		kind = speaksHTTP
		if s.server.proxy.table.Load().of(s.server.direction).empty() {
			kind = speaksOther
		}
	}
	return kind, err
}

func (s *session) sniffOn() (protocol, error) {
	if err := s.client.SetReadDeadline(time.Now().Add(sniffWait)); err != nil {
		return undecided, err
	}
	kind := undecided
	for kind == undecided && len(s.client.bytes()) < sniffBytes {
		err := s.client.fill()
		switch {
		case err == nil:
			kind = classify(s.client.bytes())
		case s.modeIs(modeOpaque):
			return speaksOther, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return classifyLate(s.client.bytes()), s.client.SetReadDeadline(time.Time{})
		case errors.Is(err, io.EOF):
			return speaksOther, nil
		default:
			return undecided, err
		}
	}
	if kind == undecided {
		kind = classifyLate(s.client.bytes())
	}
	return kind, s.client.SetReadDeadline(time.Time{})
}
