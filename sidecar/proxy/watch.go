package proxy

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"
)

// watch looks after both ends while the client's request waits, for one
// goroutine and only then.
//
// The client is taken for gone when it ends its sending: one that closed its
// connection cannot be told from one that closed a half and listens on. A
// request that does not wait has such a client's answer sent; one that waits is
// refused at once instead, which the listener still reads. Nothing of what the
// client sends on is read.
func (s *session) watch(ctx context.Context) (context.Context, func()) {
	watched, cancel := context.WithCancel(ctx)
	s.holds(true)
	if s.last.Load() { // the destination was faster
		cancel()
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		if s.client.ending() {
			cancel()
		}
	}()
	return watched, func() {
		s.holds(false)
		s.unwatch(over)
		cancel()
	}
}

// unwatch ends the watching of the client, and waits until it is over.
func (s *session) unwatch(over <-chan struct{}) {
	_ = s.client.SetReadDeadline(time.Unix(1, 0))
	<-over
	_ = s.client.SetReadDeadline(time.Time{})
	if s.last.Load() { // see lastAnswered
		_ = s.client.SetReadDeadline(time.Now().Add(linger))
	}
}

// watchAfter is how long an answer may take before the client that has sent
// more is watched: most come sooner, and need no goroutine.
const watchAfter = time.Second

// outlast waits for the answer under way, of a client that has sent more. That
// is not read on, so that only its socket tells when it is gone, and the
// destination must learn of it. One that has but ended its sending still gets
// all its answers.
func (s *session) outlast() {
	over := make(chan struct{})
	late := time.AfterFunc(watchAfter, func() {
		defer close(over)
		if s.client.wasReset() {
			s.abort()
		}
	})
	s.await(func() bool { return !s.pending.Load() || s.last.Load() || s.ended > 0 })
	if !late.Stop() {
		s.unwatch(over)
	}
}

func (s *session) holds(held bool) {
	s.mu.Lock()
	s.held = held
	s.mu.Unlock()
}

// ending returns when the client has ended its sending or is gone, or the
// stream's read deadline has come. It is false when it cannot know.
func (s *stream) ending() bool {
	raw := s.beneathRaw()
	if raw == nil {
		return false
	}
	_ = raw.Read(endedSending) // whatever its error, the client has no more to say
	return true
}

// wasReset returns when the client has reset its connection, or the stream's
// read deadline has come: then it is false.
func (s *stream) wasReset() bool {
	raw := s.beneathRaw()
	return raw != nil && raw.Read(isReset) == nil
}

// beneathRaw is the socket; nil when there is none.
func (s *stream) beneathRaw() syscall.RawConn {
	tcp := s.beneath()
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// desert notes that the destination has left, where that may not end the
// session: a request waits that it has seen nothing of. Servers have little
// patience with idle connections, five seconds some, and the request may wait
// for minutes: it is sent over a new one.
func (s *session) desert() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held {
		s.deserted.Store(true)
	}
	return s.held
}

// redial replaces the destination's end, which has left.
func (s *session) redial() {
	s.await(func() bool { return s.ended > 0 })
	_ = s.up.Close()
	s.up.release()
	s.mu.Lock()
	s.ended, s.dialled, s.dialErr = 0, false, nil
	s.mu.Unlock()
	s.deserted.Store(false)
	go s.upstreamSide()
}

var errOtherProtocol = errors.New("the host speaks another protocol than before")

// dialUpstream connects to the destination, over TLS where TLS has ended here.
func (s *session) dialUpstream(ctx context.Context) (net.Conn, error) {
	dial := func(ctx context.Context) (net.Conn, error) { return dialer.DialContext(ctx, "tcp", s.address) }
	if s.secure == nil {
		return dial(ctx)
	}
	up, err := s.secure.Connect(ctx, dial)
	if err != nil {
		return nil, err
	}
	if up.ConnectionState().NegotiatedProtocol != s.secure.Protocol {
		_ = up.Close()
		return nil, errOtherProtocol
	}
	return up, nil
}
