package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"
)

// protocol is what a connection's first bytes say that it speaks.
type protocol int

const (
	// undecided: more bytes may still make it either.
	undecided protocol = iota
	speaksHTTP
	speaksTLS
	speaksOther
	// silent: the client has not spoken yet.
	silent
)

const (
	// sniffBytes are read at most before deciding. A request line that is
	// longer is HTTP when all of it so far could be.
	sniffBytes = 1024
	// sniffWait is how long a client may be silent, or pause within its first
	// line, before that itself decides. Clients that speak first send with or
	// right after the handshake's last segment.
	sniffWait = 150 * time.Millisecond
	// maxMethodBytes is longer than any registered method.
	maxMethodBytes = 32
)

// The methods that an HTTP/0.9 style line, without a version, may have.
var plainMethods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

// classify decides on a connection's first bytes. Whatever an HTTP server
// might take for a request must be HTTP here, or limits could be evaded; what
// is then malformed is net/http's to refuse.
func classify(data []byte) protocol {
	data = bytes.TrimLeft(data, "\r\n") // RFC 9112 section 2.2: servers ignore empty lines
	if len(data) == 0 {
		return undecided
	}
	if data[0] == 0x16 { // a TLS record of type handshake, of any version
		switch {
		case len(data) == 1:
			return undecided
		case data[1] == 0x03:
			return speaksTLS
		}
		return speaksOther
	}
	end := bytes.IndexFunc(data, func(r rune) bool { return !isTokenChar(r) })
	if end < 0 {
		end = len(data)
	}
	if end == 0 || end > maxMethodBytes {
		return speaksOther
	}
	if end == len(data) {
		return undecided
	}
	if data[end] != ' ' && data[end] != '\t' {
		return speaksOther
	}
	return classifyLine(data[:end], data[end:])
}

// classifyLine decides on what follows the method of a request line.
func classifyLine(method, rest []byte) protocol {
	line, _, whole := bytes.Cut(rest, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return speaksOther
	}
	if !whole {
		return undecided
	}
	fields := bytes.Fields(line)
	switch {
	case len(fields) > 0 && bytes.HasPrefix(bytes.ToUpper(fields[len(fields)-1]), []byte("HTTP/")):
		return speaksHTTP
	case len(fields) == 1 && fields[0][0] == '/' && slices.Contains(plainMethods, string(method)):
		return speaksHTTP
	}
	return speaksOther
}

// classifyLate decides on bytes after which the client paused, or that filled
// the buffer. What could still become a request is HTTP: pausing must not be
// a way around a limit, and ReadHeaderTimeout bounds the rest.
func classifyLate(data []byte) protocol {
	if len(data) == 0 {
		return silent
	}
	if kind := classify(data); kind != undecided {
		return kind
	}
	if data[0] == 0x16 {
		return speaksOther
	}
	return speaksHTTP
}

// isTokenChar is tchar of RFC 9110 section 5.6.2.
func isTokenChar(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return true
	}
	return r < 0x80 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(r)) >= 0
}

// sniff reads until the protocol is clear, at most for sniffWait and
// sniffBytes. What was read is read again by the connection's next reader.
// An error other than io.EOF means that the connection is gone; with io.EOF
// the client has finished sending, and may still listen.
func (c *conn) sniff() (protocol, error) {
	if err := c.SetReadDeadline(time.Now().Add(sniffWait)); err != nil {
		return undecided, err
	}
	kind, err := c.readUntilClear()
	return kind, errors.Join(err, c.SetReadDeadline(time.Time{}))
}

func (c *conn) readUntilClear() (protocol, error) {
	for {
		if kind := classify(c.prefix); kind != undecided {
			return kind, nil
		}
		if len(c.prefix) >= sniffBytes {
			return classifyLate(c.prefix), nil
		}
		err := c.fill()
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return classifyLate(c.prefix), nil
		case errors.Is(err, io.EOF):
			if kind := classify(c.prefix); kind != undecided {
				return kind, nil
			}
			return speaksOther, nil
		default:
			return undecided, err
		}
	}
}

// conn is a connection whose first bytes have been read already.
type conn struct {
	net.Conn
	// prefix is what was read and not yet consumed.
	prefix []byte
	// destination is where the client was going; only of accepted connections.
	destination netip.AddrPort
}

// fill reads once, behind the prefix.
func (c *conn) fill() error {
	c.prefix = slices.Grow(c.prefix, sniffBytes-len(c.prefix))
	n, err := c.Conn.Read(c.prefix[len(c.prefix):sniffBytes])
	c.prefix = c.prefix[:len(c.prefix)+n]
	if n > 0 {
		return nil // an error comes back at the next read
	}
	return err
}

// Read consumes the prefix first.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.prefix) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.prefix)
	if c.prefix = c.prefix[n:]; len(c.prefix) == 0 {
		c.prefix = nil
	}
	return n, nil
}

// CloseWrite ends one direction, where the connection can.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}

// reset closes the connection with a TCP reset, so that the peer does not
// take what it got for the whole.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // Close then is an ordinary one
	}
	_ = c.Conn.Close()
}
