package intercept

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// answer answers the client with the leaf and the host's protocol.
func (i *Interceptor) answer(ctx context.Context, hello Hello, client net.Conn, leaf *leaf, protocol string) (*tls.Conn, error) {
	g := &gate{Conn: client, hello: hello.raw, unread: len(hello.raw), config: &tls.Config{
		Certificates: []tls.Certificate{leaf.certificate},
		MinVersion:   tls.VersionTLS12,
	}}
	if protocol != "" {
		g.config.NextProtos = []string{protocol}
	}
	if err := ctx.Err(); err != nil {
		return nil, &PassError{Reason: NoProtocol, Err: fmt.Errorf("answering the client: %w", err)}
	}
	conn := tls.Server(g, i.server)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	switch err := conn.HandshakeContext(ctx); {
	case err == nil:
		return conn, nil
	case !g.open.Load():
		return nil, &PassError{Reason: NoProtocol, Err: fmt.Errorf("answering the client: %w", err)}
	default:
		if alert, ok := plainAlert(g.last[:]); ok {
			err = alert
		}
		return nil, i.clientFailed(hello.ServerName, err)
	}
}

// configOfConnection has all connections share one Config's ticket keys, which
// crypto/tls makes and changes, though each has a leaf and protocol of its own.
func configOfConnection(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	return hello.Conn.(*gate).config, nil
}

// clientFailed says what a client's failed handshake means, once the answer began.
func (i *Interceptor) clientFailed(host string, err error) error {
	switch {
	case refused(err):
		i.pinned(host, err)
		return &RejectedError{Pinned: true, Err: err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &RejectedError{Pinned: i.strike(host), Err: err}
	}
	return fmt.Errorf("handshake with the client: %w", err)
}

// refused reports whether a client's connection ended with an alert: it saw the
// answer and says no. crypto/tls gives a peer's alerts no type of their own.
func refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error"
}

// plainAlert is the fatal alert that a connection ended with, in clear. OpenSSL
// sends it so where TLS 1.3 wants it encrypted, and crypto/tls sees only that it
// cannot be decrypted.
func plainAlert(last []byte) (error, bool) {
	const fatal = 2
	if last[0] != recordAlert || last[1] != 3 || last[3] != 0 || last[4] != 2 || last[5] != fatal {
		return nil, false
	}
	return &net.OpError{Op: "remote error", Err: tls.AlertError(last[6])}, true
}

// alertLen is the length of an alert's record, in clear.
const alertLen = recordHead + 2

// gate is the client's connection as crypto/tls sees it. Until the first byte
// of an answer it takes nothing from the client, nor gives it anything: the
// ClientHello comes from memory, and an alert instead of an answer is withheld,
// so that what crypto/tls cannot serve can still be relayed.
type gate struct {
	net.Conn
	config *tls.Config
	hello  []byte // what Read yields first
	unread int    // bytes that the connection yields once more and are not to be
	open   atomic.Bool
	// dropped: the client has ended the connection, or reset it.
	dropped atomic.Bool
	last    [alertLen]byte // what was read last
}

// errWithheld ends a handshake that would begin with an alert.
var errWithheld = errors.New("no answer suits the client")

// NetConn is the connection beneath, as tls.Conn has it.
func (g *gate) NetConn() net.Conn { return g.Conn }

func (g *gate) Read(p []byte) (int, error) {
	if len(g.hello) > 0 {
		n := copy(p, g.hello)
		if g.hello = g.hello[n:]; len(g.hello) == 0 {
			g.hello = nil // the connection lives on for long
		}
		return n, nil
	}
	if !g.open.Load() {
		return 0, errWithheld // a whole ClientHello, and crypto/tls wants more
	}
	if g.unread > 0 {
		n, err := io.CopyN(io.Discard, g.Conn, int64(g.unread))
		g.unread -= int(n)
		if err != nil {
			return 0, err
		}
	}
	n, err := g.Conn.Read(p)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, net.ErrClosed) {
		g.dropped.Store(true)
	}
	g.keep(p[:n])
	return n, err
}

// keep keeps the last bytes of what was read.
func (g *gate) keep(p []byte) {
	if n := len(p); n < len(g.last) {
		copy(g.last[:], g.last[n:])
		copy(g.last[len(g.last)-n:], p)
		return
	}
	copy(g.last[:], p[len(p)-len(g.last):])
}

func (g *gate) Write(p []byte) (int, error) {
	if !g.open.Load() {
		if len(p) > 0 && p[0] == recordAlert {
			return 0, errWithheld
		}
		g.open.Store(true)
	}
	return g.Conn.Write(p)
}

// Close leaves the client open while it can be relayed: crypto/tls closes it
// when ctx ends.
func (g *gate) Close() error {
	if !g.open.Load() {
		return nil
	}
	return g.Conn.Close()
}
