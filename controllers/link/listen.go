package link

import (
	"crypto/tls"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
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
	// turn is given up with the next write; nil: it has none. See handshakes.
	turn atomic.Pointer[func()]
}

// Write is of net.Conn.
func (c *limitedConn) Write(p []byte) (int, error) {
	defer c.endTurn()
	return c.Conn.Write(p)
}

// Close is of net.Conn.
func (c *limitedConn) Close() error {
	c.endTurn()
	err := c.Conn.Close()
	c.once.Do(func() { <-c.free })
	return err
}

func (c *limitedConn) endTurn() {
	if end := c.turn.Swap(nil); end != nil {
		(*end)()
	}
}

// handshakes are computed one after the other: of thousands that compete for
// the processors none would end before its sidecar gives it up and tries anew.
// It has a value for each that is under way.
type handshakes chan struct{}

func newHandshakes() handshakes { return make(handshakes, runtime.GOMAXPROCS(0)) }

var errGone = errors.New("the client is gone")

// wait is called between the client's hello and the answer to it, of a
// connection of limited; its turn ends when that is written. For
// tls.Config.GetConfigForClient.
func (h handshakes) wait(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	conn, ok := hello.Conn.(*limitedConn)
	if !ok {
		return nil, nil
	}
	select {
	case h <- struct{}{}:
	case <-hello.Context().Done():
		return nil, hello.Context().Err()
	}
	end := func() { <-h }
	if closed(conn.Conn) { // what is computed for it would be lost
		end()
		return nil, errGone
	}
	conn.turn.Store(&end)
	return nil, nil
}

// closed says whether the other side has closed a connection on which it has
// nothing more to say for now.
func closed(conn net.Conn) bool {
	system, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := system.SyscallConn()
	if err != nil {
		return true
	}
	gone := false
	err = raw.Control(func(socket uintptr) {
		count, _, err := syscall.Recvfrom(int(socket), make([]byte, 1), syscall.MSG_PEEK)
		gone = err == nil && count == 0 || err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	})
	return gone || err != nil
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
