package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// What arrives is what was sent, seen in the bytes of HTTP/1.1.
func TestRequestArrivesAsSent(t *testing.T) {
	t.Parallel()
	heads := make(chan string, 1)
	upstream := rawServer(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		var head strings.Builder
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			head.WriteString(line)
			if line == "\r\n" {
				heads <- head.String()
				head.Reset()
				_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
			}
		}
	})
	h := serve(t, ruleset.Outbound, upstream)
	for _, c := range []struct{ reason, sent, arrives string }{
		{
			"query and path byte for byte",
			"GET /a|b/%7e?x=;y=%zz&&q= HTTP/1.1\r\nHost: h\r\n\r\n",
			"GET /a|b/%7e?x=;y=%zz&&q= HTTP/1.1\r\nHost: h\r\n\r\n",
		},
		{"an empty query", "GET /? HTTP/1.1\r\nHost: h:80\r\n\r\n", "GET /? HTTP/1.1\r\nHost: h:80\r\n\r\n"},
		{"two slashes", "GET //x//y HTTP/1.1\r\nHost: h\r\n\r\n", "GET //x//y HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"the server as a whole", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"},
		{
			"absolute form for a forward proxy, with its credentials",
			"GET http://h/p?q HTTP/1.1\r\nHost: h\r\nProxy-Authorization: x\r\n\r\n",
			"GET http://h/p?q HTTP/1.1\r\nHost: h\r\nProxy-Authorization: x\r\n\r\n",
		},
		{
			"what other proxies said",
			"GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=x\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
		},
		{
			"without what is for one connection, but for what both connections share",
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: X-Hop, keep-alive, X-Forwarded-For\r\nX-Hop: 1\r\nX-Forwarded-For: 1\r\nKeep-Alive: 5\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nKeep-Alive: 5\r\n\r\n",
		},
		{
			"an upgrade to h2c is declined: requests could not be counted after it",
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		},
		{"HTTP/1.0", "GET /old HTTP/1.0\r\nHost: h\r\n\r\n", "GET /old HTTP/1.0\r\nHost: h\r\n\r\n"},
		{"after empty lines", "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
	} {
		client := h.dial()
		write(t, client, c.sent)
		answer := readLine(t, bufio.NewReader(client))
		if want := "204 No Content"; !strings.HasSuffix(answer, want) {
			t.Fatalf("%s: answer %q, want %q", c.reason, answer, want)
		}
		if got := <-heads; got != c.arrives {
			t.Errorf("%s:\n got %q\nwant %q", c.reason, got, c.arrives)
		}
	}
}

// What comes back is what the application said: nothing is invented.
func TestResponseReturnsAsSent(t *testing.T) {
	t.Parallel()
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html"
	var next string
	upstream := rawServer(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, next)
		}
	})
	h := serve(t, ruleset.Inbound, upstream)
	for _, c := range []struct{ reason, request, answer, want string }{
		{"no Date, no Content-Type", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", answer, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<html"},
		{"HEAD keeps the length", "HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"},
		{"304 has no body", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n"},
		{"a forward proxy's challenge", "GET http://x/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"},
	} {
		next = c.answer
		if got := h.raw(c.request); got != c.want {
			t.Errorf("%s:\n got %q\nwant %q", c.reason, got, c.want)
		}
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Announced")
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-Announced", r.Trailer.Get("X-Sum"))
		w.Header().Set(http.TrailerPrefix+"X-Late", r.Proto)
	})
	h := serve(t, ruleset.Inbound, upstream)
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		r := ask(t, http.MethodPost, "http://app/", io.NopCloser(strings.NewReader("body")))
		r.Trailer = http.Header{"X-Sum": {"42"}}
		response, body := do(t, h.client(protocols), r)
		if body != "body" || response.Trailer.Get("X-Announced") != "42" || response.Trailer.Get("X-Late") != response.Proto {
			t.Errorf("body %q, trailers %v; want body, X-Announced 42 and X-Late %s", body, response.Trailer, response.Proto)
		}
	})
}

func TestServerSentEventsArriveOneByOne(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select { // the next event waits until the client has this one
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	})
	h := serve(t, ruleset.Inbound, upstream)
	for _, protocols := range []func(*http.Protocols){http1, http2} {
		response, err := h.client(protocols).Do(ask(t, http.MethodGet, "http://app/events", nil))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		for i := range 3 {
			if got, want := readLine(t, lines), fmt.Sprintf("data: %d", i); got != want {
				t.Fatalf("%s: event %q, want %q", response.Proto, got, want)
			}
			readLine(t, lines)
			next <- struct{}{}
		}
		_ = response.Body.Close()
	}
}

