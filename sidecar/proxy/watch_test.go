package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// requestOf alice's that waits, as HTTP/1.1 has it.
const requestOf = "GET /waits HTTP/1.1\r\nHost: app\r\nX-User-ID: alice\r\n\r\n"

func TestWhoGoesAwayWaitsNoLonger(t *testing.T) {
	t.Parallel()
	long := "POST / HTTP/1.1\r\nHost: app\r\nX-User-ID: alice\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("x", 100_000)
	for _, c := range []struct {
		reason, request string
		leave           func(*net.TCPConn)
	}{
		{"closes", requestOf, func(c *net.TCPConn) { _ = c.Close() }},
		{"resets", requestOf, func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }},
		{"closes after more requests", strings.Repeat(requestOf, 1000), func(c *net.TCPConn) { _ = c.Close() }},
		{"closes within a body", long, func(c *net.TCPConn) { _ = c.Close() }},
		{"ends its sending", requestOf, func(c *net.TCPConn) { _ = c.CloseWrite() }},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
			crowd := h.crowd(http1)
			crowd.line("alice")
			conn := h.dial()
			write(t, conn, c.request)
			h.awaitWaiting(1)
			crowd.send("next", "alice")
			h.awaitWaiting(2)
			c.leave(conn)
			h.awaitWaiting(1)
			h.apply(holding("p", 2, minute, nil))
			crowd.want("next", http.StatusOK)
			if got := h.taken("p", "alice", minute); got != 2 {
				t.Errorf("%d units are taken, want those of two answers", got)
			}
		})
	}
	t.Run("cancels its stream of HTTP/2", func(t *testing.T) {
		t.Parallel()
		h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
		crowd := h.crowd(http2)
		crowd.line("alice")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := crowd.client.Do(ask(t, http.MethodGet, "http://app/", nil, "X-User-ID", "alice").WithContext(ctx))
			ended <- err
		}()
		h.awaitWaiting(1)
		crowd.send("next", "alice")
		h.awaitWaiting(2)
		cancel()
		if err := <-ended; err == nil {
			t.Error("an answer, want none")
		}
		h.awaitWaiting(1)
		h.wantWaits(1, "cancelled")
		h.apply(holding("p", 2, minute, nil))
		crowd.want("next", http.StatusOK)
	})
}

// One that ends its sending, and reads on, is told.
func TestHalfClosedClientIsRefusedInsteadOfHeld(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
	h.crowd(http1).line("alice")
	c := h.dial()
	write(t, c, requestOf)
	_ = c.CloseWrite()
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 429 ") || strings.Count(string(answer), "HTTP/1.1 ") != 1 {
		t.Errorf("%q, %v; want one 429 and the end", answer, err)
	}
}

func TestPipelinedRequestsWaitForTheOneBefore(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.URL.Path) }),
		holding("p", 1, minute, nil))
	h.crowd(http1).line("alice")
	c := h.dial()
	write(t, c, requestOf+"GET /bob HTTP/1.1\r\nHost: app\r\nX-User-ID: bob\r\n\r\n")
	h.awaitWaiting(1)
	write(t, c, "GET /carol HTTP/1.1\r\nHost: app\r\nX-User-ID: carol\r\n\r\n")
	h.apply(holding("p", 2, minute, nil))
	r := bufio.NewReader(c)
	for _, want := range []string{"/waits", "/bob", "/carol"} {
		response, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(response.Body); string(body) != want {
			t.Errorf("answer %d %q, want %s's", response.StatusCode, body, want)
		}
	}
}

// departing is a server whose second connection ends on demand, before anything
// was asked over it.
type departing struct {
	t           *testing.T
	secure      *tls.Config // nil: in clear
	goodbye     func(*net.TCPConn)
	connections atomic.Int64
	leave, left chan struct{}
}

func newDeparting(t *testing.T) *departing {
	return &departing{t: t, goodbye: func(*net.TCPConn) {}, leave: make(chan struct{}), left: make(chan struct{})}
}

func (d *departing) serve(tcp *net.TCPConn) {
	var c net.Conn = tcp
	nth := d.connections.Add(1)
	if d.secure != nil {
		secured := tls.Server(tcp, d.secure)
		if err := secured.Handshake(); err != nil {
			d.t.Errorf("handshake: %v", err)
		}
		c = secured
	}
	if nth == 2 {
		<-d.leave
		d.goodbye(tcp)
		close(d.left)
		return
	}
	for r := bufio.NewReader(c); ; {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}
}

// desert has the server leave, now that a request waits.
func (d *departing) desert(h *house) {
	d.t.Helper()
	h.awaitWaiting(1)
	eventually(d.t, "the destination is connected to", func() bool { return d.connections.Load() == 2 })
	close(d.leave)
	<-d.left
	eventually(d.t, "that it has left is known", func() bool {
		deserted := false
		h.proxy.sessions.each(func(s *session) { deserted = deserted || s.deserted.Load() })
		return deserted
	})
}

