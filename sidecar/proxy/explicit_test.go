package proxy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// forward is a house whose proxy is its clients' forward proxy.
func forward(t *testing.T, policies ...ruleset.Policy) *house {
	t.Helper()
	h := serve(t, ruleset.Outbound, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}, policies...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = h.proxy.ServeExplicit(l) }()
	h.addr = l.Addr().String()
	return h
}

// through is a client that is told of the proxy as applications are.
func (h *house) through() *http.Client {
	transport := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: h.addr})}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func TestForwardProxyLimitsEachHost(t *testing.T) {
	t.Parallel()
	server := func(name string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, name+" "+r.RequestURI+" "+r.Header.Get("Proxy-Authorization"))
		}))
		t.Cleanup(s.Close)
		_, port, _ := net.SplitHostPort(s.Listener.Addr().String())
		return "localhost:" + port
	}
	first, second := server("first"), server("second")
	h := forward(t, basic("p", func(p *ruleset.Policy) { p.Hosts = []string{"localhost"}; p.Limits[0].Requests = 4 }))
	conn := h.dial()
	answers := bufio.NewReader(conn)
	for _, c := range []struct{ target, want string }{
		{"http://" + first + "/a?b", "first /a?b "},
		{"http://" + first, "first / "},
		{"http://" + second + "/c", "second /c "}, // on the same connection
		{"http://" + first + "/d", "first /d "},
	} {
		write(t, conn, "GET "+c.target+" HTTP/1.1\r\nHost: "+strings.Split(c.target, "/")[2]+"\r\nProxy-Authorization: x\r\nProxy-Connection: keep-alive\r\n\r\n")
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("%s: %v", c.target, err)
		}
		if body, err := io.ReadAll(response.Body); err != nil || string(body) != c.want {
			t.Errorf("%s: answer %q %v, want %q", c.target, body, err, c.want)
		}
	}
	response, _ := do(t, h.through(), ask(t, http.MethodGet, "http://"+first+"/", nil))
	if response.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the fifth: %d, want 429", response.StatusCode)
	}
}

func TestForwardProxyTunnelsTLS(t *testing.T) {
	t.Parallel()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "secret") }))
	t.Cleanup(s.Close)
	h := forward(t)
	client := h.through()
	client.Transport.(*http.Transport).TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
	if _, body := do(t, client, ask(t, http.MethodGet, s.URL, nil)); body != "secret" {
		t.Errorf("answer %q, want secret", body)
	}
	h.wantCount(1, "weir_sidecar_passed_connections_total", "Outbound", kindTLS)
}