// Both directions stream at once, as gRPC does: each message is answered
// before the next is sent.
func TestBothDirectionsStreamAtOnce(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		_ = control.EnableFullDuplex()
		_ = control.Flush()
		lines := bufio.NewReader(r.Body)
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return
			}
			_, _ = io.WriteString(w, "echo "+line)
			_ = control.Flush()
		}
	})
	h := serve(t, ruleset.Inbound, upstream)
	versions(t, func(t *testing.T, protocols func(*http.Protocols)) {
		reader, writer := io.Pipe()
		response, err := h.client(protocols).Do(ask(t, http.MethodPost, "http://app/", reader))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = response.Body.Close() }()
		answers := bufio.NewReader(response.Body)
		for _, word := range []string{"one", "two", "three"} {
			write(t, writer, word+"\n")
			if got := readLine(t, answers); got != "echo "+word {
				t.Fatalf("answer %q, want echo %s", got, word)
			}
		}
		_ = writer.Close()
		if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "websocket" || r.Header.Get("Connection") != "Upgrade" {
			http.Error(w, "no upgrade asked", http.StatusBadRequest)
			return
		}
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n")
		_ = rw.Flush()
		_, _ = io.Copy(c, rw) // echo until the client ends, then end
	})
	h := serve(t, ruleset.Inbound, upstream)
	c := h.dial()
	write(t, c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("answer %v, %v; want 101", response, err)
	}
	if got := readLine(t, r); got != "hello" {
		t.Errorf("first %q, want hello", got)
	}
	write(t, c, "frame\n")
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "frame\n" {
		t.Errorf("after half-close: %q, %v; want the echo and the end", rest, err)
	}
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/refuse" {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return
		}
		_, _ = io.Copy(w, r.Body)
	})
	h := serve(t, ruleset.Inbound, upstream)
	head := func(path string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
	}
	c := h.dial()
	write(t, c, head("/echo"))
	r := bufio.NewReader(c)
	if got := readLine(t, r); got != "HTTP/1.1 100 Continue" {
		t.Fatalf("before the body: %q, want 100 Continue", got)
	}
	readLine(t, r)
	write(t, c, "body")
	response, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "body" {
		t.Errorf("echo %q, %v", body, err)
	}

	c = h.dial()
	write(t, c, head("/refuse"))
	if got := readLine(t, bufio.NewReader(c)); !strings.HasPrefix(got, "HTTP/1.1 413") {
		t.Errorf("refused before the body: %q, want 413 at once", got)
	}
}

// A large body of unknown length passes both ways without being kept.
func TestLargeBodyInFlatMemory(t *testing.T) {
	const size = 96 << 20
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Digest")
		_ = http.NewResponseController(w).EnableFullDuplex()
		digest := crc32.NewIEEE()
		_, _ = io.Copy(io.MultiWriter(w, digest), r.Body)
		w.Header().Set("X-Digest", fmt.Sprintf("%x", digest.Sum(nil)))
	})
	h := serve(t, ruleset.Inbound, upstream)
	for _, protocols := range []func(*http.Protocols){http1, http2} {
		sent, received := crc32.NewIEEE(), crc32.NewIEEE()
		var before, peak runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		body := io.TeeReader(io.LimitReader(&pattern{}, size), sent)
		client := h.client(protocols)
		client.Timeout = 0 // the race detector is slow
		response, err := client.Do(ask(t, http.MethodPost, "http://app/", body))
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		n, err := io.Copy(received, &watching{response.Body, &peak, 0})
		if err != nil || n != size {
			t.Fatalf("%s: %d bytes, %v; want %d", response.Proto, n, err, size)
		}
		_ = response.Body.Close()
		t.Logf("%s: %d MiB in %s", response.Proto, size>>20, time.Since(start))
		if !sameSum(sent, received) || response.Trailer.Get("X-Digest") != fmt.Sprintf("%x", sent.Sum(nil)) {
			t.Errorf("%s: the body changed on its way", response.Proto)
		}
		if grown := int64(peak.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
			t.Errorf("%s: heap grew by %d MiB for %d MiB of body", response.Proto, grown>>20, size>>20)
		}
	}
}

