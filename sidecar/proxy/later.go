package proxy

import (
	"context"
	"net"
	"sync"
)

// later are the connections to the destination that a session of HTTP/2 has
// beside its first, as net/http dials them when that one takes no more streams.
// They end with the session: a connection that net/http finds idle only after
// that would stay for as long as the destination likes.
type later struct {
	mu    sync.Mutex
	ended bool
	conns map[*laterConn]struct{}
}

type laterConn struct {
	net.Conn
	of *later
}

// dial connects to an address, unless the session has ended meanwhile.
func (l *later) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialled, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &laterConn{dialled, l}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		_ = dialled.Close()
		return nil, net.ErrClosed
	}
	if l.conns == nil {
		l.conns = map[*laterConn]struct{}{}
	}
	l.conns[c] = struct{}{}
	return c, nil
}

// end closes those that are open, and those that are still to come.
func (l *later) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for c := range l.conns {
		_ = c.Conn.Close()
	}
	l.conns = nil
}

// NetConn is the connection beneath, as tls.Conn has it.
func (c *laterConn) NetConn() net.Conn { return c.Conn }

func (c *laterConn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
