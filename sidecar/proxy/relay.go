package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"time"
)

// dialTimeout bounds connecting to a destination.
const dialTimeout = 10 * time.Second

var dialer = net.Dialer{Timeout: dialTimeout}

// dial connects to where c was going.
func (s *server) dial(c *conn) (*conn, error) {
	up, err := dialer.DialContext(s.proxy.cut, "tcp", c.destination.String())
	if err != nil {
		s.proxy.metrics.upstream.WithLabelValues(string(s.direction)).Inc()
		s.proxy.log.Debug("destination unreachable", "direction", s.direction, "error", err)
		return nil, fmt.Errorf("dial original destination: %w", err)
	}
	return &conn{Conn: up}, nil
}

// serveSilent serves a client that has not spoken. Its protocol may be one in
// which the server speaks first (SMTP, MySQL), so the destination is dialled;
// or it is an HTTP client that connects ahead of its requests, so that it is
// still served as HTTP when it speaks first.
func (s *server) serveSilent(c *conn) {
	if s.proxy.draining.Err() != nil {
		_ = c.Close()
		return
	}
	up, err := s.dial(c)
	if err != nil {
		c.reset()
		return
	}
	fromClient, fromUpstream := c.await(), up.await()
	select {
	case <-fromClient:
		up.interrupt(fromUpstream)
	case <-fromUpstream:
		c.interrupt(fromClient)
	case <-s.proxy.draining.Done():
		_, _ = c.Close(), up.Close()
		return
	}
	if len(up.prefix) > 0 || len(c.prefix) == 0 {
		s.pass(c, up, speaksOther)
		return
	}
	kind, err := s.sniff(c)
	switch {
	case err != nil:
		_ = up.Close()
		c.reset()
	case kind == speaksHTTP:
		_ = up.Close() // requests have connections of their own, shared by all clients
		s.queue.put(c.trimmed())
	default:
		s.pass(c, up, kind)
	}
}

// await reads once in the background; the channel yields when bytes or the
// end have come.
func (c *conn) await() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = c.fill() // an end or an error shows again at the next read
	}()
	return done
}

// interrupt ends a read that await began. Bytes that came meanwhile are kept.
func (c *conn) interrupt(reading <-chan struct{}) {
	_ = c.SetReadDeadline(time.Unix(1, 0))
	<-reading
	_ = c.SetReadDeadline(time.Time{})
}

// pass relays a connection that is not HTTP until both ends are done.
func (s *server) pass(c, up *conn, kind protocol) {
	label := kindOpaque
	if kind == speaksTLS {
		label = kindTLS
	}
	s.proxy.metrics.passed.WithLabelValues(string(s.direction), label).Inc()
	s.proxy.relays.Add(1)
	go func() {
		defer s.proxy.relays.Done()
		relay(s.proxy.cut, c, up)
	}()
}

// relay copies in both directions until both have ended, or ctx has. The end
// of one direction is passed on and leaves the other open, as in TCP; a reset
// is passed on as a reset.
func relay(ctx context.Context, a, b *conn) {
	stop := context.AfterFunc(ctx, func() { a.reset(); b.reset() })
	defer stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		pipe(a, b)
	}()
	pipe(b, a)
	<-done
	_, _ = a.Close(), b.Close()
}

// pipe copies src to dst. Between TCP connections io.Copy splices: the bytes
// stay in the kernel.
func pipe(dst, src *conn) {
	var err error
	if len(src.prefix) > 0 {
		_, err = dst.Write(src.prefix)
		src.prefix = nil
	}
	if err == nil {
		_, err = io.Copy(dst.Conn, src.Conn)
	}
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		dst.reset()
		src.reset()
	}
}
