package link

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
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
	// turn is given up with the next write; nil: it has none. See inTurn.
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

// inTurn is a listener of connections on which a client has said hello, few at a
// time until it is answered: of thousands that compete for the processors none
// would end before its sidecar gives it up and tries anew.
// A connection that waits costs a goroutine and its socket, a fifth of what it
// does once TLS has begun.
type inTurn struct {
	*limited
	turns chan struct{} // has a value for each handshake under way
	// odd has a value for each connection that is greetedOdd: whoever says too
	// little there keeps nobody waiting but others of the kind.
	odd      chan struct{}
	accepted chan accepted
}

// oddAtOnce bounds what TLS keeps of hellos that go on: up to 64 KiB each.
const oddAtOnce = 64

type accepted struct {
	conn net.Conn
	err  error
}

func takeTurns(listener *limited, atOnce int) *inTurn {
	l := &inTurn{limited: listener, turns: make(chan struct{}, atOnce), odd: make(chan struct{}, oddAtOnce), accepted: make(chan accepted)}
	go l.acceptAll()
	return l
}

// Accept is of net.Listener.
func (l *inTurn) Accept() (net.Conn, error) {
	select {
	case next := <-l.accepted:
		return next.conn, next.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *inTurn) acceptAll() {
	for {
		conn, err := l.limited.Accept()
		if err == nil {
			go l.line(conn.(*limitedConn))
			continue
		}
		if !l.hand(accepted{err: err}) || errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// hand says whether somebody took it.
func (l *inTurn) hand(next accepted) bool {
	select {
	case l.accepted <- next:
		return true
	case <-l.closed:
		return false
	}
}

// line hands a connection on when its turn has come, which ends with the first
// write.
func (l *inTurn) line(conn *limitedConn) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	greeted := untilHello(conn)
	_ = conn.SetReadDeadline(time.Time{})
	turns := l.turns
	switch greeted {
	case greetedNot:
		_ = conn.Close()
		return
	case greetedOdd:
		turns = l.odd
	case greetedWhole:
	}
	select {
	case turns <- struct{}{}:
	case <-l.closed:
		_ = conn.Close()
		return
	}
	end := func() { <-turns }
	conn.turn.Store(&end)
	// For one that hung up, what is computed would be lost.
	if hungUp(conn.Conn) || !l.hand(accepted{conn: conn}) {
		_ = conn.Close()
	}
}

// What a client has said.
type greeting int

const (
	// greetedNot: it went away, or said too little for too long.
	greetedNot greeting = iota
	// greetedWhole: all that is needed for an answer.
	greetedWhole
	// greetedOdd: something else, that might need more to be answered.
	greetedOdd
)

const (
	recordHeader = 5 // type, version (2), length (2): RFC 8446, 5.1
	helloHeader  = 4 // type, length (3): RFC 8446, 4
	maxHello     = recordHeader + 16<<10
)

// peeked are buffers for hellos that are looked at.
var peeked = sync.Pool{New: func() any { return new([maxHello]byte) }}

// untilHello waits until a client's hello is there, without reading it.
func untilHello(conn *limitedConn) greeting {
	found := greetedOdd
	err := peek(conn.Conn, func(socket int) (enough bool) {
		buffer := peeked.Get().(*[maxHello]byte)
		defer peeked.Put(buffer)
		count, err := recv(socket, buffer[:])
		switch {
		case errors.Is(err, syscall.EAGAIN):
			return false
		case err != nil || count == 0:
			found = greetedNot
			return true
		}
		found, enough = helloIn(buffer[:count])
		return enough
	})
	if err != nil {
		return greetedNot
	}
	return found
}

// helloIn says what a client's first bytes are, if they are enough to say.
func helloIn(said []byte) (greeting, bool) {
	const handshake, clientHello = 22, 1
	switch {
	case said[0] != handshake:
		return greetedOdd, true // it is refused, once there is a record's header
	case len(said) < recordHeader+helloHeader:
		return greetedNot, false
	}
	record := recordHeader + int(said[3])<<8 + int(said[4])
	hello := recordHeader + helloHeader + int(said[6])<<16 + int(said[7])<<8 + int(said[8])
	if said[5] != clientHello || hello > record || record > maxHello {
		return greetedOdd, true
	}
	return greetedWhole, len(said) >= record
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
	next := make([]byte, 1)
	_ = peek(conn, func(socket int) bool { // an error is that of the reading that follows
		_, err := recv(socket, next)
		return !errors.Is(err, syscall.EAGAIN)
	})
}

// peek calls look when something can be read from a connection's socket, or it
// is closed, until look says that it was enough. What is no socket is enough.
func peek(conn net.Conn, look func(socket int) (enough bool)) error {
	system, ok := conn.(syscall.Conn)
	if !ok {
		return nil // it is read at once, and waits there
	}
	raw, err := system.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(socket uintptr) bool { return look(int(socket)) })
}

// recv has what can be read from a socket, and leaves it there.
func recv(socket int, into []byte) (int, error) {
	for {
		count, _, err := syscall.Recvfrom(socket, into, syscall.MSG_PEEK)
		if !errors.Is(err, syscall.EINTR) {
			return count, err
		}
	}
}
