package conformance

import (
	"fmt"
	"io"
	"strings"
)

// http1Dialogues are conversations in which it matters who speaks when.
var http1Dialogues = []conversation{
	{"100-continue", expectContinue},
	{"100-continue that is refused", expectRefused},
	{"100-continue that the client does not wait for", expectImpatient},
	{"100-continue that the server ignores", expectIgnored},
	{"pipelined requests", pipelined},
	{"pipelined requests with and without bodies", pipelinedBodies},
	{"requests one after another", reused},
	{"server that closes idle connections at once", closesIdle},
	{"heads byte by byte", dribbled},
	{"server-sent events", events(answer("HTTP/1.1 200 OK", "Content-Type: text/event-stream", aChunk), true)},
	{"server-sent events until the end", events(answer("HTTP/1.1 200 OK", "Content-Type: text/event-stream"), false)},
	{"bodies both ways at once", fullDuplex},
	{"early answer to a body that goes on", earlyAnswer},
	{"early answer, and the connection goes on", earlyAnswerKept},
	{"connection made ahead of its request", madeAhead},
}

// once serves one request of a connection: speak has its head.
func (h *held) once(speak func(*conn, *message)) {
	h.t.Helper()
	h.upstream(func(c *conn) {
		if m, err := readHead(c.r); err == nil {
			speak(c, m)
		}
	})
}

var expecting = head("POST /a HTTP/1.1", "Content-Length: 4", "Expect: 100-continue")

func expectContinue(h *held) {
	h.once(func(c *conn, m *message) {
		c.say(answer("HTTP/1.1 100 Continue"))
		m.readBody(c.r, true)
		h.arrived.add(m)
		c.say(ok)
	})
	c := h.dial()
	c.say(expecting)
	h.note(c.head(), "POST")
	c.say("body")
	h.response(c, "POST")
}

func expectRefused(h *held) {
	h.once(func(c *conn, m *message) {
		h.arrived.add(m)
		c.say(answer("HTTP/1.1 413 Content Too Large", "Content-Length: 2", "Connection: close"), "no")
	})
	c := h.dial()
	c.say(expecting)
	h.response(c, "POST")
}

func expectImpatient(h *held) {
	h.once(func(c *conn, m *message) {
		c.say(answer("HTTP/1.1 100 Continue"))
		m.readBody(c.r, true)
		h.arrived.add(m)
		c.say(ok)
	})
	c := h.dial()
	c.say(expecting, "body")
	h.response(c, "POST")
}

func expectIgnored(h *held) {
	asked := make(chan struct{}, 1)
	h.once(func(c *conn, m *message) {
		asked <- struct{}{}
		m.readBody(c.r, true)
		h.arrived.add(m)
		c.say(ok)
	})
	c := h.dial()
	c.say(expecting)
	wait(h, "the request's head arrives", asked)
	c.say("body") // as clients do after a while
	h.response(c, "POST")
}

// echoes answers requests in turn with what they were.
func echoes(h *held) func(*conn) {
	return func(c *conn) {
		for m := c.request(); m != nil; m = c.request() {
			h.arrived.add(m)
			said := m.target() + " " + string(m.body)
			c.say(answer("HTTP/1.1 200 OK", fmt.Sprint("Content-Length: ", len(said))))
			if !strings.HasPrefix(m.start, "HEAD") {
				c.say(said)
			}
		}
	}
}

func pipelined(h *held) {
	h.upstream(echoes(h))
	c := h.dial()
	c.say(head("GET /1 HTTP/1.1"), head("GET /2 HTTP/1.1"), head("GET /3 HTTP/1.1"), head("GET /4 HTTP/1.1", "Connection: close"))
	for range 4 {
		h.response(c, "GET")
	}
}

func pipelinedBodies(h *held) {
	h.upstream(echoes(h))
	c := h.dial()
	c.say(head("POST /1 HTTP/1.1", "Content-Length: 3"), "one",
		head("HEAD /2 HTTP/1.1"),
		head("PUT /3 HTTP/1.1", aChunk), chunks(lastChunk, "th", "ree"),
		head("GET /4 HTTP/1.1"))
	for _, method := range []string{"POST", "HEAD", "PUT", "GET"} {
		h.response(c, method)
	}
}

func reused(h *held) {
	h.upstream(echoes(h))
	c := h.dial()
	for i := range 20 {
		body := string(random(i*1000, uint64(i)))
		c.say(head(fmt.Sprintf("POST /%d HTTP/1.1", i), fmt.Sprint("Content-Length: ", len(body))), body)
		h.response(c, "POST")
	}
}

