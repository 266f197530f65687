package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// ServeExplicit serves as a forward proxy for the pod's own clients (RFC 9110
// sections 3.7 and 9.3.6), where nothing captures their connections: CONNECT,
// within which everything is served as if captured, and requests in absolute
// form. It returns as Serve does.
func (p *Proxy) ServeExplicit(l net.Listener) error {
	s := newServer(p, ruleset.Outbound, l)
	s.explicit = true
	return p.serve(s)
}

// ServeFor accepts Inbound connections that are meant for another port of the
// same address, where nothing captures them. It returns as Serve does.
func (p *Proxy) ServeFor(port uint16, l net.Listener) error {
	s := newServer(p, ruleset.Inbound, l)
	s.destination = func(c net.Conn) (netip.AddrPort, error) {
		return netip.AddrPortFrom(addrPort(c.LocalAddr()).Addr(), port), nil
	}
	return p.serve(s)
}

// runExplicit learns the destination from the first head, and then serves the
// session like any other.
func (s *session) runExplicit() {
	s.changed.L = &s.mu
	s.dialled, s.dialErr = true, errNoDestination
	if err := s.client.fill(); err != nil || !s.begin() {
		s.ended = 1 // nobody reads the other end
		s.leave()
		return
	}
	err := s.readRequest()
	if err == nil {
		err = s.explicitTarget()
	}
	if err != nil {
		s.ended = 1
		s.unreadable(err)
		s.end()
		return
	}
	s.dialled, s.dialErr = false, nil
	if s.in.method != "CONNECT" {
		s.mode.Store(int32(modeHTTP1))
		go s.upstreamSide()
		s.requests()
		return
	}
	s.see()
	if !s.dial() {
		s.ended = 1
		s.refuseLast(unreachable())
		s.end()
		return
	}
	s.names[nameOfTunnel] = strings.Clone(normalHost(s.in.target)) // the head is overwritten by what follows
	s.client.consume(s.in.size)
	s.writing.Lock()
	_, err = s.client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n"))
	s.writing.Unlock()
	if err != nil {
		s.abort()
	}
	s.forwards = false
	s.busy.Store(!s.client.empty())
	s.run()
}

var errNoDestination = errors.New("no destination is known")

// explicitTarget reads where a request to a forward proxy is to go.
func (s *session) explicitTarget() error {
	s.forwards = true
	if s.in.method == "CONNECT" {
		s.address = strings.Clone(s.in.target) // the head is overwritten by what follows
		return nil
	}
	address, err := s.forwardAddress()
	s.address = address
	return err
}

// forwardAddress is the authority of a target in absolute form, with its port.
func (s *session) forwardAddress() (string, error) {
	authority, ok := absolute(s.in.target)
	switch {
	case !ok:
		return "", badHead("This is a forward proxy: it takes CONNECT, and targets in absolute form (RFC 9112 section 3.2.2).")
	case !strings.EqualFold(s.in.target[:5], "http:"):
		return "", badHead("Ask for https: targets with CONNECT.")
	}
	if host, port, err := net.SplitHostPort(authority); err == nil && port != "" {
		return net.JoinHostPort(host, port), nil
	}
	return net.JoinHostPort(strings.Trim(strings.TrimSuffix(authority, ":"), "[]"), "80"), nil
}

// elsewhere reports whether the request is for another destination than the
// session's, in which case next serves it and what follows.
func (s *session) elsewhere() (bool, error) {
	if !s.forwards {
		return false, nil
	}
	address, err := s.forwardAddress()
	if err != nil || address == s.address {
		return false, err
	}
	if s.become(modeHTTP1, modeHanded) && s.connected() == nil {
		_ = s.up.SetReadDeadline(time.Unix(1, 0))
	}
	s.await(func() bool { return s.ended > 0 })
	next := &session{server: s.server, remote: s.remote, address: strings.Clone(address), forwards: true}
	next.changed.L = &next.mu
	next.client.open(s.client.Conn)
	next.client.take(&s.client)
	next.busy.Store(true)
	next.mode.Store(int32(modeHTTP1))
	s.next = next
	s.server.proxy.sessions.replace(s, next)
	if s.up.Conn != nil {
		_ = s.up.Close()
	}
	s.up.release()
	return true, nil
}

// dialsItself reports whether the address that was reached is this proxy.
func (s *session) dialsItself(up net.Conn) error {
	if s.server.explicit && s.server.proxy.servesItself(addrPort(up.RemoteAddr()), addrPort(s.client.LocalAddr())) {
		return fmt.Errorf("the destination %s is this proxy itself", up.RemoteAddr())
	}
	return nil
}
