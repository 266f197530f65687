package proxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// interrupted is a session of HTTP/1 whose request is under way, with the
// other ends of its two connections, and without goroutines.
func interrupted(t *testing.T) (s *session, client, destination *net.TCPConn) {
	t.Helper()
	h := build(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1})
	s = &session{server: &server{proxy: h.proxy, direction: ruleset.Inbound}, dialled: true}
	s.changed.L = &s.mu
	s.mode.Store(int32(modeHTTP1))
	s.pending.Store(true)
	accepted := make(chan *net.TCPConn, 1)
	h.addr = rawServer(t, func(c *net.TCPConn) {
		accepted <- c
		<-t.Context().Done()
	}).String()
	client = h.dial()
	s.client.open(<-accepted)
	destination = h.dial()
	s.up.open(<-accepted)
	return s, client, destination
}

// The answer of a destination that has closed before the upload's end reaches
// the client, whatever the upload's error says of it.
func TestAnEarlyAnswerOutlivesItsUpload(t *testing.T) {
	t.Parallel()
	splice := func(err error) error { return &net.OpError{Op: "splice", Err: err} }
	for _, failed := range []error{
		splice(syscall.EPIPE), splice(syscall.ECONNRESET), splice(net.ErrClosed), writeError{syscall.EPIPE},
	} {
		s, client, _ := interrupted(t)
		write(t, client, "more of the body")
		_ = client.CloseWrite()
		if s.uploadEnded(failed) {
			t.Errorf("%v: another request is expected", failed)
		}
		const answer = "HTTP/1.1 413 Content Too Large\r\n\r\n"
		if err := s.send([]byte(answer), true); err != nil {
			t.Fatalf("%v: %v", failed, err)
		}
		s.lastAnswered()
		if got, err := io.ReadAll(client); err != nil || string(got) != answer {
			t.Errorf("%v: got %q, error %v; want the answer", failed, got, err)
		}
	}
}

// A client that is gone within its upload takes the destination's end with it.
func TestAResetUploadIsReset(t *testing.T) {
	t.Parallel()
	s, client, destination := interrupted(t)
	_ = client.SetLinger(0)
	_ = client.Close()
	if s.uploadEnded(s.client.fill()) {
		t.Error("another request is expected")
	}
	if _, err := destination.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the destination sees %v, want a reset", err)
	}
}

// ordered is a client's connection that is written to and closed only by who
// holds writing.
type ordered struct {
	net.Conn
	t *testing.T
	s *session
}

func (o *ordered) check(what string) {
	if o.s.writing.TryLock() {
		o.s.writing.Unlock()
		o.t.Errorf("%s while somebody else may write or close", what)
	}
}

func (o *ordered) Write(p []byte) (int, error) {
	o.check("write")
	if o.s.pending.Load() {
		o.t.Error("the client may ask on before the answer counts as given")
	}
	return o.Conn.Write(p)
}

func (o *ordered) Close() error {
	o.check("close")
	return o.Conn.Close()
}

// An answer counts as given before it is sent, and a hang-up that takes it for
// sent waits until it is.
func TestAHangUpWaitsForTheAnswer(t *testing.T) {
	t.Parallel()
	s, client, _ := interrupted(t)
	s.client.open(&ordered{s.client.Conn, t, s})
	if err := s.send([]byte("answer"), true); err != nil {
		t.Fatal(err)
	}
	s.hangUp()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
		t.Errorf("got %q, error %v; want the answer", got, err)
	}
}

// Of a response whose beginning has come when we close ourselves, nothing gets
// before our own answer.
func TestNothingPrecedesAnAnswerOfOurOwn(t *testing.T) {
	t.Parallel()
	s, client, destination := interrupted(t)
	write(t, destination, "HTTP/1.1 200 OK\r\nContent-")
	if err := s.up.fill(); err != nil {
		t.Fatal(err)
	}
	s.up.reset()
	if s.response() {
		t.Error("another response is expected")
	}
	if s.badBody(errChunk) {
		t.Error("another request is expected")
	}
	if got, err := io.ReadAll(client); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400") {
		t.Errorf("got %q, error %v; want 400 and nothing before", got, err)
	}
}

