package proxy

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// answering reads requests and says the same to each.
func answering(t *testing.T, answer string) net.Addr {
	t.Helper()
	return rawServer(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			_, _ = io.WriteString(c, answer)
		}
	})
}

// A body that turns out to be malformed when its beginning has been sent is
// still answered.
func TestABodyThatBecomesMalformedIsAnswered(t *testing.T) {
	t.Parallel()
	began := make(chan struct{}, 1)
	h := serve(t, ruleset.Inbound, rawServer(t, func(c *net.TCPConn) {
		_, _ = bufio.NewReader(c).ReadString('c')
		began <- struct{}{}
		_, _ = io.Copy(io.Discard, c)
	}))
	for range 20 {
		c := h.dial()
		write(t, c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		<-began
		write(t, c, "zz\r\n")
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400") {
			t.Fatalf("answer %q, error %v; want 400", got, err)
		}
	}
}

// What a server says unasked goes to the client, and is the last that does:
// nobody could tell whose answer came next.
func TestWhatNobodyAskedForEndsTheConnection(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok\r\n"
	h := serve(t, ruleset.Inbound, answering(t, answer))
	c := h.dial()
	write(t, c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	if got, err := io.ReadAll(c); err != nil || string(got) != answer {
		t.Errorf("got %q, error %v; want %q and the end", got, err, answer)
	}
}

// Nothing that is not counted hides behind an upgrade.
func TestUpgrades(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, offered, switched, want string }{
		{"as offered", "Upgrade: websocket\r\n", "websocket", "HTTP/1.1 101"},
		{"one of several", "Upgrade: a, WebSocket\r\n", "websocket", "HTTP/1.1 101"},
		{"on one of several lines", "Upgrade: a\r\nUpgrade: websocket\r\n", "a", "HTTP/1.1 101"},
		{"h2c behind another line", "Upgrade: h2c\r\nUpgrade: websocket\r\n", "h2c", "HTTP/1.1 502"},
		{"h2c before another line", "Upgrade: websocket\r\nUpgrade: h2c\r\n", "h2c", "HTTP/1.1 502"},
		{"not offered", "Upgrade: websocket\r\n", "h2c", "HTTP/1.1 502"},
		{"too much offered", "Upgrade: websocket, " + strings.Repeat("x", offerBytes) + "\r\n", "websocket", "HTTP/1.1 502"},
	} {
		h := serve(t, ruleset.Inbound, answering(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+c.switched+"\r\n\r\n"))
		conn := h.dial()
		write(t, conn, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n"+c.offered+"HTTP2-Settings: AAMAAABk\r\n\r\n")
		if got := readLine(t, bufio.NewReader(conn)); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %s", c.reason, got, c.want)
		}
	}
}

// A request that cannot be read is answered as what it is, not as the one before.
func TestAMalformedRequestIsNotTakenForTheOneBefore(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	c := h.dial()
	r := bufio.NewReader(c)
	write(t, c, "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Type: application/grpc\r\n\r\n")
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	write(t, c, "GET /b\r\n")
	if got, err := io.ReadAll(r); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400") {
		t.Errorf("answer %q, error %v; want 400", got, err)
	}
}

// Trailers are read as strictly as fields: what a policy strips has no other
// spelling.
func TestTrailersAreReadStrictly(t *testing.T) {
	t.Parallel()
	for trailer, good := range map[string]bool{
		"X-Sum: 42\r\n": true, "X-Sum:42\r\nY:\r\n": true, "": true,
		"X-User-ID : evil\r\n": false, "no colon\r\n": false, "nocolon\r\n": false, ": no name\r\n": false,
		" folded: x\r\n": false, "X-User-ID\x80: e\r\n": false,
	} {
		var c chunks
		if _, done, err := c.scan([]byte("0\r\n" + trailer + "\r\n")); done != good || (err == nil) != good {
			t.Errorf("%q: done %t, error %v; want it to be read: %t", trailer, done, err, good)
		}
	}
}

// A server's first bytes reach a client that waits for them, also when they
// look like the beginning of HTTP/2's.
func TestAShortGreetingIsNotHeld(t *testing.T) {
	t.Parallel()
	for _, greeting := range []string{"\x00", "\x00\x00\x07"} {
		h := serve(t, ruleset.Outbound, rawServer(t, func(c *net.TCPConn) {
			_, _ = io.WriteString(c, greeting)
			_, _ = io.Copy(io.Discard, c)
		}))
		got := make([]byte, len(greeting))
		if _, err := io.ReadFull(h.dial(), got); err != nil || string(got) != greeting {
			t.Errorf("got %q, error %v; want %q", got, err, greeting)
		}
	}
}

// An empty line after a request is none of the next one: the connection is
// idle, and may be told to go.
func TestAStrayEmptyLineBeginsNoRequest(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, answering(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
	c := h.dial()
	r := bufio.NewReader(c)
	for range 2 {
		write(t, c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n\r\n\r\n")
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.proxy.Shutdown(t.Context()); err != nil {
		t.Errorf("shutting down with one idle connection: %v", err)
	}
	wantClosed(t, c)
}

// An idle connection keeps nothing of a large head.
func TestLargeHeadsAreForgotten(t *testing.T) {
	t.Parallel()
	var s session
	s.scratch, s.trailers = make([]byte, bufferBytes+1), make([]byte, bufferBytes+1)
	if whole, err := s.in.parseRequest([]byte("GET / HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", bufferBytes) + "\r\n\r\n")); !whole || err != nil {
		t.Fatalf("whole %t, error %v", whole, err)
	}
	if whole, err := s.out.parseResponse([]byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", bufferBytes) + "\r\n\r\n")); !whole || err != nil {
		t.Fatalf("response whole %t, error %v", whole, err)
	}
	s.out.forget()
	if s.out.fields != nil || s.out.lines != nil {
		t.Errorf("kept: %d fields of a response", len(s.out.fields))
	}
	s.see()
	s.callers = append(s.callers, caller{identity: s.in.host})
	s.forget()
	if s.in.fields != nil || s.in.lines != nil || s.seen.fields != nil || s.callers != nil || s.scratch != nil || s.trailers != nil {
		t.Errorf("kept: %d fields, seen %+v, %d callers, %d bytes of scratch, %d of trailers",
			len(s.in.fields), s.seen, len(s.callers), len(s.scratch), len(s.trailers))
	}
}

// Connections of one direction leave the other its own.
func TestSessionsAreBoundedInEachDirection(t *testing.T) {
	t.Parallel()
	var all sessions
	in, out := &server{direction: ruleset.Inbound}, &server{direction: ruleset.Outbound}
	var last *session
	for range maxSessions {
		last = &session{server: in}
		if !all.add(last) {
			t.Fatal("refused before the bound")
		}
	}
	if all.add(&session{server: in}) {
		t.Error("one more was accepted")
	}
	if !all.add(&session{server: out}) {
		t.Error("none outbound was accepted")
	}
	all.remove(last)
	if !all.add(&session{server: in}) {
		t.Error("after one had ended none was accepted")
	}
}
