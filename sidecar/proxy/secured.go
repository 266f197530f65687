package proxy

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"time"

	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// secured serves a client that speaks TLS. Outbound, where it is for a host of
// an intercepting policy, TLS ends here and what is within is served; anything
// else is relayed.
func (s *session) secured() {
	p := s.server.proxy
	index := p.table.Load().of(s.server.direction)
	if s.server.direction != ruleset.Outbound || s.secure != nil || index.empty() {
		s.pass(speaksTLS, s.named(s.names))
		return
	}
	hello, status, err := s.readHello()
	switch {
	case err != nil:
		s.leave()
		return
	case status != intercept.Complete:
		s.passUnread()
		return
	}
	policies := s.named(names{nameOfTunnel: s.names[nameOfTunnel], nameOfTLS: hello.ServerName})
	if p.interceptor == nil || !p.interceptor.Wants(hello.ServerName) {
		s.passUnseen(hello, policies)
		return
	}
	s.intercept(hello, policies)
}

// readHello reads the whole ClientHello, of which the beginning is buffered, for
// as long as a head may take: pausing must not be a way around a limit. It
// consumes nothing. NeedMore is what did not come in time, or before the
// destination spoke.
func (s *session) readHello() (intercept.Hello, intercept.Status, error) {
	timed := false
	for {
		hello, status := intercept.ReadHello(s.client.bytes())
		if status != intercept.NeedMore {
			if status == intercept.Complete {
				// Of a copy: what is buffered is consumed before the Hello is done with.
				hello, status = intercept.ReadHello(bytes.Clone(s.client.bytes()))
			}
			if timed {
				return hello, status, s.client.SetReadDeadline(time.Time{})
			}
			return hello, status, nil
		}
		if !timed {
			timed = true
			if err := s.client.SetReadDeadline(time.Now().Add(headTimeout)); err != nil {
				return hello, status, err
			}
		}
		if _, err := s.client.room(); err != nil {
			return hello, status, err
		}
		switch err := s.client.fill(); {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return hello, status, s.client.SetReadDeadline(time.Time{})
		default:
			return hello, status, err
		}
	}
}

// intercept ends TLS at both ends and serves what is within.
func (s *session) intercept(hello intercept.Hello, policies []*policy) {
	p := s.server.proxy
	if err := s.connected(); err != nil || !s.takeUpstream() {
		s.leave()
		return
	}
	dialled := s.up.Conn
	below := &stream{}
	below.open(s.client.Conn)
	below.take(&s.client)
	inner, err := p.interceptor.Intercept(p.cut, hello, below, func(ctx context.Context) (net.Conn, error) {
		first := dialled
		dialled = nil
		if first != nil {
			return first, nil
		}
		return dialer.DialContext(ctx, "tcp", s.address)
	})
	var pass *intercept.PassError
	switch {
	case errors.As(err, &pass):
		s.client.take(below)
		s.passDespite(policies, dialled == nil)
		return
	case err != nil:
		below.release()
		s.leaveHanded()
		return
	}
	s.enter(inner)
	if inner.Protocol == "h2" {
		s.serveHTTP2()
		return
	}
	s.again()
	s.idles()
	s.clientSide()
}

// enter goes on with what is within TLS.
func (s *session) enter(inner *intercept.Session) {
	s.up.release()
	s.names[nameOfTLS] = inner.SNI
	s.mu.Lock() // drain and abort look at both ends
	defer s.mu.Unlock()
	s.secure = inner
	s.client.open(inner.Client)
	s.up.open(inner.Upstream)
}

// idles notes that the client may be told to go, which is where it was to go
// already.
func (s *session) idles() {
	s.busy.Store(false) // before it is asked, as drain asks after it has begun
	if s.server.proxy.draining.Err() != nil {
		s.drain()
	}
}

// leaveHanded is leave while the ends are handed to somebody who has returned
// them.
func (s *session) leaveHanded() {
	s.client.release()
	s.up.release()
	s.leave()
}

// again has both ends read anew, by the two goroutines that a session has.
func (s *session) again() {
	s.mu.Lock()
	s.ended = 0
	s.mu.Unlock()
	s.mode.Store(int32(modeUndecided))
	go s.upstreamSide()
}

// passDespite relays a connection that cannot be intercepted, where the
// policies let pass what cannot be counted, and ends it otherwise.
func (s *session) passDespite(policies []*policy, redial bool) {
	if denied(policies) { // before anything is dialled
		s.leaveHanded()
		return
	}
	if redial {
		s.up.release()
		s.mu.Lock()
		s.dialled = false
		s.mu.Unlock()
		_ = s.up.Close()
	}
	s.again()
	s.pass(speaksTLS, policies)
}

// spoke tells the interceptor whether the client went on within TLS: one that
// did not may have refused the certificate.
func (s *session) spoke(err error) {
	switch {
	case s.secure == nil:
	case err == nil:
		s.secure.Used()
	default:
		s.secure.Unused(err)
	}
}
