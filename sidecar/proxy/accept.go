package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// readHeaderTimeout bounds a request's head from its first byte. Between
	// requests a connection may be idle for as long as both ends like.
	readHeaderTimeout = 30 * time.Second
	// maxHeaderBytes bounds a request's and a response's head: what net/http
	// servers allow by default, so that the sidecar is not the narrower.
	maxHeaderBytes = 1 << 20
	// handOver bounds the wait for a first request's head at the beginning of
	// a drain, as net/http's Shutdown does.
	handOver = 5 * time.Second
)

// connKey is the context key of a request's *conn.
type connKey struct{}

// server serves one listener.
type server struct {
	proxy     *Proxy
	direction ruleset.Direction
	listener  net.Listener
	http      *http.Server
	queue     *queue
	// accepted is closed when the accept loop has ended.
	accepted chan struct{}
	// sniffing are connections of which it is not known yet what they speak.
	sniffing sync.WaitGroup
}

func newServer(p *Proxy, direction ruleset.Direction, l net.Listener) *server {
	s := &server{
		proxy:     p,
		direction: direction,
		listener:  l,
		queue:     &queue{conns: make(chan net.Conn), done: make(chan struct{}), addr: l.Addr()},
		accepted:  make(chan struct{}),
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s,
		Protocols:         &protocols,
		ReadHeaderTimeout: readHeaderTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          p.quiet,
		BaseContext:       func(net.Listener) context.Context { return p.cut },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			if state == http.StateClosed {
				c.(*conn).taken()
			}
		},
		// "OPTIONS *" is the application's to answer.
		DisableGeneralOptionsHandler: true,
	}
	return s
}

// serve accepts until the listener is closed.
func (s *server) serve() error {
	defer close(s.accepted)
	go func() { _ = s.http.Serve(s.queue) }() // ends with the queue
	backoff := 5 * time.Millisecond
	for {
		c, err := s.listener.Accept()
		switch {
		case err == nil:
			backoff = 5 * time.Millisecond
			s.sniffing.Add(1)
			go s.receive(c)
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

// shutdown ends accepting, lets what has been accepted find its way, and
// drains the HTTP connections.
func (s *server) shutdown(ctx context.Context) error {
	_ = s.listener.Close() // closed twice is closed
	select {
	case <-s.accepted:
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := waitFor(ctx, &s.sniffing); err != nil {
		return err
	}
	return s.http.Shutdown(ctx)
}

// receive finds out what an accepted connection speaks and hands it on.
func (s *server) receive(accepted net.Conn) {
	defer s.sniffing.Done()
	c := &conn{Conn: accepted, served: make(chan struct{})}
	destination, err := s.destinationOf(accepted)
	if err != nil {
		s.proxy.log.Debug("connection refused", "direction", s.direction, "error", err)
		c.reset()
		return
	}
	c.destination = destination

	kind, err := s.sniff(c)
	if err != nil {
		c.reset()
		return
	}
	switch kind {
	case speaksHTTP:
		s.queue.put(c.trimmed())
	case silent:
		s.serveSilent(c)
	default:
		up, err := s.dial(c)
		if err != nil {
			c.reset()
			return
		}
		s.pass(c, up, kind)
	}
}

// sniff finds out what a connection speaks. What resembles HTTP is net/http's
// to refuse where there are limits to evade; elsewhere it passes.
func (s *server) sniff(c *conn) (protocol, error) {
	kind, err := c.sniff()
	if kind != resemblesHTTP {
		return kind, err
	}
	if s.proxy.table.Load().of(s.direction).empty() {
		return speaksOther, err
	}
	return speaksHTTP, err
}

// destinationOf returns where the connection was going, unless that is here.
func (s *server) destinationOf(accepted net.Conn) (netip.AddrPort, error) {
	destination, err := s.proxy.destination(accepted)
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

// trimmed drops the empty lines before the first request line, which
// RFC 9112 section 2.2 lets servers ignore and net/http does not.
func (c *conn) trimmed() *conn {
	for len(c.prefix) > 0 && (c.prefix[0] == '\r' || c.prefix[0] == '\n') {
		c.prefix = c.prefix[1:]
	}
	return c
}

// client is the address that the connection came from.
func (c *conn) client() netip.Addr { return addrPort(c.RemoteAddr()).Addr() }

// queue is the listener of the http.Server: it yields the connections that
// turned out to speak HTTP.
type queue struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

// put returns when the connection's first request is being served, or after
// handOver: from its Shutdown on, an http.Server drops a connection of which
// it has not read a head, and does not know one that it has just accepted.
func (q *queue) put(c *conn) {
	select {
	case q.conns <- c:
		patience := time.NewTimer(handOver)
		defer patience.Stop()
		select {
		case <-c.served:
		case <-patience.C:
		}
	case <-q.done:
		_ = c.Close()
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
