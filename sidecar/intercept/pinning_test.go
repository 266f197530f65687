package intercept

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestInterceptRemembersPinning(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	pinning := h.client(p.pool()) // it knows the host's authority and no other
	if _, err := get(pinning, host); err == nil {
		t.Fatal("a client that pins took our leaf")
	}
	h.want(Rejected)
	for range 2 {
		if _, err := get(pinning, host); err != nil {
			t.Errorf("after one refusal: %v, want the connection to pass", err)
		}
		h.want(Pinned)
	}
	if _, err := get(h.client(operator.pool()), "more."+host); err == nil {
		t.Error("a host that no policy names was intercepted")
	}
	h.want(Passthrough)
	if lines := strings.Count(h.logged.String(), "refuses certificates"); lines != 1 {
		t.Errorf("the log says %d times that a client pins, want once:\n%s", lines, h.logged)
	}
}

// As Node.js does, which looks at the certificate once the handshake is done.
func TestInterceptTakesSilentRefusalsForPinning(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	leaves := func() {
		conn, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: host, RootCAs: operator.pool()})
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.NetConn().Close()
		h.want(Intercepted)
		h.noSessions()
	}
	leaves()
	leaves()
	uses := h.client(operator.pool())
	if _, err := get(uses, host); err != nil {
		t.Fatal(err)
	}
	uses.CloseIdleConnections()
	h.want(Intercepted)
	for range maxStrikes {
		leaves() // a session that was used lies between, so the count began anew
	}
	if _, err := get(h.client(p.pool()), host); err != nil {
		t.Errorf("after %d silent refusals in a row: %v, want the connection to pass", maxStrikes, err)
	}
	h.want(Pinned)
}

// Health checks end TLS in order and say nothing within it: the requests of
// other clients are seen on, however many there were.
func TestInterceptTakesNoOrderlyEndForPinning(t *testing.T) {
	t.Parallel()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		operator := newAuthority(t, "weir")
		p := provide(t, nil)
		h := build(t, operator, p, []string{host})
		for range 2 * maxStrikes {
			conn, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: host, RootCAs: operator.pool(), MaxVersion: version})
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			h.want(Intercepted)
			h.noSessions()
		}
		if _, err := get(h.client(operator.pool()), host); err != nil {
			t.Errorf("%s, after %d unused connections: %v, want a request to be seen", tls.VersionName(version), 2*maxStrikes, err)
		}
		h.want(Intercepted)
		if got := h.counted(Unused); got != 2*maxStrikes {
			t.Errorf("%s: %v connections were counted as unused, want %d", tls.VersionName(version), got, 2*maxStrikes)
		}
	}
}

// An alert says no, also when the handshake is done.
func TestInterceptTakesALateAlertForPinning(t *testing.T) {
	t.Parallel()
	h := build(t, newAuthority(t, "weir"), nil, nil)
	session := &Session{SNI: host, interceptor: h.Interceptor}
	session.Unused(&net.OpError{Op: "remote error", Err: tls.AlertError(42)})
	if got := h.history.verdict(host); got != Pinned {
		t.Errorf("after an alert the verdict is %q, want %s", got, Pinned)
	}
}

// noSessions waits until no session stands.
func (h *house) noSessions() {
	h.t.Helper()
	for wait := patient(h.t); h.sessions.Load() > 0; {
		wait("the end of a session whose client is gone")
	}
}

func TestInterceptTakesClosedHandshakesForPinning(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	hello := helloOf(t, &tls.Config{ServerName: host, MaxVersion: tls.VersionTLS12})
	for n := range maxStrikes {
		conn, err := net.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(hello); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 100)); err != nil {
			t.Fatalf("the answer: %v", err)
		}
		_ = conn.Close()
		r := <-h.results
		rejected, ok := errors.AsType[*RejectedError](r.err)
		if want := n == maxStrikes-1; !ok || rejected.Pinned != want {
			t.Errorf("close %d: %v, want a RejectedError with Pinned %v", n, r.err, want)
		}
	}
	if _, err := get(h.client(p.pool()), host); err != nil {
		t.Error(err)
	}
	h.want(Pinned)
}

func TestPinningIsForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := newHistory()
		h.remember(host, Pinned)
		time.Sleep(remembered - time.Second)
		if h.verdict(host) != Pinned {
			t.Error("forgotten too early")
		}
		time.Sleep(time.Second)
		if got := h.verdict(host); got != "" {
			t.Errorf("after %v the verdict is %q, want none", remembered, got)
		}
		for n := range 2 * maxHistory {
			h.remember(fmt.Sprint(n), Pinned)
		}
		if got := len(h.hosts.elements); got != maxHistory {
			t.Errorf("%d hosts are remembered, want %d", got, maxHistory)
		}
	})
}
