package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Bad input gets an answer or a closed connection, and the next client is
// served as if nothing had been.
func TestBadInput(t *testing.T) {
	t.Parallel()
	h := serve(t, ruleset.Inbound, application(t, seen), basic("p", inbound(func(p *ruleset.Policy) {
		p.Limits[0].Requests = 10_000
		p.Sources = append(p.Sources, ruleset.Source{BearerToken: true}, ruleset.Source{ClientIP: &ruleset.ClientIPSource{IPv6PrefixLength: 64}})
	})))
	head := "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
	for _, c := range []struct{ reason, sent, answer string }{
		{"two lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "HTTP/1.1 400"},
		{"an unknown coding", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: x\r\n\r\n", "HTTP/1.1 501"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400"},
		{"no host", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 400"},
		{"a bad escape", "GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400"},
		{"a version to come", "GET / HTTP/9.9\r\nHost: h\r\n\r\n", "HTTP/1.1 505"},
		{"no version", "GET /of-old-times\r\n\r\n", "HTTP/1.1 400"},
		{"a preface without HTTP/2", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", ""},
		{"a head that is too large", head + "X: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", "HTTP/1.1 431"},
		{"bytes of no text as identity", head + "X-User-ID: \xff\xfe}{\x80\r\n\r\n", "HTTP/1.1 200"},
		{"an identity of nearly all that a head may have", head + "X-User-ID: " + strings.Repeat("x", maxHeadBytes-1024) + "\r\n\r\n", "HTTP/1.1 200"},
		{"a token of nothing", head + "Authorization: Bearer \r\n\r\n", "HTTP/1.1 200"},
		{"a host of dots", "GET / HTTP/1.1\r\nHost: " + strings.Repeat(".", 5000) + "\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"},
		{"a long target", "GET /" + strings.Repeat("../", 5000) + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200"},
	} {
		client := h.dial()
		// A server that refuses may reset while we still send: only the answer counts.
		_, _ = fmt.Fprint(client, c.sent)
		answer := make([]byte, len("HTTP/1.1 200"))
		n, _ := client.Read(answer)
		if got := string(answer[:n]); !strings.HasPrefix(got, c.answer) {
			t.Errorf("%s: answer %q, want %q", c.reason, got, c.answer)
		}
		_ = client.Close()
	}
	if response, _ := do(t, h.client(http1), ask(t, http.MethodGet, "http://app/", nil)); response.StatusCode != http.StatusOK {
		t.Errorf("after all that: %d, want 200", response.StatusCode)
	}
}

// Whoever could pass for another protocol with the first line would be counted
// for none of a connection's requests.
func TestOddFirstLinesAreNoWayAroundALimit(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "served") })
	h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = 1 })))
	do(t, h.client(http1), ask(t, http.MethodGet, "http://app/", nil))
	for reason, line := range map[string]string{
		"a method of 40 letters":                 strings.Repeat("A", 40) + " / HTTP/1.1",
		"a control character in the target":      "GET /\x01 HTTP/1.1",
		"form feeds for spaces":                  "GET\x0c/\x0cHTTP/1.1",
		"a space first":                          " GET / HTTP/1.1",
		"a protocol that Node.js takes for HTTP": "GET / RTSP/1.1",
	} {
		got := h.raw(line + "\r\nHost: h\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, "HTTP/1.1 4") || strings.Contains(got, "served") {
			t.Errorf("%s: answer %q, want one of the sidecar's own", reason, got)
		}
	}
}

func TestRTSPPassesWhereNothingIsLimited(t *testing.T) {
	t.Parallel()
	upstream := rawServer(t, func(c *net.TCPConn) {
		_, _ = bufio.NewReader(c).ReadString('\n')
		_, _ = io.WriteString(c, "RTSP/1.0 200 OK\r\n")
	})
	h := serve(t, ruleset.Inbound, upstream, basic("calls", nil)) // Outbound
	if got := h.raw("OPTIONS rtsp://h/ RTSP/1.0\r\n"); got != "RTSP/1.0 200 OK\r\n" {
		t.Errorf("answer %q, want the upstream's", got)
	}
}

// A server that answers CONNECT like any request has opened no tunnel: what
// follows on the connection are requests, and a relay would not count them.
func TestTunnelThatIsNoneIsNoWayAroundALimit(t *testing.T) {
	t.Parallel()
	var answered atomic.Int64
	upstream := application(t, func(w http.ResponseWriter, r *http.Request) {
		answered.Add(1)
		if r.Header.Get("Answer") == "chunked" {
			w.(http.Flusher).Flush()
		}
		if r.Header.Get("Answer") == "empty" {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		_, _ = io.WriteString(w, "served")
	})
	for _, kind := range []string{"whole", "chunked", "empty"} {
		h := serve(t, ruleset.Inbound, upstream, basic("p", inbound(func(p *ruleset.Policy) { p.Limits[0].Requests = 1 })))
		answered.Store(0)
		answer := h.raw("CONNECT h:80 HTTP/1.1\r\nHost: h\r\nAnswer: " + kind + "\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if answered.Load() > 1 || !strings.HasPrefix(answer, "HTTP/1.1 502") {
			t.Errorf("CONNECT, answered %s: the application answered %d requests of 1, the client got %q", kind, answered.Load(), answer)
		}
	}
}
