package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const passed = "weir_sidecar_passed_connections_total"

func TestServerThatSpeaksFirst(t *testing.T) {
	t.Parallel()
	upstream := rawServer(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "220 ready\r\n")
		_, _ = io.Copy(c, c)
	})
	h := serve(t, ruleset.Outbound, upstream)
	c := h.dial()
	r := bufio.NewReader(c)
	if got := readLine(t, r); got != "220 ready" {
		t.Fatalf("greeting %q, want 220 ready", got)
	}
	// Even what looks like a request is the protocol's own now.
	write(t, c, "GET / HTTP/1.1\r\n")
	if got := readLine(t, r); got != "GET / HTTP/1.1" {
		t.Fatalf("echo %q", got)
	}
	_ = c.CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("at the end %q, %v", rest, err)
	}
	h.wantCount(1, passed, "Outbound", kindOpaque)
}

func TestClientThatSpeaksLate(t *testing.T) {
	t.Parallel()
	dialled := make(chan struct{}, 1)
	echo := rawServer(t, func(c *net.TCPConn) {
		dialled <- struct{}{}
		_, _ = io.Copy(c, c)
	})
	t.Run("a protocol of its own", func(t *testing.T) {
		h := serve(t, ruleset.Outbound, echo)
		c := h.dial()
		<-dialled // the proxy has given up waiting for the client
		write(t, c, "\x00binary\n")
		if got := readLine(t, bufio.NewReader(c)); got != "\x00binary" {
			t.Errorf("echo %q", got)
		}
	})
	t.Run("HTTP on a connection made ahead", func(t *testing.T) {
		seen := make(chan struct{}, 1)
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "answered")
		}))
		server.Config.ConnState = func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				select {
				case seen <- struct{}{}:
				default:
				}
			}
		}
		server.Start()
		t.Cleanup(server.Close)
		h := serve(t, ruleset.Inbound, server.Listener.Addr(), basic("p", func(p *ruleset.Policy) { p.Direction = ruleset.Inbound }))
		c := h.dial()
		<-seen
		write(t, c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(response.Body); string(body) != "answered" {
			t.Errorf("body %q", body)
		}
		h.wantCount(1, requests, "p", "admitted")
		h.wantCount(0, passed, "Inbound", kindOpaque)
	})
	t.Run("HTTP that pauses in its first word is still counted", func(t *testing.T) {
		upstream := application(t, func(http.ResponseWriter, *http.Request) {})
		h := serve(t, ruleset.Inbound, upstream, basic("p", func(p *ruleset.Policy) { p.Direction = ruleset.Inbound }))
		c := h.dial()
		write(t, c, "FO")
		resume := time.NewTimer(2 * sniffWait)
		<-resume.C
		write(t, c, "O / HTTP/1.1\r\nHost: h\r\n\r\n")
		if _, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			t.Fatal(err)
		}
		h.wantCount(1, requests, "p", "admitted")
	})
}

func TestTLSPassesUnread(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("X-User-ID"))
	}))
	t.Cleanup(server.Close)
	h := serve(t, ruleset.Outbound, server.Listener.Addr(), basic("p", func(p *ruleset.Policy) { p.Hosts = []string{"example.com"} }))
	client := server.Client()
	client.Transport.(*http.Transport).DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", h.addr)
		if err != nil {
			return nil, err
		}
		config := client.Transport.(*http.Transport).TLSClientConfig.Clone()
		config.ServerName = "example.com"
		return tls.Client(c, config), nil
	}
	if _, body := do(t, client, ask(t, http.MethodGet, "https://example.com/", nil, "X-User-ID", "alice")); body != "alice" {
		t.Errorf("body %q, want alice", body)
	}
	h.wantCount(1, passed, "Outbound", kindTLS)
	h.wantCount(0, requests, "p", "admitted")
}

// The end of one direction leaves the other open, whichever ends first.
func TestHalfClose(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Outbound, rawServer(t, func(c *net.TCPConn) {
		got, _ := io.ReadAll(c)
		_, _ = c.Write(append([]byte("all of "), got...))
	}))
	c := h.dial()
	write(t, c, "\x01abc")
	_ = c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "all of \x01abc" {
		t.Errorf("after the client's end: %q, %v", got, err)
	}

	received := make(chan string, 1)
	h = serve(t, ruleset.Outbound, rawServer(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "bye")
		_ = c.CloseWrite()
		got, _ := io.ReadAll(c)
		received <- string(got)
	}))
	c = h.dial()
	if got, err := io.ReadAll(c); err != nil || string(got) != "bye" {
		t.Errorf("server's half: %q, %v", got, err)
	}
	write(t, c, "still here")
	_ = c.Close()
	if got := <-received; got != "still here" {
		t.Errorf("after the server's end it got %q, want still here", got)
	}
}

