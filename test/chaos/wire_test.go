package chaos

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire is a TCP proxy before Redis: it can be slow, and cut.
type wire struct {
	listener net.Listener
	target   string
	// slowness of what comes back, nanoseconds.
	slowness atomic.Int64

	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

func newWire(t *testing.T, target string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: listener, target: target, conns: map[net.Conn]struct{}{}}
	t.Cleanup(func() {
		_ = listener.Close()
		w.reset()
	})
	go w.accept()
	return w
}

func (w *wire) accept() {
	for {
		conn, err := w.listener.Accept()
		if err != nil {
			return
		}
		go w.connect(conn)
	}
}

func (w *wire) connect(conn net.Conn) {
	server, err := net.Dial("tcp", w.target)
	if err != nil {
		_ = conn.Close()
		return
	}
	w.mu.Lock()
	w.conns[conn], w.conns[server] = struct{}{}, struct{}{}
	w.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, conn); _ = server.Close() })
	both.Go(func() { w.slowly(conn, server); _ = conn.Close() })
	both.Wait()
	w.mu.Lock()
	delete(w.conns, conn)
	delete(w.conns, server)
	w.mu.Unlock()
}

// slowly copies what was read so much later, in order.
func (w *wire) slowly(to, from net.Conn) {
	type piece struct {
		due  time.Time
		data []byte
	}
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			data := make([]byte, 16<<10)
			n, err := from.Read(data)
			if n > 0 {
				pieces <- piece{time.Now().Add(time.Duration(w.slowness.Load())), data[:n]}
			}
			if err != nil {
				return
			}
		}
	}()
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.data); err != nil {
			_ = from.Close() // and what is left is read to its end
		}
	}
}

// reset cuts all connections, with RST.
func (w *wire) reset() (cut int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for conn := range w.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
		cut++
	}
	return cut
}
