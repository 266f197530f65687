package conformance

import (
	"fmt"
	"io"
	"testing"
	"time"
)

// A captured port may speak anything: what is not HTTP passes as over a cable.
func TestTCP(t *testing.T) {
	t.Parallel()
	compare(t, ways, tcp(), (*message).meaning)
}

// silence is how long some servers do not speak.
const silence = 2 * time.Second

func tcp() []conversation {
	all := []conversation{
		{"server that speaks first", serverFirst(0)},
		{"server that speaks first after a while", serverFirst(silence)},
		{"client that speaks after a while", clientLate},
		{"both speak at once", bothAtOnce},
		{"client that says nothing and ends", saysNothing},
		{"client that connects and leaves", connectsAndLeaves},
		{"server that ends at once", endsAtOnce},
		{"client that resets", clientResets},
		{"server that resets", serverResets},
		{"bytes both ways, the client ends first", bytesBothWays(true)},
		{"bytes both ways, the server ends first", bytesBothWays(false)},
	}
	for name, hello := range map[string]string{
		"zeros":           "\x00\x00\x00\x00",
		"Redis":           "*1\r\n$4\r\nPING\r\n",
		"Redis, inline":   "PING\r\n",
		"PostgreSQL":      "\x00\x00\x00\x08\x04\xd2\x16\x2f",
		"MQTT":            "\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00",
		"AMQP":            "AMQP\x00\x00\x09\x01",
		"Kafka":           "\x00\x00\x00\x14\x00\x12\x00\x03\x00\x00\x00\x01\x00\x04test",
		"MongoDB":         "\x3a\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\xd4\x07\x00\x00",
		"memcached":       "get key\r\n",
		"STOMP":           "CONNECT\naccept-version:1.2\nhost:x\n\n\x00",
		"IRC":             "NICK bob\r\nUSER bob 0 * :Bob\r\n",
		"SIP":             "REGISTER sip:x.test SIP/2.0\r\nVia: SIP/2.0/TCP y\r\n\r\n",
		"PROXY protocol":  "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
		"SSH":             "SSH-2.0-OpenSSH_9.9\r\n",
		"Gopher":          "/a\r\n",
		"half a method":   "GE\x00",
		"nearly TLS":      "\x16\x00",
		"spaces and more": "   \x01",
		"UTF-8":           "\xe2\x82\xac 5\n",
	} {
		all = append(all, conversation{"client that begins with " + name, beginning(hello)})
	}
	return all
}

func serverFirst(after time.Duration) func(*held) {
	return func(h *held) {
		h.upstream(func(c *conn) {
			if after > 0 {
				<-time.After(after)
			}
			c.say("220 ready\r\n")
			h.arrived.addf("%s", c.line())
			c.say("250 GET / HTTP/1.1\r\n")
			_, how := c.rest()
			h.arrived.addf("%s", how)
		})
		c := h.dial()
		h.returned.addf("%s", c.line())
		c.say("GET / HTTP/1.1\r\n") // which is not HTTP's any more
		h.returned.addf("%s", c.line())
		_ = c.CloseWrite()
		rest, how := c.rest()
		h.returned.addf("%q %s", rest, how)
	}
}

// clientLate: the upstream is connected before the client says what it speaks.
func clientLate(h *held) {
	connected := make(chan struct{}, 1)
	h.upstream(func(c *conn) {
		connected <- struct{}{}
		h.arrived.addf("%q", c.line())
		c.say("reply\n")
	})
	c := h.dial()
	if !h.way.tls {
		wait(h, "the upstream accepts", connected)
	}
	c.say("\x01late\n")
	rest, how := c.rest()
	h.returned.addf("%q %s", rest, how)
}

// bothAtOnce: as SSH does. It is said more than once, since who is first is
// chance.
func bothAtOnce(h *held) {
	heard := make(chan string, 1)
	h.upstream(func(c *conn) {
		c.say("SSH-2.0-server\r\n")
		said := c.line()
		rest, how := c.rest()
		heard <- fmt.Sprintf("%s %q %s", said, rest, how)
	})
	for range 30 {
		c := h.dial()
		c.say("SSH-2.0-client\r\n")
		said := c.line()
		c.say("more")
		_ = c.CloseWrite()
		rest, how := c.rest()
		h.returned.addf("%s %q %s", said, rest, how)
		h.arrived.addf("%s", wait(h, "the upstream has heard the client out", heard))
	}
}

func saysNothing(h *held) {
	h.upstream(func(c *conn) {
		rest, how := c.rest()
		h.arrived.addf("%q %s", rest, how)
		c.say("nothing heard\n")
	})
	c := h.dial()
	_ = c.CloseWrite()
	rest, how := c.rest()
	h.returned.addf("%q %s", rest, how)
}

func connectsAndLeaves(h *held) {
	seen := make(chan string, 1)
	h.upstream(func(c *conn) {
		rest, _ := c.rest()
		seen <- rest
	})
	_ = h.dial().Close()
	h.arrived.addf("%q", wait(h, "the upstream sees that the client has left", seen))
}

func endsAtOnce(h *held) {
	h.upstream(func(*conn) {})
	rest, how := h.dial().rest()
	if h.way.tls {
		how = "" // its handshake did not end
	}
	h.returned.addf("%q %s", rest, how)
}

func clientResets(h *held) {
	has, seen := make(chan struct{}, 1), make(chan string, 1)
	h.upstream(func(c *conn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		has <- struct{}{}
		_, how := c.rest()
		seen <- how
	})
	c := h.dial()
	c.say("\x01abc")
	wait(h, "the upstream hears", has)
	c.reset()
	h.arrived.addf("%s", wait(h, "the upstream sees the reset", seen))
}

func serverResets(h *held) {
	h.upstream(func(c *conn) {
		_, _ = io.ReadFull(c, make([]byte, 4))
		c.reset()
	})
	c := h.dial()
	c.say("\x01abc")
	rest, how := c.rest()
	h.returned.addf("%q %s", rest, how)
}

func bytesBothWays(clientFirst bool) func(*held) {
	return func(h *held) {
		heard := make(chan string, 1)
		h.upstream(func(c *conn) { heard <- exchangeBytes(c, 3, !clientFirst) })
		h.returned.addf("%s", exchangeBytes(h.dial(), 4, clientFirst))
		h.arrived.addf("%s", wait(h, "the upstream has heard the client out", heard))
	}
}

// beginning: the hello, and after the server's word more bytes each way.
func beginning(hello string) func(*held) {
	return func(h *held) {
		h.upstream(func(c *conn) {
			got := make([]byte, len(hello))
			_, err := io.ReadFull(c, got)
			h.arrived.addf("%q %s", got, ending(err))
			c.say("welcome\n")
			rest, how := c.rest()
			h.arrived.addf("%s %s", digest([]byte(rest)), how)
			c.say(string(random(100_000, 1)))
		})
		c := h.dial()
		c.say(hello)
		h.returned.addf("%s", c.line())
		c.say(string(random(100_000, 2)))
		_ = c.CloseWrite()
		rest, how := c.rest()
		h.returned.addf("%s %s", digest([]byte(rest)), how)
	}
}
