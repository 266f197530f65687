package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// discardBytes of a refused request's body are read, so that the connection
// can serve the next one; a longer one ends it.
const discardBytes = 64 << 10

// requests serves the client's requests one after the other.
func (s *session) requests() {
	for {
		for s.request() {
		}
		if s.next == nil {
			s.end()
			return
		}
		s = s.next
		go s.upstreamSide()
	}
}

// request serves the client's next request; false when there is none.
func (s *session) request() bool {
	if s.client.empty() {
		s.busy.Store(false)
		s.forget()
		s.client.heads = true
		if err := s.client.fill(); err != nil {
			return s.clientEnded(err)
		}
	}
	for s.skipsEmptyLines() && bytes.HasPrefix(s.client.bytes(), emptyLine) {
		if s.client.consume(len(emptyLine)); s.client.empty() {
			return true
		}
	}
	if s.modeIs(modeHTTP1) && !s.begin() {
		return s.discard()
	}
	if s.pending.Load() { // pipelined, or early data of an upgrade
		s.outlast()
	}
	switch {
	case s.pending.Load():
		return s.discard()
	case s.modeIs(modeOpaque):
		s.pipe(&s.up, &s.client)
		return false
	case s.last.Load():
		return s.discard()
	}
	if err := s.readRequest(); err != nil {
		return s.unreadable(err)
	}
	if moved, err := s.elsewhere(); moved || err != nil {
		return err != nil && s.unreadable(err)
	}
	s.see()
	if s.server.direction == ruleset.Inbound && s.seen.probed(s.server.proxy.probes, s.destination.Port()) {
		s.policies, s.quotas, s.span = s.policies[:0], s.quotas[:0], nil
		return s.forwardRequest()
	}
	refused, err := s.decide()
	if s.span != nil {
		s.traced.Store(s.span)
	}
	switch {
	case err != nil:
		s.abort()
		return false
	case refused != nil:
		return s.refuse(refused)
	}
	return s.forwardRequest()
}

var emptyLine = []byte("\r\n")

// skipsEmptyLines reports whether those before a request are none (RFC 9112
// section 2.2), and not the beginning of what follows an upgrade. The mode is
// asked last: it changes before the upgrade's answer counts as given.
func (s *session) skipsEmptyLines() bool {
	switching := s.pending.Load() && (s.asked.upgrade || s.asked.connect)
	return !switching && s.modeIs(modeHTTP1)
}

// forget drops what large heads have left, before the connection is idle.
func (s *session) forget() {
	if s.in.size > bufferBytes {
		s.in.forget()
		s.seen = request{}
		s.admission = admission{}
	}
	if cap(s.scratch) > bufferBytes {
		s.scratch = nil
	}
	if cap(s.trailers) > bufferBytes {
		s.trailers = nil
	}
}

// decide asks the policies.
func (s *session) decide() (*refusal, error) {
	return s.admit(s.server.proxy.cut, s.server.proxy, s.server.direction, &s.seen, s)
}

// readRequest reads a head, of which something is buffered already.
func (s *session) readRequest() error {
	s.in.reset()
	s.seen = request{} // an answer must not go by the request before
	timed := false
	defer func() { s.client.heads = false }()
	for {
		for !s.in.begun && bytes.HasPrefix(s.client.bytes(), emptyLine) {
			s.client.consume(len(emptyLine))
		}
		data := s.client.bytes()
		whole, err := s.in.parseRequest(data)
		if whole || err != nil {
			if timed {
				err = errors.Join(err, s.client.SetReadDeadline(time.Time{}))
			}
			return err
		}
		if !timed {
			timed = true
			if err := s.client.SetReadDeadline(time.Now().Add(headTimeout)); err != nil {
				return err
			}
		}
		moved, err := s.client.room()
		if err != nil {
			return err
		}
		if moved {
			s.in.reset()
		}
		if err := s.client.fill(); err != nil {
			return err
		}
	}
}

// see shows the head to the policies.
func (s *session) see() {
	h := &s.in
	s.seen = request{method: h.method, host: h.host, target: h.target, fields: h.fields, remote: s.remote, names: s.names}
	s.seen.path, s.seen.query = splitTarget(h.target)
}

