package conformance

import (
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

const (
	// offered is what a server would send, were it let.
	offered = 512 << 20
	// bound is what may be under way to a client that does not read: the
	// buffers of two connections' kernels and the windows of HTTP/2.
	bound = 128 << 20
)

// A client that does not read slows its server down, and costs the sidecar no
// memory.
func TestSlowReadersHoldTheServerUp(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, w := range ways {
		for name, read := range map[string]func(*held, *atomic.Int64) io.Reader{
			"HTTP1": pressHTTP1, "HTTP2": pressHTTP2, "TCP": pressTCP,
		} {
			t.Run(w.name+" "+name, func(t *testing.T) {
				t.Parallel()
				h := &held{t: t, way: w, store: s, over: make(chan struct{})}
				defer close(h.over)
				var sent atomic.Int64
				body := read(h, &sent)
				if under := stalled(t.Context().Done(), &sent); under > bound {
					t.Errorf("%d MiB were sent to a client that reads nothing, want at most %d MiB", under>>20, bound>>20)
				}
				if n, err := io.CopyN(io.Discard, body, 64<<20); err != nil {
					t.Errorf("the client reads on, and after %d bytes gets %v", n, err)
				}
			})
		}
	}
}

// stalled waits until no more is sent for a while, and returns how much was.
func stalled(done <-chan struct{}, sent *atomic.Int64) int64 {
	before := int64(-1)
	for now := sent.Load(); now == 0 || now != before; now = sent.Load() {
		before = now
		select {
		case <-time.After(300 * time.Millisecond):
		case <-done:
			return now
		}
	}
	return before
}

// pour writes what is offered, until that fails.
func pour(w io.Writer, sent *atomic.Int64) {
	piece := random(1<<20, 1)
	for range offered / len(piece) {
		n, err := w.Write(piece)
		sent.Add(int64(n))
		if err != nil {
			return
		}
	}
}

func pressHTTP1(h *held, sent *atomic.Int64) io.Reader {
	h.once(func(c *conn, _ *message) {
		c.say(answer("HTTP/1.1 200 OK", fmt.Sprint("Content-Length: ", offered)))
		pour(c, sent)
	})
	c := h.dial()
	c.say(head("GET /a HTTP/1.1"))
	c.head()
	return c
}

func pressHTTP2(h *held, sent *atomic.Int64) io.Reader {
	h.application(func(w http.ResponseWriter, _ *http.Request) { pour(w, sent) })
	response, err := h.http2().Do(h.request("GET", "/a", nil))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = response.Body.Close() })
	return response.Body
}

func pressTCP(h *held, sent *atomic.Int64) io.Reader {
	h.upstream(func(c *conn) {
		_, _ = io.ReadFull(c, make([]byte, 2))
		pour(c, sent)
	})
	c := h.dial()
	c.say("\x01\n")
	return c
}
