package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// server serves one listener.
type server struct {
	proxy     *Proxy
	direction ruleset.Direction
	listener  net.Listener
	// explicit: clients take the listener for a forward proxy.
	explicit bool
	// destination of an accepted connection; see Config.
	destination func(net.Conn) (netip.AddrPort, error)
	http2       *http2Server
	// accepted is closed when the accept loop has ended.
	accepted chan struct{}
}

func newServer(p *Proxy, direction ruleset.Direction, l net.Listener) *server {
	s := &server{proxy: p, direction: direction, listener: l, destination: p.destination, accepted: make(chan struct{})}
	s.http2 = newHTTP2Server(s)
	return s
}

// serve accepts until the listener is closed.
func (s *server) serve() error {
	defer close(s.accepted)
	go s.http2.serve()
	backoff := 5 * time.Millisecond
	for {
		c, err := s.listener.Accept()
		switch {
		case err == nil:
			backoff = 5 * time.Millisecond
			s.receive(c)
		case s.proxy.draining.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept %s connections: %w", s.direction, err)
		default: // out of file descriptors, say: connections end, then it goes on
			s.proxy.log.Warn("accepting failed, trying again", "direction", s.direction, "in", backoff, "error", err)
			select {
			case <-time.After(backoff):
			case <-s.proxy.draining.Done():
			}
			backoff = min(2*backoff, time.Second)
		}
	}
}

// shutdown ends accepting, tells the sessions to go when they are idle, and
// drains those of HTTP/2.
func (s *server) shutdown(ctx context.Context) error {
	_ = s.listener.Close() // closed twice is closed
	select {
	case <-s.accepted:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.proxy.sessions.each((*session).drain)
	return s.http2.http.Shutdown(ctx)
}

// receive begins a session for an accepted connection.
func (s *server) receive(accepted net.Conn) {
	if s.explicit {
		one := &session{server: s, remote: addrPort(accepted.RemoteAddr()).Addr()}
		s.begin(one, accepted, one.runExplicit)
		return
	}
	destination, err := s.destinationOf(accepted)
	if err != nil {
		s.proxy.log.Debug("connection refused", "direction", s.direction, "error", err)
		refused := stream{Conn: accepted}
		refused.reset()
		return
	}
	one := &session{server: s, address: destination.String(), destination: destination, remote: addrPort(accepted.RemoteAddr()).Addr()}
	s.begin(one, accepted, one.run)
}

// begin runs a session, unless there are too many.
func (s *server) begin(one *session, accepted net.Conn, run func()) {
	one.client.open(accepted)
	if !s.proxy.sessions.add(one) {
		s.proxy.metrics.refused.WithLabelValues(string(s.direction)).Inc()
		one.client.reset()
		return
	}
	go run()
}

// destinationOf returns where the connection was going, unless that is here.
func (s *server) destinationOf(accepted net.Conn) (netip.AddrPort, error) {
	destination, err := s.destination(accepted)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination of %s: %w", accepted.RemoteAddr(), err)
	}
	destination = netip.AddrPortFrom(destination.Addr().Unmap(), destination.Port())
	if !destination.IsValid() || destination.Addr().IsUnspecified() || destination.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("original destination of %s: %s is no address to dial", accepted.RemoteAddr(), destination)
	}
	if s.proxy.servesItself(destination, addrPort(accepted.LocalAddr())) {
		return netip.AddrPort{}, fmt.Errorf("connection from %s was made to the sidecar itself, not captured", accepted.RemoteAddr())
	}
	return destination, nil
}

// servesItself reports whether dialling destination would come back: it is a
// listener of this proxy, at the address that the connection came in by, at
// the listener's own or at loopback.
func (p *Proxy) servesItself(destination, local netip.AddrPort) bool {
	if destination == local {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.servers {
		listener := addrPort(s.listener.Addr())
		if destination.Port() != listener.Port() {
			continue
		}
		host := destination.Addr()
		if host == listener.Addr() || listener.Addr().IsUnspecified() && (host.IsLoopback() || host == local.Addr()) {
			return true
		}
	}
	return false
}

// addrPort is the unmapped address; not valid when a is not TCP.
func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