// clientEnded is the end of what the client sends, between two requests.
func (s *session) clientEnded(err error) bool {
	s.halfClosed.Store(true)
	switch {
	case s.modeIs(modeOpaque) && errors.Is(err, io.EOF):
		s.pipe(&s.up, &s.client) // its end is passed on
	case errors.Is(err, io.EOF) && s.pending.Load():
		_ = s.up.CloseWrite() // the destination sees what it would without us
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded):
		if !s.pending.Load() {
			s.hangUp()
		}
	default:
		s.abort()
	}
	return false
}

// hangUp closes both ends in the ordinary way, not under an answer that is being
// sent.
func (s *session) hangUp() {
	s.writing.Lock()
	_ = s.client.Close()
	s.writing.Unlock()
	if s.connected() == nil {
		_ = s.up.Close()
	}
}

// discard reads what the client still sends after its last answer, so that
// closing does not reset the connection before it has read that.
func (s *session) discard() bool {
	for {
		s.client.release()
		if err := s.client.fill(); err != nil {
			break
		}
	}
	if !s.pending.Load() {
		s.hangUp()
	}
	return false
}

// unreadable answers a request that cannot be read.
func (s *session) unreadable(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = &malformed{408, "The head did not come within 30 s of its first byte."}
	}
	if wrong, ok := errors.AsType[*malformed](err); ok {
		s.server.proxy.metrics.malformed.WithLabelValues(string(s.server.direction)).Inc()
		return s.refuseLast(unreadable(wrong))
	}
	if errors.Is(err, io.EOF) {
		s.hangUp() // within a head: nobody waits for an answer
		return false
	}
	s.abort()
	return false
}

// refuse answers the request, and passes over its body.
func (s *session) refuse(f *refusal) bool {
	h := &s.in
	persistent := !h.connection.close && (h.minor > 0 || h.connection.keepAlive)
	small := !h.chunked && !h.expects && h.length <= discardBytes
	if !persistent || !small || h.connection.upgrade || s.deserted.Load() || s.server.proxy.draining.Err() != nil {
		return s.refuseLast(f)
	}
	s.reply.say(f, s.seen.isGRPC())
	bodiless := h.method == "HEAD"
	keepAlive := h.minor == 0
	body := max(h.length, 0)
	s.client.consume(h.size)
	if !s.passOver(body) {
		return false
	}
	err := s.write(&s.reply, bodiless, keepAlive, false)
	s.endTraced()
	return s.sent(err)
}

// passOver reads n bytes of a body that nobody wants.
func (s *session) passOver(n int64) bool {
	for n > 0 {
		if s.client.empty() {
			if err := s.client.fill(); err != nil {
				return s.clientEnded(err)
			}
		}
		part := min(n, int64(len(s.client.bytes())))
		s.client.consume(int(part))
		n -= part
	}
	return true
}

// refuseLast answers and ends the connection.
func (s *session) refuseLast(f *refusal) bool {
	s.reply.say(f, s.seen.isGRPC())
	if s.write(&s.reply, s.in.method == "HEAD", false, true) != nil {
		s.abort()
		return false
	}
	s.lastAnswered()
	return s.discard()
}

// write sends an answer of our own.
func (s *session) write(a *answer, bodiless, keepAlive, last bool) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.respond(a.status)
	return s.client.send(a.asHTTP1(bodiless, keepAlive, last))
}

// writeError is an error of the end that was written to.
type writeError struct{ error }

func (w writeError) Unwrap() error { return w.error }

// forwardRequest sends the request to the destination, its body as it comes.
func (s *session) forwardRequest() bool {
	if s.deserted.Load() {
		s.redial()
	}
	if err := s.connected(); err != nil {
		return s.refuseLast(unreachable())
	}
	h := &s.in
	data := s.client.bytes()
	body := data[h.size:]
	var piece int
	var left int64
	s.body = chunks{}
	switch {
	case h.chunked:
		n, done, err := s.body.scan(body)
		if err != nil {
			return s.unreadable(err)
		}
		piece, left = n, 1
		if done {
			left = 0
		}
	case h.length > 0:
		piece = int(min(h.length, int64(len(body))))
		left = h.length - int64(piece)
	}
	s.begins()
	err := s.sendRequest(data, piece)
	switch {
	case err != nil:
		return s.uploadEnded(writeError{err})
	case left == 0:
		return true
	case h.chunked:
		return s.sendChunks()
	}
	if err := s.client.copyExactly(&s.up, left); err != nil {
		return s.uploadEnded(err)
	}
	return true
}

// offerBytes bound the protocols to upgrade to that are remembered: an idle
// connection keeps them. A longer offer is not taken up.
const offerBytes = 1 << 10

