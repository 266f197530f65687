// Package hasty lets a server's time pass quickly, for tests of its deadlines.
package hasty

import (
	"net"
	"time"
)

// Listener is one for whose connections time to read passes a hundred times as fast.
type Listener struct{ net.Listener }

// Accept waits for the next connection.
func (l Listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return hastyConn{conn}, err
}

type hastyConn struct{ net.Conn }

func (c hastyConn) SetReadDeadline(at time.Time) error {
	if left := time.Until(at); left > 0 {
		at = time.Now().Add(left / 100)
	}
	return c.Conn.SetReadDeadline(at)
}
