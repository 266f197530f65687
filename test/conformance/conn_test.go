package conformance

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// conn is a connection of a conversation, in clear or with TLS. Reads and
// writes are bounded by patience.
type conn struct {
	net.Conn
	tcp *net.TCPConn
	r   *bufio.Reader
	t   testing.TB // nil on the upstream's side, which must not end the test
}

// dial connects as the client.
func (h *held) dial() *conn {
	h.t.Helper()
	dialled, err := net.Dial("tcp", h.path.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = dialled.Close() })
	c := newConn(dialled.(*net.TCPConn))
	c.t = h.t
	if h.way.tls {
		c.secure(tls.Client(dialled, h.path.client("http/1.1")))
	}
	return c
}

func (h *held) upstreamConn(accepted *net.TCPConn) *conn {
	c := newConn(accepted)
	if h.way.tls {
		c.secure(tls.Server(accepted, upstreamIdentity().server("http/1.1")))
	}
	return c
}

func newConn(tcp *net.TCPConn) *conn {
	_ = tcp.SetDeadline(time.Now().Add(patience)) // fails of a closed one, which reading tells
	return &conn{Conn: tcp, tcp: tcp, r: bufio.NewReader(tcp)}
}

func (c *conn) secure(secured *tls.Conn) { c.Conn, c.r = secured, bufio.NewReader(secured) }

// Read reads behind what was looked at.
func (c *conn) Read(b []byte) (int, error) { return c.r.Read(b) }

// CloseWrite ends one direction; with TLS that needs a handshake.
func (c *conn) CloseWrite() error {
	if secured, ok := c.Conn.(*tls.Conn); ok {
		return errors.Join(secured.Handshake(), secured.CloseWrite())
	}
	return c.tcp.CloseWrite()
}

// reset ends the connection with a TCP reset.
func (c *conn) reset() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// failed ends the test when it is the client's side.
func (c *conn) failed(what string, err error) {
	if c.t != nil {
		c.t.Helper()
		c.t.Fatalf("%s: %v", what, err)
	}
}

// say writes the pieces.
func (c *conn) say(pieces ...string) {
	if _, err := io.WriteString(c.Conn, strings.Join(pieces, "")); err != nil {
		c.failed("speaking", err)
	}
}

// line reads a line.
func (c *conn) line() string {
	line, err := readLine(c.r)
	if err != nil {
		c.failed("reading a line", err)
	}
	return line
}

// rest reads until the end, and tells what came and how it ended.
func (c *conn) rest() (string, string) {
	got, err := io.ReadAll(c.r)
	return string(got), ending(err)
}

// request reads a whole request; nil: there is none.
func (c *conn) request() *message {
	m, err := readHead(c.r)
	if err != nil {
		return nil
	}
	m.readBody(c.r, true)
	return m
}

// head reads a response's head.
func (c *conn) head() *message {
	m, err := readHead(c.r)
	if err != nil {
		c.failed("reading a response", err)
		return &message{}
	}
	return m
}

// response reads responses to a method, notes them and returns the final one.
func (h *held) response(c *conn, method string) *message {
	h.t.Helper()
	for {
		m := c.head()
		if !m.bodyless(method) {
			m.readBody(c.r, false)
		}
		h.note(m, method)
		if m.status() >= 200 || m.status() == 101 {
			return m
		}
	}
}

// note notes a response, without what the sidecar may add to it.
func (h *held) note(m *message, method string) {
	if h.way.quotas && !m.dropQuotas() && m.status() >= 200 && method != "CONNECT" {
		h.returned.addf("a response without RateLimit fields of ours:")
	}
	h.returned.add(m)
}