// closesIdle: a server may end a connection after any answer, and no client that
// connects anew for each request ever notices. Neither may it through us.
func closesIdle(h *held) {
	h.upstream(func(c *conn) {
		if m := c.request(); m != nil {
			h.arrived.add(m)
			c.say(ok)
		}
	})
	for i := range 100 {
		c := h.dial()
		c.say(head(fmt.Sprintf("POST /%d HTTP/1.1", i), "Content-Length: 4"), "body")
		h.response(c, "POST")
		_ = c.Close()
	}
}

func dribbled(h *held) {
	dribble := func(c *conn, s string) {
		for i := range len(s) {
			c.say(s[i : i+1])
		}
	}
	h.once(func(c *conn, m *message) {
		m.readBody(c.r, true)
		h.arrived.add(m)
		dribble(c, answer("HTTP/1.1 103 Early Hints", "Link: </a>")+answer("HTTP/1.1 200 OK", aChunk)+chunks("0\r\nX-Sum: 42\r\n\r\n", "o", "k"))
	})
	c := h.dial()
	dribble(c, head("POST /dribbled HTTP/1.1", aChunk)+chunks("0\r\nX-Sum: 42\r\n\r\n", "bo", "dy"))
	h.response(c, "POST")
}

// events: the server sends one only when the client has the one before.
func events(start string, chunked bool) func(*held) {
	return func(h *held) {
		has := make(chan struct{})
		h.once(func(c *conn, m *message) {
			h.arrived.add(m)
			c.say(start)
			for i := range 5 {
				event := fmt.Sprintf("data: %d\n\n", i)
				if chunked {
					event = chunks("", event)
				}
				c.say(event)
				pause(h, has)
			}
			if chunked {
				c.say(lastChunk)
			}
		})
		c := h.dial()
		c.say(head("GET /events HTTP/1.1", "Accept: text/event-stream"))
		m := c.head()
		h.note(m, "GET")
		body := m.bodyReader(c)
		for range 5 {
			var event [len("data: 0\n\n")]byte
			if _, err := io.ReadFull(body, event[:]); err != nil {
				h.t.Fatalf("an event: %v", err)
			}
			h.returned.addf("%q", event)
			has <- struct{}{}
		}
		rest, err := io.ReadAll(body)
		h.returned.addf("%q, %s", rest, ending(err))
	}
}

// fullDuplex: each line of the request's body is answered before the next is
// sent.
func fullDuplex(h *held) {
	h.once(func(c *conn, m *message) {
		h.arrived.add(m)
		c.say(answer("HTTP/1.1 200 OK", aChunk))
		body := m.bodyReader(c)
		for {
			var line [8]byte
			if _, err := io.ReadFull(body, line[:]); err != nil {
				h.arrived.addf("%s", ending(err))
				c.say(lastChunk)
				return
			}
			c.say(chunks("", "got "+string(line[:])))
		}
	})
	c := h.dial()
	c.say(head("POST /talk HTTP/1.1", aChunk))
	m := c.head()
	h.note(m, "POST")
	body := m.bodyReader(c)
	for i := range 10 {
		c.say(chunks("", fmt.Sprintf("line %03d", i)))
		var line [len("got line 000")]byte
		if _, err := io.ReadFull(body, line[:]); err != nil {
			h.t.Fatalf("line %d: %v", i, err)
		}
		h.returned.addf("%q", line)
	}
	c.say(lastChunk)
	rest, err := io.ReadAll(body)
	h.returned.addf("%q, %s", rest, ending(err))
}

func earlyAnswer(h *held) {
	h.once(func(c *conn, m *message) {
		h.arrived.add(m)
		c.say(answer("HTTP/1.1 413 Content Too Large", "Content-Length: 2", "Connection: close"), "no")
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c) // lest the answer is lost to a reset
	})
	c := h.dial()
	c.say(head("POST /a HTTP/1.1", aChunk), chunks("", string(random(100_000, 1))))
	h.response(c, "POST")
}

func earlyAnswerKept(h *held) {
	h.upstream(func(c *conn) {
		for {
			m, err := readHead(c.r)
			if err != nil {
				return
			}
			early := m.target() == "/early"
			if early {
				c.say(ok)
			}
			m.readBody(c.r, true)
			h.arrived.add(m)
			if !early {
				c.say(ok)
			}
		}
	})
	c := h.dial()
	c.say(head("POST /early HTTP/1.1", "Content-Length: 10"), "begin")
	h.response(c, "POST")
	c.say("going", head("POST /next HTTP/1.1", "Content-Length: 4"), "body")
	h.response(c, "POST")
}

// madeAhead: browsers and pools connect before they have a request.
func madeAhead(h *held) {
	connected := make(chan struct{}, 2)
	h.upstream(func(c *conn) {
		connected <- struct{}{}
		echoes(h)(c)
	})
	c := h.dial()
	if !h.way.tls { // where the client's hello would be first
		wait(h, "the upstream accepts", connected)
	}
	c.say(head("GET /late HTTP/1.1"))
	h.response(c, "GET")
}