// begins notes what the response's reader must know.
func (s *session) begins() {
	h := &s.in
	s.asked.head = h.method == "HEAD"
	s.asked.connect = h.method == "CONNECT"
	s.asked.upgrade = h.connection.upgrade && h.upgrades != "" && len(h.upgrades) <= offerBytes && !hasToken(h.upgrades, "h2c")
	if s.asked.upgrade {
		s.asked.protocols = append(s.asked.protocols[:0], h.upgrades...)
	}
	s.asked.added = s.asked.added[:0]
	if len(s.quotas) > 0 {
		s.asked.added = appendLine(s.asked.added, fieldRateLimitPolicy, "")
		s.asked.added = appendPolicies(s.asked.added[:len(s.asked.added)-2], s.quotas)
		s.asked.added = append(s.asked.added, "\r\n"+fieldRateLimit+": "...)
		s.asked.added = append(appendStates(s.asked.added, s.quotas), "\r\n"...)
	}
	if h.chunked {
		s.writing.Lock()
		s.responding = false
		s.writing.Unlock()
	}
	s.pending.Store(true)
}

func appendLine(b []byte, name, value string) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// sendRequest sends the head and what has come of the body, in one write.
func (s *session) sendRequest(data []byte, piece int) error {
	size := s.in.size
	if !s.edits() {
		err := s.up.send(data[:size+piece])
		s.client.consume(size + piece)
		return err
	}
	s.scratch = s.appendEdited(s.scratch[:0], data)
	body := data[size : size+piece]
	if s.in.chunked && s.stripsAny() {
		body = s.withoutTrailers(body)
	}
	s.scratch = append(s.scratch, body...)
	if s.in.chunked && s.stripsAny() && s.body.state == chunksDone {
		s.scratch = s.appendTrailers(s.scratch)
	}
	err := s.up.send(s.scratch)
	s.client.consume(size + piece)
	return err
}

// sendChunks sends the rest of a chunked body.
func (s *session) sendChunks() bool {
	filter := s.stripsAny()
	for {
		if s.client.empty() {
			if err := s.client.fill(); err != nil {
				return s.uploadEnded(err)
			}
		}
		n, done, err := s.body.scan(s.client.bytes())
		if err != nil {
			return s.badBody(err)
		}
		piece := s.client.bytes()[:n]
		if filter {
			piece = s.withoutTrailers(piece)
			if done {
				s.scratch = s.appendTrailers(append(s.scratch[:0], piece...))
				piece = s.scratch
			}
		}
		if len(piece) > 0 {
			if err := s.up.send(piece); err != nil {
				return s.uploadEnded(writeError{err})
			}
		}
		s.client.consume(n)
		if done {
			return true
		}
	}
}

// uploadEnded ends a request whose body did not come to its end.
func (s *session) uploadEnded(err error) bool {
	if _, ok := errors.AsType[writeError](err); ok || errors.Is(err, net.ErrClosed) {
		// The destination has closed its end, perhaps after an answer, which the
		// other goroutine passes on; or that goroutine has, to answer by itself.
		return s.discard()
	}
	s.halfClosed.Store(true)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		_ = s.up.CloseWrite()
		return false
	}
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		// Splicing does not say which end has gone. While the client sends on it
		// is the destination, perhaps after an answer.
		if s.client.fill() == nil {
			return s.discard()
		}
	}
	if s.last.Load() { // its time to close is over
		s.hangUp()
		return false
	}
	s.abort()
	return false
}

// badBody ends a request whose body turned out to be malformed when a part of
// it had been sent: the destination must not take that for the whole.
func (s *session) badBody(err error) bool {
	s.server.proxy.metrics.malformed.WithLabelValues(string(s.server.direction)).Inc()
	s.last.Store(true)
	s.up.reset()
	wrong, ok := errors.AsType[*malformed](err)
	if !ok || !s.answersFirst(wrong) {
		s.abort()
		return false
	}
	s.lastAnswered()
	return s.discard()
}

// answersFirst sends the answer to a malformed body, unless some of the
// response has gone to the client.
func (s *session) answersFirst(wrong *malformed) bool {
	s.reply.say(unreadable(wrong), false)
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.responding {
		return false
	}
	s.responding = true
	s.respond(s.reply.status)
	return s.client.send(s.reply.asHTTP1(false, false, true)) == nil
}
