package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// headBytes is what a connection reads at once where a request's head is due:
	// most fit, and while a request waits for Redis it holds no more.
	headBytes = 4 << 10
	// bufferBytes is what a connection reads at once elsewhere.
	bufferBytes = 16 << 10
	// spareBytes at the end of a buffer stay free while a response is read, for
	// the fields that are added to it.
	spareBytes = 1 << 10
	// largeBytes bounds, over all connections, the memory of heads that do not
	// fit a buffer.
	largeBytes = 16 << 20
)

var (
	headPool   = sync.Pool{New: func() any { return new([headBytes]byte) }}
	bufferPool = sync.Pool{New: func() any { return new([bufferBytes]byte) }}
)

// large counts the memory of large heads.
var large atomic.Int64

// errLargeHeads: too many large heads at once.
var errLargeHeads = &malformed{status: 503, detail: "Too many large heads are being read. Try again, or send smaller ones."}

// stream is one end of a session: a connection, and what was read from it and
// not consumed yet. Between messages it holds no buffer, so that idle
// connections cost none.
type stream struct {
	net.Conn
	socket *net.TCPConn    // nil over TLS
	raw    syscall.RawConn // the socket's; nil over TLS

	buf        []byte // nil, or of one of the pools, or a large one
	start, end int
	// heads: a request's head is due.
	heads bool

	// readReady reads once into a fresh buffer, for raw.Read; made once.
	readReady func(fd uintptr) bool
	failed    error
	// writeReady writes what is unsent, for raw.Write; made once.
	writeReady func(fd uintptr) bool
	unsent     []byte
	unsendable error
}

// open begins to use a connection.
func (s *stream) open(c net.Conn) {
	s.Conn, s.socket, s.raw = c, nil, nil
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		s.socket, s.raw = tcp, raw
		s.readReady, s.writeReady = s.readFresh, s.writeUnsent
	}
}

// take takes over what another stream has buffered.
func (s *stream) take(from *stream) {
	s.buf, s.start, s.end = from.buf, from.start, from.end
	from.buf, from.start, from.end = nil, 0, 0
}

// NetConn is the connection beneath, as tls.Conn has it.
func (s *stream) NetConn() net.Conn { return s.Conn }

// bytes are what was read and not consumed.
func (s *stream) bytes() []byte { return s.buf[s.start:s.end] }

func (s *stream) empty() bool { return s.start == s.end }

// consume drops bytes, and with the last of them the buffer.
func (s *stream) consume(n int) {
	if s.start += n; s.start == s.end {
		s.release()
	}
}

// release drops what is buffered.
func (s *stream) release() {
	switch len(s.buf) {
	case 0:
	case headBytes:
		headPool.Put((*[headBytes]byte)(s.buf))
	case bufferBytes:
		bufferPool.Put((*[bufferBytes]byte)(s.buf))
	default:
		large.Add(-int64(len(s.buf)))
	}
	s.buf, s.start, s.end = nil, 0, 0
}