func sameSum(a, b hash.Hash) bool { return bytes.Equal(a.Sum(nil), b.Sum(nil)) }

// pattern is an endless reader whose content moves.
type pattern struct{ n byte }

func (p *pattern) Read(b []byte) (int, error) {
	p.n++
	for i := 0; i < len(b); i += 512 {
		b[i] = p.n
	}
	return len(b), nil
}

// watching keeps the largest heap seen, looked at every 16 MiB.
type watching struct {
	io.Reader
	peak *runtime.MemStats
	n    int
}

func (w *watching) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if w.n += n; w.n > 16<<20 {
		w.n = 0
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		if now.HeapAlloc > w.peak.HeapAlloc {
			*w.peak = now
		}
	}
	return n, err
}

func TestEarlyAnswerToALongBody(t *testing.T) {
	t.Parallel()
	upstream := rawServer(t, func(c *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
			_ = c.CloseWrite()
			_, _ = io.Copy(io.Discard, c)
		}
	})
	h := serve(t, ruleset.Inbound, upstream)
	c := h.dial()
	write(t, c, "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n") // and no end
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(response.Body); err != nil || response.StatusCode != http.StatusRequestEntityTooLarge || string(body) != "no" {
		t.Errorf("answer %d %q, %v; want the upstream's 413 before the body's end", response.StatusCode, body, err)
	}
}

func TestClientThatLeavesCancelsUpstream(t *testing.T) {
	t.Parallel()
	arrived, left := make(chan struct{}, 2), make(chan struct{}, 2)
	upstream := application(t, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
		left <- struct{}{}
	})
	h := serve(t, ruleset.Inbound, upstream)
	c := h.dial()
	write(t, c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-arrived
	_ = c.Close()
	<-left
	h.wantCount(0, "weir_sidecar_upstream_errors_total", "Inbound")
}

func TestUpstreamUnreachable(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	h := serve(t, ruleset.Outbound, l.Addr())
	for i, protocols := range []func(*http.Protocols){http1, http2} {
		response, body := do(t, h.client(protocols), ask(t, http.MethodGet, "http://gone/", nil))
		if response.StatusCode != http.StatusBadGateway || response.Header.Get(headerWeirError) != errorUnreachable ||
			response.Header.Get("Content-Type") != "application/problem+json" || !strings.Contains(body, `"status":502`) {
			t.Errorf("answer %d %v %s; want our 502", response.StatusCode, response.Header, body)
		}
		h.wantCount(float64(i+1), "weir_sidecar_upstream_errors_total", "Outbound")
	}
	response, _ := do(t, h.client(http2), ask(t, http.MethodPost, "http://gone/a.B/C", nil, "Content-Type", "application/grpc"))
	if response.StatusCode != http.StatusOK || response.Header.Get("Grpc-Status") != "14" {
		t.Errorf("gRPC answer %d %v, want grpc-status 14", response.StatusCode, response.Header)
	}
	c := h.dial() // not HTTP: the connection ends as it would have without us
	write(t, c, "\x16\x03\x01\x00")
	wantClosed(t, c)
}

func TestTunnel(t *testing.T) {
	t.Parallel()
	upstream := rawServer(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			request, err := http.ReadRequest(r)
			switch {
			case err != nil:
				return
			case request.RequestURI != "api.example.com:443":
				_, _ = io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			default:
				_, _ = io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\nready\n")
				_, _ = io.Copy(c, r)
				return
			}
		}
	})
	h := serve(t, ruleset.Outbound, upstream)
	c := h.dial()
	write(t, c, "CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n")
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, nil)
	if err != nil || response.StatusCode != http.StatusForbidden {
		t.Fatalf("answer %v, %v; want 403", response, err)
	}
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "no" {
		t.Fatalf("body %q, %v", body, err)
	}
	// A refusal leaves the connection HTTP.
	write(t, c, "CONNECT api.example.com:443 HTTP/1.1\r\nHost: api.example.com:443\r\n\r\n")
	if got := readLine(t, r); got != "HTTP/1.1 200 Connection established" {
		t.Fatalf("answer %q, want 200", got)
	}
	readLine(t, r)
	if got := readLine(t, r); got != "ready" {
		t.Fatalf("first from the tunnel %q, want ready", got)
	}
	write(t, c, "through\n")
	_ = c.CloseWrite()
	if rest, err := io.ReadAll(r); err != nil || string(rest) != "through\n" {
		t.Errorf("tunnel %q, %v; want through", rest, err)
	}
}
