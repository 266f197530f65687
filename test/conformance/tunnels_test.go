package conformance

import (
	"fmt"
	"io"
	"testing"

	"golang.org/x/net/websocket"
)

// Connections that stop being HTTP are cables from then on.
func TestTunnels(t *testing.T) {
	t.Parallel()
	compare(t, ways, tunnels(), (*message).meaning)
}

func tunnels() []conversation {
	upgrade := head("GET /ws HTTP/1.1", "Connection: Upgrade", "Upgrade: echo", "X-Key: 1")
	switched := answer("HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: echo", "X-Accept: 1")
	connect := answer("CONNECT other.test:443 HTTP/1.1", "Host: other.test:443", "X-User-ID: alice", "Proxy-Authorization: Basic secret")
	established := "HTTP/1.1 200 Connection established\r\n\r\n"
	var all []conversation
	for _, kind := range []struct{ name, request, answer string }{
		{"upgrade", upgrade, switched},
		{"CONNECT", connect, established},
	} {
		all = append(all,
			conversation{kind.name + ", the server speaks at once", openedBy(kind.request, kind.answer)},
			conversation{kind.name + ", the client ends first", tunnelled(kind.request, kind.answer, true)},
			conversation{kind.name + ", the server ends first", tunnelled(kind.request, kind.answer, false)},
			conversation{kind.name + ", the client resets", tunnelReset(kind.request, kind.answer)},
		)
	}
	return append(all,
		conversation{"upgrade that is declined, then a request", declined(upgrade, "GET", answer("HTTP/1.1 426 Upgrade Required", "Upgrade: other", "Connection: Upgrade", "Content-Length: 2")+"no")},
		conversation{"CONNECT that is refused, then a request", declined(connect, "CONNECT", answer("HTTP/1.1 403 Forbidden", "Content-Length: 2")+"no")},
		conversation{"CONNECT that asks who is there, then a request", declined(connect, "CONNECT", answer("HTTP/1.1 407 Proxy Authentication Required", "Proxy-Authenticate: Basic", "Content-Length: 2")+"no")},
		conversation{"WebSocket", webSocket},
	)
}

// opened asks for the tunnel and notes the answer's head.
func (h *held) opened(request string) *conn {
	h.t.Helper()
	c := h.dial()
	c.say(request)
	h.note(c.head(), "CONNECT") // it may have RateLimit fields, and need not
	return c
}

// openedBy: what the server says in one segment with its answer comes, too.
func openedBy(request, answer string) func(*held) {
	return func(h *held) {
		h.once(func(c *conn, m *message) {
			h.arrived.add(m)
			c.say(answer, "hello\n")
			h.arrived.addf("%s", c.line())
		})
		c := h.opened(request)
		h.returned.addf("%s", c.line())
		c.say("hello to you\n")
		rest, how := c.rest()
		h.returned.addf("%q %s", rest, how)
	}
}

// tunnelled: bytes pass both ways at once, and each side's end leaves the
// other's half open.
func tunnelled(request, answer string, clientFirst bool) func(*held) {
	return func(h *held) {
		heard := make(chan string, 1)
		h.once(func(c *conn, m *message) {
			h.arrived.add(m)
			c.say(answer)
			heard <- exchangeBytes(c, 2, !clientFirst)
		})
		h.returned.addf("%s", exchangeBytes(h.opened(request), 1, clientFirst))
		h.arrived.addf("%s", wait(h, "the upstream has heard the client out", heard))
	}
}

// exchangeBytes says something long and hears the other out. The side that ends
// first goes on hearing; the other ends when it has heard all.
func exchangeBytes(c *conn, seed uint64, first bool) string {
	const size = 1_000_000
	said := make(chan error, 1)
	go func() {
		_, err := c.Write(random(size, seed))
		if err == nil && first {
			err = c.CloseWrite()
		}
		said <- err
	}()
	heard, err := io.ReadAll(c)
	if failed := <-said; failed != nil {
		return fmt.Sprint("could not speak: ", failed)
	}
	if !first {
		if _, err := c.Write([]byte("last words")); err != nil {
			return fmt.Sprint("could not speak after the other's end: ", err)
		}
		_ = c.CloseWrite()
	}
	return digest(heard) + " " + ending(err)
}

func tunnelReset(request, answer string) func(*held) {
	return func(h *held) {
		seen := make(chan struct{}, 1)
		h.once(func(c *conn, m *message) {
			h.arrived.add(m)
			c.say(answer)
			_, how := c.rest()
			h.arrived.addf("%s", how)
			seen <- struct{}{}
		})
		h.opened(request).reset()
		wait(h, "the upstream sees the reset", seen)
	}
}

// declined: the connection goes on as HTTP.
func declined(request, method, answer string) func(*held) {
	return func(h *held) {
		h.upstream(func(c *conn) {
			for m := c.request(); m != nil; m = c.request() {
				h.arrived.add(m)
				if m.target() == "/after" {
					c.say(ok)
				} else {
					c.say(answer)
				}
			}
		})
		c := h.dial()
		c.say(request)
		h.response(c, method)
		c.say(head("GET /after HTTP/1.1"))
		h.response(c, "GET")
	}
}

// webSocket is held with another's implementation.
func webSocket(h *held) {
	h.application(websocket.Handler(func(socket *websocket.Conn) {
		h.arrived.addf("%s, origin %s", socket.Request().RequestURI, socket.Request().Header.Get("Origin"))
		for {
			var message []byte
			if err := websocket.Message.Receive(socket, &message); err != nil {
				return
			}
			h.arrived.addf("%s", digest(message))
			_ = websocket.Message.Send(socket, message) // the client sees what fails
		}
	}).ServeHTTP)
	socket, err := websocket.NewClient(must(websocket.NewConfig("ws://upstream.test/ws?a=b", "http://origin.test")), h.dial())
	if err != nil {
		h.t.Fatal(err)
	}
	for i, size := range []int{0, 1, 125, 126, 65535, 65536, 1_000_000} {
		var echo []byte
		if err := websocket.Message.Send(socket, random(size, uint64(i))); err != nil {
			h.t.Fatal(err)
		}
		if err := websocket.Message.Receive(socket, &echo); err != nil {
			h.t.Fatal(err)
		}
		h.returned.addf("%s", digest(echo))
	}
}
