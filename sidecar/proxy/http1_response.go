package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// response passes one response on, or as much as has come; false when the
// destination's end is done.
func (s *session) response() bool {
	if !s.pending.Load() {
		return s.unsolicited()
	}
	h := &s.out
	if err := s.readResponse(); err != nil {
		var wrong *malformed
		switch {
		case errors.As(err, &wrong), errors.Is(err, errStatusLine), errors.Is(err, errResponseHead), errors.Is(err, errResponseLength):
			return s.badResponse(err)
		}
		if !errors.Is(err, net.ErrClosed) { // else the client gets an answer of our own
			_ = s.send(s.up.bytes(), false) // it sees as much as it would
		}
		s.up.release()
		s.upstreamEnded(err)
		return false
	}
	switch {
	case h.status == http.StatusSwitchingProtocols:
		if !s.asked.upgrade {
			return s.badResponse(errors.New("the destination switches protocols unasked"))
		}
		if !s.asked.offers(h) {
			return s.badResponse(errors.New("the destination switches to a protocol that was not offered"))
		}
		return s.switched()
	case h.status < 200:
		err := s.send(s.up.bytes()[:h.size], false)
		s.up.consume(h.size)
		return s.sent(err)
	case s.asked.connect && h.status < 300:
		if s.server.direction == ruleset.Inbound && !h.opensTunnel() {
			return s.badResponse(errors.New("the application answered CONNECT without opening a tunnel"))
		}
		return s.switched()
	}
	return s.finalResponse()
}

// opensTunnel reports whether the server of a successful answer to CONNECT
// relays from now on. One that frames a body, which RFC 9110 section 9.3.6
// forbids, or has nothing to say, has taken CONNECT for any other request, as
// an application does: it reads further requests, which a relay would not
// count. Forward proxies, which are called Outbound, have been seen to frame
// an empty body.
func (h *head) opensTunnel() bool {
	return h.status == http.StatusOK && !h.coded && h.length < 0
}

// unsolicited passes on what the destination says unasked, as servers do before
// they close an idle connection (408): nothing is asked of it any more.
func (s *session) unsolicited() bool {
	if s.desert() {
		s.up.release()
		return false
	}
	s.last.Store(true)
	err := s.send(s.up.bytes(), false)
	s.up.release()
	if s.sent(err) {
		s.lastAnswered() // a request that has come meanwhile is not answered, as on any connection that ends
	}
	return false
}

// offers reports whether a 101 names nothing but what the client has offered.
func (a *asking) offers(h *head) bool {
	for _, f := range h.fields {
		if !sameName(f.name, "Upgrade") {
			continue
		}
		for protocol := range strings.SplitSeq(f.value, ",") {
			if !hasToken(viewOf(a.protocols), trimSpace(protocol)) {
				return false
			}
		}
	}
	return true
}

// readResponse reads a head, of which something is buffered already.
func (s *session) readResponse() error {
	s.out.reset()
	for {
		whole, err := s.out.parseResponse(s.up.bytes())
		if whole || err != nil {
			return err
		}
		moved, err := s.up.room()
		if err != nil {
			return err
		}
		if moved {
			s.out.reset()
		}
		if err := s.up.fill(); err != nil {
			return err
		}
	}
}

// badResponse answers 502 for a response that cannot be passed on.
func (s *session) badResponse(err error) bool {
	p := s.server.proxy
	p.metrics.upstream.WithLabelValues(string(s.server.direction)).Inc()
	p.log.Debug("response refused", "direction", s.server.direction, "error", err)
	s.up.release()
	s.up.reset()
	var out answer // the other goroutine may use the session's
	out.say(unreachable(), false)
	if s.write(&out, s.asked.head, false, true) != nil {
		s.abort()
		return false
	}
	s.lastAnswered()
	return false
}

// switched passes on the head after which the connection is no longer HTTP.
func (s *session) switched() bool {
	s.respond(s.out.status)
	s.insert(s.asked.added)
	s.become(modeHTTP1, modeOpaque)
	s.answered()
	err := s.send(s.up.bytes(), false)
	s.up.release()
	return s.sent(err)
}

