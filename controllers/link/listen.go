package link

import (
	"errors"
	"net"
	"sync"
	"syscall"
)

// limited is a listener of so many connections at most: others wait until one
// closes.
type limited struct {
	net.Listener
	free   chan struct{} // has a value for each connection
	closed chan struct{}
	once   sync.Once
}

func limit(listener net.Listener, connections int) *limited {
	return &limited{Listener: listener, free: make(chan struct{}, connections), closed: make(chan struct{})}
}

// Accept is of net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &limitedConn{Conn: conn, free: l.free}, nil
}

// Close is of net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// limitedConn is a connection of limited.
type limitedConn struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

// Close is of net.Conn.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.free })
	return err
}

// untilReadable waits until something can be read from a connection, or it is
// closed. A goroutine that waits here has a stack of 2 KiB; where TLS reads it
// has one of 4 to 8.
func untilReadable(conn net.Conn) {
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		conn = secured.NetConn()
	}
	if one, ok := conn.(*limitedConn); ok {
		conn = one.Conn
	}
	system, ok := conn.(syscall.Conn)
	if !ok {
		return // it is read at once, and waits there
	}
	raw, err := system.SyscallConn()
	if err != nil {
		return
	}
	next := make([]byte, 1)
	_ = raw.Read(func(socket uintptr) bool { // an error is that of the reading that follows
		for {
			_, _, err := syscall.Recvfrom(int(socket), next, syscall.MSG_PEEK)
			if !errors.Is(err, syscall.EINTR) {
				return !errors.Is(err, syscall.EAGAIN)
			}
		}
	})
}
