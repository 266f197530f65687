package proxy

import (
	"bufio"
	"context"
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
			var connections atomic.Int64
			leave, left := make(chan struct{}), make(chan struct{})
			upstream := rawServer(t, func(c *net.TCPConn) {
				nth := connections.Add(1)
				r := bufio.NewReader(c)
				for {
					if nth == 2 {
						<-leave
						goodbye(c)
						close(left)
						return
					}
					if _, err := http.ReadRequest(r); err != nil {
						return
					}
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			h := serve(t, ruleset.Inbound, upstream, holding("p", 1, minute, nil))
			h.crowd(http1).line("alice")
			c := h.dial()
			write(t, c, requestOf)
			h.awaitWaiting(1)
			eventually(t, "the destination is connected to", func() bool { return connections.Load() == 2 })
			close(leave)
			<-left
			eventually(t, "that it has left is known", func() bool {
				deserted := false
				h.proxy.sessions.each(func(s *session) { deserted = deserted || s.deserted.Load() })
				return deserted
			})
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
			if got := connections.Load(); got != 3 {
				t.Errorf("%d connections to the destination, want 3", got)
			}
		})
	}
}

// A connection whose destination has left ends with a refusal.
func TestRefusalEndsADesertedConnection(t *testing.T) {
	t.Parallel()
	var connections atomic.Int64
	upstream := rawServer(t, func(c *net.TCPConn) {
		if connections.Add(1) == 1 {
			_, _ = http.ReadRequest(bufio.NewReader(c))
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	})
	h := serve(t, ruleset.Inbound, upstream, holding("p", 1, minute, nil))
	h.crowd(http1).line("alice")
	c := h.dial()
	write(t, c, requestOf)
	answer := make(chan string, 1)
	go func() {
		got, _ := io.ReadAll(c)
		answer <- string(got)
	}()
	eventually(t, "it waits no longer", func() bool {
		h.apply(holding("p", 1, minute, func(p *ruleset.Policy) { p.Wait = nil }))
		return len(answer) == 1
	})
	if got := <-answer; got != "" && (!strings.HasPrefix(got, "HTTP/1.1 429 ") || !strings.Contains(got, "Connection: close")) {
		t.Errorf("%q, want a 429 that says the connection ends, or the end", got)
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