// finalResponse passes on a response that ends its request.
func (s *session) finalResponse() bool {
	h := &s.out
	s.respond(h.status)
	if h.doubled {
		s.dropLength()
	}
	s.insert(s.asked.added)
	draining := s.server.proxy.draining.Err() != nil
	if draining && !h.connection.close {
		s.insert([]byte("Connection: close\r\n"))
	}
	untilClose := false
	var left int64
	var chunked chunks
	body := s.up.bytes()[h.size:]
	piece := 0
	switch {
	case s.asked.head, h.status == http.StatusNoContent, h.status == http.StatusNotModified:
	case h.chunked:
		chunked.lenient = true
		n, done, err := chunked.scan(body)
		if err != nil {
			return s.badResponse(err)
		}
		piece = n
		if !done {
			left = 1
		}
	case h.coded || h.length < 0:
		piece, untilClose = len(body), true
	default:
		piece = int(min(int64(len(body)), h.length))
		left = h.length - int64(piece)
	}
	done := left == 0 && !untilClose
	if done && draining {
		s.last.Store(true)
	}
	err := s.send(s.up.bytes()[:h.size+piece], done)
	s.up.consume(h.size + piece)
	switch {
	case err != nil || done:
	case untilClose:
		err = s.up.copyAll(&s.client)
		if err == nil {
			s.lastAnswered()
			return false
		}
	case h.chunked:
		err = s.receiveChunks(&chunked)
	default:
		if err = s.up.copyExactly(&s.client, left); err == nil {
			s.answered()
		}
	}
	return s.finished(err, draining)
}

// finished says whether another response may follow.
func (s *session) finished(err error, draining bool) bool {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		s.upstreamEnded(io.EOF) // cut short: the client sees so
		return false
	case err != nil:
		s.abort()
		return false
	case s.halfClosed.Load() && !s.pending.Load(): // else the client's next, and last, request is under way already
		s.lastAnswered()
		return false
	case draining:
		s.lastAnswered()
		return false
	}
	return true
}

// receiveChunks passes on the rest of a chunked body.
func (s *session) receiveChunks(body *chunks) error {
	for {
		if s.up.empty() {
			if err := s.up.fill(); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		n, done, err := body.scan(s.up.bytes())
		if err != nil {
			return err
		}
		err = s.send(s.up.bytes()[:n], done)
		s.up.consume(n)
		if err != nil || done {
			return err
		}
	}
}

// send writes to the client. With the last bytes of a response the client may
// ask on, so that this is noted before.
func (s *session) send(data []byte, last bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.responding = true
	if last {
		s.answered()
	}
	if len(data) == 0 {
		return nil
	}
	err := s.client.send(data)
	return err
}

// sent ends the session when the client is gone.
func (s *session) sent(err error) bool {
	if err != nil {
		s.abort()
	}
	return err == nil
}

// insert adds lines to the end of the response's head, where it lies if there
// is room.
func (s *session) insert(lines []byte) {
	if len(lines) == 0 {
		return
	}
	h := &s.out
	up := &s.up
	at := up.start + h.lines[len(h.lines)-1]
	if up.end+len(lines) > len(up.buf) {
		bigger := make([]byte, up.end-up.start+len(lines)+bufferBytes)
		n := copy(bigger, up.bytes())
		at -= up.start
		up.release()
		large.Add(int64(len(bigger)))
		up.buf, up.start, up.end = bigger, 0, n
	}
	copy(up.buf[at+len(lines):], up.buf[at:up.end])
	copy(up.buf[at:], lines)
	up.end += len(lines)
	h.size += len(lines)
	h.lines[len(h.lines)-1] += len(lines)
}

// dropLength removes Content-Length from a response that has a
// Transfer-Encoding too, which overrides it (RFC 9112 section 6.3).
func (s *session) dropLength() {
	h := &s.out
	up := &s.up
	for i := len(h.fields) - 1; i >= 0; i-- {
		if !sameName(h.fields[i].name, "Content-Length") {
			continue
		}
		from, to := up.start+h.lines[i], up.start+h.lines[i+1]
		copy(up.buf[from:], up.buf[to:up.end])
		cut := to - from
		up.end -= cut
		h.size -= cut
		for j := i + 1; j < len(h.lines); j++ {
			h.lines[j] -= cut
		}
		h.fields = append(h.fields[:i], h.fields[i+1:]...)
		h.lines = append(h.lines[:i], h.lines[i+1:]...)
	}
}
