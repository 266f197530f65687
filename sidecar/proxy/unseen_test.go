package proxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// pausing sends the first bytes of what is written first, and the rest when
// sniffing would have lost its patience.
type pausing struct {
	net.Conn
	first int
	once  sync.Once
}

func (p *pausing) Write(b []byte) (n int, err error) {
	p.once.Do(func() {
		if n, err = p.Conn.Write(b[:p.first]); err == nil {
			resume := time.NewTimer(2 * sniffWait)
			<-resume.C
		}
	})
	if err != nil {
		return n, err
	}
	m, err := p.Conn.Write(b[n:])
	return n + m, err
}

func TestAPauseInAHelloHidesNothing(t *testing.T) {
	t.Parallel()
	for _, first := range []int{1, 3, 20} {
		mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
		upstream := provider(t, theirs, func(http.ResponseWriter, *http.Request) {})
		h := intercepting(t, upstream, mine, theirs, mine.issue, allowing(1))
		client := h.secureClient(mine.pool(), http1)
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, h.addr)
			return &pausing{Conn: c, first: first}, err
		}
		for i, want := range []int{200, 429} {
			if response, _ := do(t, client, ask(t, http.MethodGet, "https://api.example.com/", nil)); response.StatusCode != want {
				t.Errorf("a pause after %d bytes, request %d: %d, want %d", first, i, response.StatusCode, want)
			}
		}
	}
}

// denies reports whether a policy does.
func denies(p ruleset.Policy) bool { return (&policy{Policy: &p}).denies() }

// What cannot be read could be for any host.
func TestUnreadableHellosMeetEveryPolicyThatDenies(t *testing.T) {
	t.Parallel()
	whole := helloOf(t, &tls.Config{ServerName: "api.example.com"})
	dotted := helloOf(t, &tls.Config{ServerName: "api.example.com-"})
	dotted = bytes.Replace(dotted, []byte("com-"), []byte("com."), 1)
	doubled := bytes.Replace(whole, []byte("\x0fapi.example.com"), []byte("\x0eapi.example.com"), 1)
	for _, c := range []struct {
		reason  string
		hello   []byte
		outcome intercept.Outcome
		unseen  float64
	}{
		{"a dot behind the name", dotted, intercept.NoProtocol, 1},
		{"a list of names that does not add up", doubled, intercept.Unreadable, 0},
		{"a message that is no ClientHello", []byte("\x16\x03\x01\x00\x04\x02\x00\x00\x00"), intercept.Unreadable, 0},
	} {
		for _, policy := range []ruleset.Policy{denying(1), allowing(1), sharing(1)} {
			mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
			upstream := provider(t, theirs, func(http.ResponseWriter, *http.Request) {})
			h := intercepting(t, upstream, mine, theirs, mine.issue, policy)
			conn := h.dial()
			write(t, conn, string(c.hello))
			answer, _ := io.ReadAll(conn) // from Go's server an alert, which refuses all of them
			denied := denies(policy)
			if got := len(answer) > 0; got == denied {
				t.Errorf("%s, %s: the host answered %v, want %v", c.reason, policy.OnStoreFailure, got, !denied)
			}
			h.wantCount(1, tlsConnections, string(c.outcome))
			if denied {
				h.wantCount(1, requests, "p", "unavailable")
				h.wantCount(0, unseen, "p")
			} else {
				h.wantCount(c.unseen, unseen, "p")
			}
		}
	}
}

// A tunnel names its host: where what is within cannot be seen, that host's
// policies count it, or deny it.
func TestTunnelsThatCannotBeSeen(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, banner, sends string
	}{
		{"another protocol", "", "\x00\x01\x02\x03"},
		{"a server that speaks first", "220 ready\r\n", ""},
		{"TLS that names no host", "", string(helloOf(t, &tls.Config{InsecureSkipVerify: true}))},
	} {
		upstream := rawServer(t, func(s *net.TCPConn) {
			_, _ = io.WriteString(s, c.banner)
			_, _ = io.Copy(s, s)
		})
		_, port, _ := net.SplitHostPort(upstream.String())
		for _, policy := range []ruleset.Policy{denying(1), allowing(1), sharing(1), basic("p", func(p *ruleset.Policy) { p.OnStoreFailure = ruleset.OnStoreFailureDeny })} {
			policy.Hosts = []string{"localhost"}
			h := forward(t, policy)
			conn, r, status := h.tunnel("localhost:" + port)
			if status != http.StatusOK {
				t.Fatalf("%s: CONNECT: %d, want 200", c.reason, status)
			}
			_, _ = io.WriteString(conn, c.sends) // it may have been denied
			want := c.banner + c.sends
			if denies(policy) {
				if got, _ := io.ReadAll(r); len(got) > 0 {
					t.Errorf("%s: a policy that denies let %q pass", c.reason, got)
				}
				h.wantCount(1, requests, "p", "unavailable")
				h.wantCount(0, unseen, "p")
				continue
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
				t.Errorf("%s: %q %v, want %q", c.reason, got, err, want)
			}
			h.wantCount(1, unseen, "p")
		}
	}
}

// Nor are requests seen that the application sends through a proxy of its own.
func TestTunnelsOfOtherProxies(t *testing.T) {
	t.Parallel()
	upstream := rawServer(t, func(s *net.TCPConn) {
		if _, err := http.ReadRequest(bufio.NewReader(s)); err != nil {
			return
		}
		_, _ = io.WriteString(s, "HTTP/1.1 200 OK\r\n\r\n")
		_, _ = io.Copy(io.Discard, s)
	})
	for _, c := range []struct {
		reason string
		policy ruleset.Policy
		want   int
		unseen float64
	}{
		{"denying", denying(1), http.StatusServiceUnavailable, 0},
		{"allowing", allowing(1), http.StatusOK, 1},
		{"allowing, for some requests", func() ruleset.Policy {
			p := allowing(1)
			p.Match = []ruleset.Match{{Methods: []string{"GET"}}}
			return p
		}(), http.StatusOK, 1},
	} {
		h := serve(t, ruleset.Outbound, upstream, c.policy)
		if _, _, status := h.tunnel("api.example.com:443"); status != c.want {
			t.Errorf("%s: CONNECT: %d, want %d", c.reason, status, c.want)
		}
		h.wantCount(c.unseen, unseen, "p")
		if _, _, status := h.tunnel("other.test:443"); status != http.StatusOK {
			t.Errorf("%s: CONNECT to another host: %d, want 200", c.reason, status)
		}
	}
}