func TestEndsArePassedOn(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Outbound, rawServer(t, func(c *net.TCPConn) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_ = c.SetLinger(0) // and the deferred Close resets
	}))
	c := h.dial()
	write(t, c, "\x01")
	wantClosed(t, c)

	closed := make(chan struct{})
	h = serve(t, ruleset.Outbound, rawServer(t, func(c *net.TCPConn) {
		_, _ = io.Copy(io.Discard, c)
		close(closed)
	}))
	_ = h.dial().Close() // said nothing at all
	<-closed
}

func TestLoopsAreRefused(t *testing.T) {
	t.Parallel()
	proxy := New(Config{Destination: func(c net.Conn) (netip.AddrPort, error) { return addrPort(c.LocalAddr()), nil }})
	h := &house{t: t, proxy: proxy}
	h.addr = h.listen(ruleset.Outbound)
	wantRefused(t, h.addr) // as a client that connects to the sidecar's port itself

	other := h.listen(ruleset.Inbound)
	eventually(t, "both serve", func() bool {
		proxy.mu.Lock()
		defer proxy.mu.Unlock()
		return len(proxy.servers) == 2
	})
	for destination, want := range map[string]bool{h.addr: true, other: true, "127.0.0.2" + other[len("127.0.0.1"):]: false, "10.0.0.1:80": false} {
		if got := proxy.servesItself(netip.MustParseAddrPort(destination), netip.MustParseAddrPort("127.0.0.1:1")); got != want {
			t.Errorf("servesItself(%s) = %t, want %t", destination, got, want)
		}
	}

	proxy = New(Config{Destination: func(net.Conn) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("not captured") }})
	h = &house{t: t, proxy: proxy}
	h.addr = h.listen(ruleset.Outbound)
	wantRefused(t, h.addr)
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	for name, protocols := range map[string]func(*http.Protocols){"http1": http1, "http2": http2} {
		t.Run("a request in flight is answered, "+name, func(t *testing.T) {
			t.Parallel()
			arrived, release := make(chan struct{}), make(chan struct{})
			upstream := application(t, func(w http.ResponseWriter, _ *http.Request) {
				close(arrived)
				<-release
				_, _ = io.WriteString(w, "late")
			})
			h := serve(t, ruleset.Inbound, upstream)
			done := make(chan string, 1)
			go func() {
				_, body := do(t, h.client(protocols), ask(t, http.MethodGet, "http://app/", nil))
				done <- body
			}()
			<-arrived
			down := make(chan error, 1)
			go func() { down <- h.proxy.Shutdown(t.Context()) }()
			eventually(t, "no new connections", func() bool {
				c, err := net.Dial("tcp", h.addr)
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
			select {
			case err := <-down:
				t.Fatalf("Shutdown returned %v before the request was answered", err)
			default:
			}
			close(release)
			if got := <-done; got != "late" {
				t.Errorf("answer %q, want late", got)
			}
			if err := <-down; err != nil {
				t.Errorf("Shutdown: %v, want nil", err)
			}
		})
	}
	t.Run("relays and upgrades live until its patience ends", func(t *testing.T) {
		t.Parallel()
		upstream := rawServer(t, func(c *net.TCPConn) {
			r := bufio.NewReader(c)
			if first, err := r.Peek(1); err == nil && first[0] == 'G' {
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
			}
			_, _ = io.Copy(c, r)
		})
		h := serve(t, ruleset.Inbound, upstream)
		opaque, upgraded := h.dial(), h.dial()
		fromOpaque, fromUpgraded := bufio.NewReader(opaque), bufio.NewReader(upgraded)
		write(t, upgraded, "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		if _, err := http.ReadResponse(fromUpgraded, nil); err != nil {
			t.Fatal(err)
		}
		write(t, opaque, "\x01one\n")
		readLine(t, fromOpaque)

		ctx, giveUp := context.WithCancel(t.Context())
		down := make(chan error, 1)
		go func() { down <- h.proxy.Shutdown(ctx) }()
		<-h.proxy.draining.Done()
		write(t, opaque, "two\n")
		write(t, upgraded, "three\n")
		if a, b := readLine(t, fromOpaque), readLine(t, fromUpgraded); a != "two" || b != "three" {
			t.Errorf("while draining: %q and %q, want two and three", a, b)
		}
		giveUp()
		if err := <-down; !errors.Is(err, context.Canceled) {
			t.Errorf("Shutdown: %v, want that it was cut short", err)
		}
		wantClosed(t, opaque)
		wantClosed(t, upgraded)
	})
	t.Run("serving after it is refused", func(t *testing.T) {
		t.Parallel()
		proxy := New(Config{})
		if err := proxy.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := proxy.Serve(ruleset.Inbound, l); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v, want net.ErrClosed", err)
		}
	})
}