// A response that cannot be passed on is answered by 502 while the request is
// still being sent, and with nothing of that. Run with -race.
func TestABadResponseDuringTheUpload(t *testing.T) {
	t.Parallel()
	upstream := rawServer(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		_, _ = r.ReadString('\n')
		_, _ = io.WriteString(c, "garbage\r\n\r\n")
		_, _ = io.Copy(io.Discard, r)
	})
	h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(func(p *ruleset.Policy) {
		p.Sources[0].Header.Strip = true
		p.Limits[0].Requests = 1000
	})))
	const size = 4 << 20
	whole := strings.Repeat("x", size)
	chunks := strings.Repeat("10\r\nxxxxxxxxxxxxxxxx\r\n", 1000) + "0\r\nX-User-ID: a\r\nX-Other: " + strings.Repeat("y", 300) + "\r\n\r\n"
	for reason, request := range map[string]string{
		"of known length": "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n" + whole,
		"chunked":         "Transfer-Encoding: chunked\r\n\r\n" + chunks,
	} {
		for range 10 {
			c := h.dial()
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nX-User-ID: a\r\n"+request) // its end may be in vain
			}()
			if got := readLine(t, bufio.NewReader(c)); got != "HTTP/1.1 502 Bad Gateway" {
				t.Errorf("%s: %q, want 502", reason, got)
			}
			_ = c.Close()
			<-sent
		}
	}
}

// Whoever resets its connection is not served on, also when it has sent more
// that nobody has read.
func TestAPipeliningClientThatLeavesCancelsUpstream(t *testing.T) {
	t.Parallel()
	for _, more := range []string{"", "\r\n", "GET /2 HTTP/1.1\r\nHost: h\r\n\r\n"} {
		t.Run(strconv.Quote(more), func(t *testing.T) {
			t.Parallel()
			arrived, left := make(chan struct{}), make(chan struct{})
			h := serve(t, ruleset.Inbound, rawServer(t, func(c *net.TCPConn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
					t.Error(err)
				}
				close(arrived)
				_, _ = io.Copy(io.Discard, c)
				close(left)
			}))
			c := h.dial()
			write(t, c, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"+more)
			<-arrived
			_ = c.SetLinger(0)
			_ = c.Close()
			select {
			case <-left:
			case <-time.After(patience):
				t.Error("the destination does not learn that the client is gone")
			}
		})
	}
}

// A client that has pipelined and ended its sending gets all its answers, also
// those that take longer than watchAfter.
func TestAPipeliningClientThatListensOnIsAnswered(t *testing.T) {
	t.Parallel()
	watched := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(watched) })
	h := serve(t, ruleset.Inbound, application(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/1" {
			<-watched
		}
		_, _ = io.WriteString(w, r.URL.Path)
	}))
	t.Cleanup(goOn)
	c := h.dial()
	write(t, c, "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	_ = c.CloseWrite()
	eventually(t, "for the client to be watched", func() bool {
		stacks := make([]byte, 4<<20)
		return strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "proxy.(*stream).wasReset")
	})
	goOn()
	got, err := io.ReadAll(c)
	if err != nil || !strings.Contains(string(got), "\r\n\r\n/1HTTP/1.1 200") || !strings.HasSuffix(string(got), "\r\n\r\n/2") {
		t.Errorf("got %q, error %v; want two answers", got, err)
	}
}

// The beginning of HTTP/2's first frame is no greeting of another protocol when
// its rest is on the way.
func TestAFrameInPiecesIsHeardOut(t *testing.T) {
	t.Parallel()
	s, client, destination := interrupted(t)
	s.mode.Store(int32(modeUndecided))
	if !s.server.proxy.sessions.add(s) {
		t.Fatal("refused")
	}
	write(t, destination, "\x00\x00\x00")
	if err := s.up.fill(); err != nil {
		t.Fatal(err)
	}
	write(t, destination, "\x04\x00\x00\x00\x00\x00")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.upstreamSide()
	}()
	eventually(t, "for the client's own protocol to be awaited", func() bool { return s.waiting.Load() || !s.modeIs(modeUndecided) })
	if !s.become(modeUndecided, modeHanded) {
		t.Error("the session is opaque, want it undecided until the client speaks")
		_ = client.Close()
		_ = destination.Close()
	}
	<-ended
}
