package conformance

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// An end of one side is seen by the other as without the sidecar: the half of a
// client that has asked, clients that leave, and messages that are cut short.
func TestHTTP1Ends(t *testing.T) {
	t.Parallel()
	compare(t, ways, http1Ends(), (*message).meaning)
}

func http1Ends() []conversation {
	all := []conversation{
		{"client that ends its half after the request", halfClosed(head("GET /a HTTP/1.1"))},
		{"client that ends its half after a body", halfClosed(head("POST /a HTTP/1.1", "Content-Length: 4") + "body")},
		{"client that ends its half after a body in chunks", halfClosed(head("POST /a HTTP/1.1", aChunk) + chunks(lastChunk, "body"))},
		{"client that ends its half in its last request", halfClosed(head("GET /a HTTP/1.1", "Connection: close"))},
		{"client that leaves before the answer", leavesBeforeAnswer},
		{"client that leaves within the answer", leavesWithinAnswer},
		{"client that leaves within its body", leavesWithinBody},
		{"client that cuts its request short", cutRequest(head("POST /a HTTP/1.1", "Content-Length: 10") + "body")},
		{"client that cuts its chunks short", cutRequest(head("POST /a HTTP/1.1", aChunk) + chunks("", "body"))},
		{"client that cuts a chunk short", cutRequest(head("POST /a HTTP/1.1", aChunk) + "a\r\nbody")},
	}
	for _, cut := range []struct {
		name, answer string
		reset        bool
	}{
		{"answer cut short", answer("HTTP/1.1 200 OK", "Content-Length: 10") + "body", false},
		{"answer cut short by a reset", answer("HTTP/1.1 200 OK", "Content-Length: 10") + "body", true},
		{"answer's chunks cut short", answer("HTTP/1.1 200 OK", aChunk) + chunks("", "body"), false},
		{"answer's chunk cut short", answer("HTTP/1.1 200 OK", aChunk) + "a\r\nbody", false},
		{"answer's trailers cut short", answer("HTTP/1.1 200 OK", aChunk) + chunks("0\r\nX-Sum: 4", "body"), false},
		{"answer until the end, cut short by a reset", answer("HTTP/1.1 200 OK") + "body", true},
		{"answer's head cut short", "HTTP/1.1 200 OK\r\nContent-Le", false},
		{"no answer but an interim one", answer("HTTP/1.1 103 Early Hints", "Link: </a>"), false},
		{"no answer", "", false},
	} {
		all = append(all, conversation{cut.name, cutAnswer(cut.answer, cut.reset)})
	}
	return all
}

// halfClosed: the server answers, at length, when the client's end is on its
// way.
func halfClosed(request string) func(*held) {
	return func(h *held) {
		asked, ended := make(chan struct{}, 1), make(chan struct{})
		h.once(func(c *conn, m *message) {
			m.readBody(c.r, true)
			h.arrived.add(m)
			asked <- struct{}{}
			pause(h, ended)
			c.say(answer("HTTP/1.1 200 OK", "Content-Length: 4000000"), string(random(4_000_000, 1)))
			_, _ = c.rest() // lest its end, unread, makes a reset of ours
		})
		c := h.dial()
		c.say(request)
		wait(h, "the request arrives", asked)
		if err := c.CloseWrite(); err != nil {
			h.t.Fatal(err)
		}
		c.awaitReceived()
		close(ended)
		h.response(c, "GET")
	}
}

// leaves waits until the upstream has seen its connection's end.
func (h *held) leaves(c *conn, seen <-chan struct{}) {
	h.t.Helper()
	_ = c.Close()
	wait(h, "the upstream sees that the client has left", seen)
}

func leavesBeforeAnswer(h *held) {
	asked, seen := make(chan struct{}, 1), make(chan struct{}, 1)
	h.once(func(c *conn, m *message) {
		h.arrived.add(m)
		asked <- struct{}{}
		_, _ = c.rest()
		seen <- struct{}{}
	})
	c := h.dial()
	c.say(head("GET /a HTTP/1.1"))
	wait(h, "the request arrives", asked)
	h.leaves(c, seen)
}