// fill waits for more bytes and buffers them; there must be room.
func (s *stream) fill() error {
	if s.buf == nil && s.raw != nil {
		if err := s.raw.Read(s.readReady); err != nil {
			return err
		}
		return s.failed
	}
	if s.buf == nil {
		s.lend()
	}
	n, err := s.Conn.Read(s.buf[s.end : len(s.buf)-spareBytes])
	s.end += n
	if n > 0 {
		return nil // an error comes again with the next read
	}
	if s.start == s.end {
		s.release()
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

func (s *stream) lend() {
	if s.heads {
		s.buf = headPool.Get().(*[headBytes]byte)[:]
		return
	}
	s.buf = bufferPool.Get().(*[bufferBytes]byte)[:]
}

// readFresh takes a buffer only when there is something to put into it.
func (s *stream) readFresh(fd uintptr) bool {
	s.lend()
	for {
		n, err := readSocket(fd, s.buf[:len(s.buf)-spareBytes])
		switch {
		case err == syscall.EINTR: //nolint:errorlint // a bare errno, on the hot path
			continue
		case err == syscall.EAGAIN: //nolint:errorlint // a bare errno, on the hot path
			s.release()
			return false
		case err != nil:
			s.release()
			s.failed = err
		case n == 0:
			s.release()
			s.failed = io.EOF
		default:
			s.end, s.failed = n, nil
		}
		return true
	}
}

// send writes all of p.
func (s *stream) send(p []byte) error {
	if s.raw == nil || len(p) == 0 {
		_, err := s.Conn.Write(p)
		return err
	}
	s.unsent, s.unsendable = p, nil
	err := s.raw.Write(s.writeReady)
	s.unsent = nil
	if err != nil {
		return err
	}
	return s.unsendable
}

func (s *stream) writeUnsent(fd uintptr) bool {
	for {
		n, err := writeSocket(fd, s.unsent)
		switch {
		case err == syscall.EINTR: //nolint:errorlint // a bare errno, on the hot path
			continue
		case err == syscall.EAGAIN: //nolint:errorlint // a bare errno, on the hot path
			return false
		case err != nil:
			s.unsendable = err
			return true
		}
		if s.unsent = s.unsent[n:]; len(s.unsent) == 0 {
			return true
		}
	}
}

// room makes room for more bytes. It reports whether what is buffered lies
// elsewhere now.
func (s *stream) room() (moved bool, err error) {
	switch {
	case s.buf == nil || s.end < len(s.buf)-spareBytes:
		return false, nil
	case s.start > 0:
		s.end = copy(s.buf, s.bytes())
		s.start = 0
		return true, nil
	}
	var bigger []byte
	if len(s.buf) == headBytes {
		bigger = bufferPool.Get().(*[bufferBytes]byte)[:]
	} else {
		size := 2 * len(s.buf)
		if large.Add(int64(size)) > largeBytes {
			large.Add(-int64(size))
			return false, errLargeHeads
		}
		bigger = make([]byte, size)
	}
	n := copy(bigger, s.bytes())
	s.release()
	s.buf, s.end = bigger, n
	return true, nil
}

// Read consumes what is buffered first: of a connection that is handed on.
func (s *stream) Read(p []byte) (int, error) {
	if s.empty() {
		return s.Conn.Read(p)
	}
	n := copy(p, s.bytes())
	s.consume(n)
	return n, nil
}

// CloseWrite ends one direction, where the connection can.
func (s *stream) CloseWrite() error {
	if half, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return s.Close()
}

// reset closes the connection with a TCP reset, so that the peer does not
// take what it got for the whole.
func (s *stream) reset() {
	if tcp := s.beneath(); tcp != nil {
		_ = tcp.SetLinger(0) // Close then is an ordinary one
		_ = tcp.Close()
		return
	}
	_ = s.Conn.Close()
}

// beneath is the TCP connection, whatever TLS lies over it; nil when there is
// none.
func (s *stream) beneath() *net.TCPConn {
	under := s.Conn
	for {
		wrapped, ok := under.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		under = wrapped.NetConn()
	}
	tcp, _ := under.(*net.TCPConn)
	return tcp
}

// copyAll sends to dst what is buffered in src, and then everything that
// comes. Between sockets it splices: the bytes stay in the kernel.
func (s *stream) copyAll(dst *stream) error {
	if !s.empty() {
		if err := dst.send(s.bytes()); err != nil {
			return err
		}
		s.release()
	}
	if s.socket != nil && dst.socket != nil {
		_, err := dst.socket.ReadFrom(s.socket)
		return err
	}
	buffer := bufferPool.Get().(*[bufferBytes]byte)
	defer bufferPool.Put(buffer)
	_, err := io.CopyBuffer(struct{ io.Writer }{dst.Conn}, struct{ io.Reader }{s.Conn}, buffer[:])
	return err
}

// spliceBytes is from how many bytes on it is worth to splice: a pipe has to
// be had.
const spliceBytes = 64 << 10

// copyExactly sends n bytes to dst: what is buffered in src, and more. It
// reports io.ErrUnexpectedEOF when src ends before.
func (s *stream) copyExactly(dst *stream, n int64) error {
	for n > 0 {
		if s.empty() {
			if n >= spliceBytes && s.socket != nil && dst.socket != nil {
				copied, err := dst.socket.ReadFrom(&io.LimitedReader{R: s.socket, N: n})
				if err == nil && copied < n {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			if err := s.fill(); err != nil {
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		part := s.bytes()
		part = part[:min(int64(len(part)), n)]
		if err := dst.send(part); err != nil {
			return writeError{err}
		}
		n -= int64(len(part))
		s.consume(len(part))
	}
	return nil
}