// Within a tunnel to a port that speaks HTTP, requests count like any other.
func TestForwardProxyLimitsWithinTunnels(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") })
	h := forward(t, basic("p", func(p *ruleset.Policy) { p.Limits[0].Requests = 1 }))
	c := h.dial()
	r := bufio.NewReader(c)
	write(t, c, "CONNECT "+upstream.String()+" HTTP/1.1\r\nHost: "+upstream.String()+"\r\n\r\n")
	if response, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect}); err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("CONNECT: %v %v", response, err)
	}
	for i, want := range []int{200, 429} {
		write(t, c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.StatusCode != want {
			t.Fatalf("request %d: %v %v, want %d", i, response, err, want)
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
}

// tunnel asks the forward proxy for one, and returns its answer's status.
func (h *house) tunnel(to string) (net.Conn, *bufio.Reader, int) {
	h.t.Helper()
	c := h.dial()
	write(h.t, c, "CONNECT "+to+" HTTP/1.1\r\nHost: "+to+"\r\n\r\n")
	r := bufio.NewReader(c)
	response, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		h.t.Fatal(err)
	}
	return c, r, response.StatusCode
}

// Requests in clear within a tunnel are for its host, too.
func TestRequestsWithinATunnelMeetItsHost(t *testing.T) {
	t.Parallel()
	upstream := application(t, func(http.ResponseWriter, *http.Request) {})
	_, port, _ := net.SplitHostPort(upstream.String())
	h := forward(t, basic("p", func(p *ruleset.Policy) { p.Hosts, p.Limits[0].Requests = []string{"localhost"}, 1 }))
	conn, r, _ := h.tunnel("LOCALHOST:" + port)
	for i, want := range []int{200, 429} {
		write(t, conn, "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n")
		response, err := http.ReadResponse(r, nil)
		if err != nil || response.StatusCode != want {
			t.Fatalf("request %d: %v %v, want %d", i, response, err, want)
		}
		_, _ = io.Copy(io.Discard, response.Body)
	}
	h.wantCount(0, unseen, "p")
}

func TestForwardProxySaysWhatItCannotDo(t *testing.T) {
	t.Parallel()
	h := forward(t)
	for reason, c := range map[string][2]string{
		"origin form":          {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400"},
		"https without tunnel": {"GET https://h/ HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400"},
		"nobody there":         {"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", "HTTP/1.1 502"},
		"nobody there, GET":    {"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n", "HTTP/1.1 502"},
		"itself":               {"CONNECT " + h.addr + " HTTP/1.1\r\nHost: " + h.addr + "\r\n\r\n", "HTTP/1.1 502"},
		"no HTTP":              {"\x16\x03\x01\r\n", "HTTP/1.1 400"},
	} {
		if got := h.raw(c[0]); !strings.HasPrefix(got, c[1]) {
			t.Errorf("%s: answer %q, want %s", reason, got, c[1])
		}
	}
}

// The destination gets the host of the target (RFC 9112 section 3.2.2), also
// from a client of HTTP/1.0, which need not say it twice.
func TestForwardedRequestsNameTheTargetsHost(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	upstream := rawServer(t, func(c *net.TCPConn) {
		if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			got <- r.Host
		}
		_, _ = io.WriteString(c, "HTTP/1.0 200 OK\r\n\r\n")
	})
	answer := forward(t).raw("GET http://" + upstream.String() + "/x HTTP/1.0\r\n\r\n")
	select {
	case host := <-got:
		if host != upstream.String() {
			t.Errorf("the destination got the host %q, want %s", host, upstream)
		}
	default:
		t.Errorf("the destination got nothing, the client %q", answer)
	}
}

// deep is a store that notes how many sessions are on the stack of who asks it.
type deep struct {
	admitting
	frames chan int
}

func (d *deep) TakeInto(ctx context.Context, takes []limiter.Take, quotas []limiter.Quota) (limiter.Decision, error) {
	d.frames <- strings.Count(string(debug.Stack()), "proxy.(*session).requests(")
	return d.admitting.TakeInto(ctx, takes, quotas)
}

// A connection may go on to other destinations for ever: what has served the
// ones before is gone.
func TestChangesOfDestinationDoNotAddUp(t *testing.T) {
	t.Parallel()
	policy := basic("p", func(p *ruleset.Policy) { p.Hosts = []string{"127.0.0.1"} })
	const changes = 8
	admit := admitting{decision: limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: policy.Limits[0]}}}}
	store := &deep{admit, make(chan int, changes)}
	h := build(t, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80})
	h.proxy = New(Config{Taker: store, Logger: slog.New(slog.DiscardHandler)})
	h.apply(policy)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = h.proxy.ServeExplicit(l) }()
	t.Cleanup(func() { _ = l.Close() })
	h.addr = l.Addr().String()
	const empty = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	destinations := [...]string{answering(t, empty).String(), answering(t, empty).String()}
	c := h.dial()
	r := bufio.NewReader(c)
	for i := range changes {
		at := destinations[i%2]
		write(t, c, "GET http://"+at+"/ HTTP/1.1\r\nHost: "+at+"\r\n\r\n")
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if frames := <-store.frames; frames != 1 {
			t.Fatalf("request %d was served below %d others", i, frames-1)
		}
	}
}