func leavesWithinAnswer(h *held) {
	seen := make(chan struct{}, 1)
	h.once(func(c *conn, m *message) {
		h.arrived.add(m)
		c.say(answer("HTTP/1.1 200 OK", aChunk))
		for {
			if _, err := io.WriteString(c.Conn, chunks("", strings.Repeat("more", 1000))); err != nil {
				seen <- struct{}{}
				return
			}
		}
	})
	c := h.dial()
	c.say(head("GET /a HTTP/1.1"))
	m := c.head()
	h.note(m, "GET")
	if _, err := io.ReadFull(m.bodyReader(c), make([]byte, 100_000)); err != nil {
		h.t.Fatal(err)
	}
	h.leaves(c, seen)
}

func leavesWithinBody(h *held) {
	began, seen := make(chan struct{}, 1), make(chan struct{}, 1)
	h.once(func(c *conn, m *message) {
		h.arrived.add(m)
		body := m.bodyReader(c)
		_, _ = io.ReadFull(body, make([]byte, 4))
		began <- struct{}{}
		_, err := io.Copy(io.Discard, body)
		h.arrived.addf("body cut short: %t", err != nil)
		seen <- struct{}{}
	})
	c := h.dial()
	c.say(head("POST /a HTTP/1.1", aChunk), chunks("", "body"))
	wait(h, "the body begins to arrive", began)
	h.leaves(c, seen)
}

// cutRequest: what the client did not finish must not look finished.
func cutRequest(request string) func(*held) {
	return func(h *held) {
		seen := make(chan struct{}, 1)
		h.once(func(c *conn, m *message) {
			m.readBody(c.r, true)
			h.arrived.add(m)
			seen <- struct{}{}
		})
		c := h.dial()
		c.say(request)
		_ = c.CloseWrite()
		wait(h, "the upstream sees the end", seen)
	}
}

// cutAnswer: the client sees that an answer is not whole. Where it got nothing of
// it, it may be told so by a gateway's 502.
func cutAnswer(answer string, reset bool) func(*held) {
	return func(h *held) {
		has := make(chan struct{})
		h.upstream(func(c *conn) {
			if c.request() == nil {
				return
			}
			c.say(answer)
			if reset {
				pause(h, has) // or the reset could overtake the head
				c.reset()
			}
		})
		c := h.dial()
		c.say(head("GET /a HTTP/1.1", "Connection: close"))
		for {
			m, err := readHead(c.r)
			if err != nil || m.status() == http.StatusBadGateway {
				h.returned.addf("no answer")
				return
			}
			if m.status() < 200 {
				h.note(m, "GET")
				continue
			}
			close(has)
			m.readBody(c.r, false)
			h.note(m, "GET")
			if !m.cut {
				h.returned.addf("that looks whole")
			}
			return
		}
	}
}

// Different clients' bodies never mix.
func TestHTTP1ManyClients(t *testing.T) {
	t.Parallel()
	const clients, requests = 32, 20
	s := newStore(t)
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			h := &held{t: t, way: w, store: s, over: make(chan struct{})}
			defer close(h.over)
			h.upstream(func(c *conn) {
				for m := c.request(); m != nil; m = c.request() {
					c.say(answer("HTTP/1.1 200 OK", fmt.Sprint("Content-Length: ", len(m.body))), string(m.body))
				}
			})
			done := make(chan error, clients)
			for client := range clients {
				c := h.dial()
				c.t = nil // not on the test's goroutine
				go func() { done <- echoed(c, client, requests) }()
			}
			for range clients {
				if err := wait(h, "a client is done", done); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// echoed sends bodies that nobody else sends and expects them back.
func echoed(c *conn, client, requests int) error {
	for i := range requests {
		body := string(random(1+i*997, uint64(client*requests+i)))
		c.say(head("POST /a HTTP/1.1", fmt.Sprint("Content-Length: ", len(body))), body)
		m, err := readHead(c.r)
		if err != nil {
			return fmt.Errorf("client %d, request %d: %w", client, i, err)
		}
		if m.readBody(c.r, false); string(m.body) != body {
			return fmt.Errorf("client %d, request %d: %d bytes came back that are not its own, %s", client, i, len(m.body), m.start)
		}
	}
	return nil
}