// Servers have less patience with a connection than a policy with a request.
func TestDestinationMayLeaveWhileARequestWaits(t *testing.T) {
	t.Parallel()
	for reason, goodbye := range map[string]func(*net.TCPConn){
		"closes": func(*net.TCPConn) {},
		"resets": func(c *net.TCPConn) { _ = c.SetLinger(0) },
		"closes with a word": func(c *net.TCPConn) {
			_, _ = io.WriteString(c, "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			d := newDeparting(t)
			d.goodbye = goodbye
			h := serve(t, ruleset.Inbound, rawServer(t, d.serve), holding("p", 1, minute, nil))
			h.crowd(http1).line("alice")
			c := h.dial()
			write(t, c, requestOf)
			d.desert(h)
			h.apply(holding("p", 3, minute, nil))
			r := bufio.NewReader(c)
			for range 2 { // and the new connection serves on
				response, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusOK || string(body) != "ok" {
					t.Errorf("answer %d %q, want 200 ok", response.StatusCode, body)
				}
				write(t, c, requestOf)
			}
			if got := d.connections.Load(); got != 3 {
				t.Errorf("%d connections to the destination, want 3", got)
			}
		})
	}
}

func TestWaitingWithinTLS(t *testing.T) {
	t.Parallel()
	mine, theirs := newTestAuthority(t, "mine"), newTestAuthority(t, "theirs")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	d := newDeparting(t)
	d.secure = &tls.Config{Certificates: []tls.Certificate{{
		Certificate: [][]byte{theirs.leaf([]string{"api.example.com"}, &key.PublicKey).Raw}, PrivateKey: key,
	}}}
	policy := func(requests int64) ruleset.Policy {
		return holding("p", requests, minute, func(p *ruleset.Policy) {
			p.Direction, p.Hosts, p.Intercept = ruleset.Outbound, []string{"api.example.com"}, true
		})
	}
	h := intercepting(t, rawServer(t, d.serve), mine, theirs, mine.issue, policy(1))
	send := func(c net.Conn) {
		write(t, c, strings.ReplaceAll(requestOf, "Host: app", "Host: api.example.com"))
	}
	dial := func() *tls.Conn {
		c := tls.Client(h.dial(), &tls.Config{RootCAs: mine.pool(), ServerName: "api.example.com"})
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		send(c)
		return c
	}
	want := func(c net.Conn, status int) {
		t.Helper()
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || response.StatusCode != status {
			t.Fatalf("%v %v, want %d", response, err, status)
		}
	}
	want(dial(), http.StatusOK)
	deserted := dial()
	d.desert(h)
	h.apply(policy(2))
	want(deserted, http.StatusOK)
	send(deserted) // what watched the client has not hurt its TLS
	h.awaitWaiting(1)
	h.apply(policy(3))
	want(deserted, http.StatusOK)

	leaving := dial()
	h.awaitWaiting(1)
	_ = leaving.Close()
	h.awaitWaiting(0)
}

func TestRefusalEndsADesertedConnection(t *testing.T) {
	t.Parallel()
	d := newDeparting(t)
	h := serve(t, ruleset.Inbound, rawServer(t, d.serve), holding("p", 1, minute, nil))
	h.crowd(http1).line("alice")
	c := h.dial()
	write(t, c, requestOf)
	d.desert(h)
	h.apply(holding("p", 1, minute, func(p *ruleset.Policy) { p.Wait = nil }))
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 429 ") || !strings.Contains(string(answer), "\r\nConnection: close\r\n") {
		t.Errorf("%q, %v; want a 429 that says that the connection ends", answer, err)
	}
}

func TestWaitingWhileTheSidecarGoes(t *testing.T) {
	t.Parallel()
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, minute, nil))
		c := h.crowd(protocols)
		c.line("alice", "a", "b")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		gone := make(chan error, 1)
		go func() { gone <- h.proxy.Shutdown(ctx) }()
		<-h.proxy.draining.Done()
		h.apply(holding("p", 2, minute, nil))
		c.want("a", http.StatusOK) // under way, and so answered
		cancel()
		if got := <-c.answers; got.who != "b" || got.status != 0 {
			t.Errorf("%s: %d, want b's without an answer", got.who, got.status)
		}
		if err := <-gone; err == nil {
			t.Error("Shutdown returned nil, want that it cut something")
		}
		h.awaitWaiting(0)
	})
}

// Not parallel, as others have requests that wait.
func TestNoGoroutineIsLeftOfAWait(t *testing.T) {
	h := serve(t, ruleset.Inbound, application(t, seen), holding("p", 1, 100, nil))
	for _, protocols := range []func(*http.Protocols){http1, http2} {
		c := h.crowd(protocols)
		for range 8 {
			c.send("one", "alice")
		}
		for range 8 {
			c.want("one", http.StatusOK)
		}
	}
	c := h.dial()
	h.apply(holding("p", 1, minute, nil))
	write(t, c, requestOf+requestOf)
	h.awaitWaiting(1)
	_ = c.Close()
	h.awaitWaiting(0)
	eventually(t, "no goroutine watches or waits", func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !strings.Contains(string(stacks), "proxy.(*session).watch") && !strings.Contains(string(stacks), "proxy.(*hold)")
	})
}
