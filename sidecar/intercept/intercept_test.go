package intercept

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestInterceptKeepsTheProtocol(t *testing.T) {
	t.Parallel()
	offers := func(protocols ...string) func(*tls.Config) {
		return func(c *tls.Config) { c.NextProtos = protocols }
	}
	for _, c := range []struct {
		reason       string
		host, client []string
		want         string
	}{
		{"the host prefers HTTP/2", []string{"h2", "http/1.1"}, []string{"http/1.1", "h2"}, "h2"},
		{"the host has HTTP/1.1 only", []string{"http/1.1"}, []string{"h2", "http/1.1"}, "http/1.1"},
		{"the client has HTTP/1.1 only", []string{"h2", "http/1.1"}, []string{"http/1.1"}, "http/1.1"},
		{"the client has others too", []string{"spdy/3", "http/1.1"}, []string{"spdy/3", "http/1.1"}, "http/1.1"},
		{"the client offers none", []string{"h2", "http/1.1"}, nil, ""},
		{"the host does not negotiate", nil, []string{"h2", "http/1.1"}, ""},
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(c.reason+", "+tls.VersionName(version), func(t *testing.T) {
				t.Parallel()
				operator := newAuthority(t, "weir")
				p := &provider{authority: newAuthority(t, "Provider's authority")}
				l := tls.NewListener(listen(t), &tls.Config{NextProtos: c.host, Certificates: []tls.Certificate{p.served(host)}})
				p.addr = l.Addr().String()
				go echo(l)
				h := build(t, operator, p, []string{host})
				conn, err := tls.Dial("tcp", h.addr, configured(&tls.Config{ServerName: host, RootCAs: operator.pool(), MaxVersion: version}, offers(c.client...)))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }()
				if got := conn.ConnectionState().NegotiatedProtocol; got != c.want {
					t.Errorf("the client got %q, want %q", got, c.want)
				}
				h.want(Intercepted)
				mustEcho(t, conn)
			})
		}
	}
}

func configured(c *tls.Config, set ...func(*tls.Config)) *tls.Config {
	for _, s := range set {
		s(c)
	}
	return c
}

// echo sends back what comes and ends when it ends.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}()
	}
}

// mustEcho sends a text, ends its direction, and fails unless the text and the end come back.
func mustEcho(t *testing.T, conn *tls.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	text := strings.Repeat("through and back ", 5000)
	go func() {
		_, _ = io.WriteString(conn, text)
		_ = conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != text {
		t.Errorf("%d bytes came back (%v), want the %d that were sent and then the end", len(got), err, len(text))
	}
}

func TestInterceptShowsRequests(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir", "provider.test")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host, "*.provider.test"})
	for _, name := range []string{host, "other.provider.test", "API.Provider.test"} {
		response, err := get(h.client(operator.pool()), name)
		if err != nil {
			t.Fatal(err)
		}
		h.want(Intercepted)
		if response.ProtoMajor != 2 {
			t.Errorf("%s answered with HTTP/%d, want 2, which both have", name, response.ProtoMajor)
		}
		if issuer := response.TLS.PeerCertificates[0].Issuer.CommonName; issuer != "weir" {
			t.Errorf("the client saw a certificate of %q, want our leaf", issuer)
		}
	}
	if got := h.counted(Intercepted); got != 3 {
		t.Errorf("%v intercepted connections were counted, want 3", got)
	}
	expiry := h.family("weir_sidecar_tls_leaf_expiry_seconds")
	if len(expiry) != 1 || time.Until(time.Unix(int64(expiry[0].GetGauge().GetValue()), 0)).Round(time.Hour) != operator.life {
		t.Errorf("the leaves' earliest expiry is told as %v, want it in %v", expiry, operator.life)
	}
}

func TestInterceptResumesSessions(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	client := h.client(operator.pool(), func(c *tls.Config) { c.ClientSessionCache = tls.NewLRUClientSessionCache(0) })
	for n := range 2 {
		response, err := get(client, host)
		if err != nil {
			t.Fatal(err)
		}
		if want := n > 0; response.TLS.DidResume != want {
			t.Errorf("connection %d: the client resumed: %v, want %v", n, response.TLS.DidResume, want)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.seen[0].DidResume || !p.seen[1].DidResume {
		t.Errorf("the host saw resumption %v, %v; want false, true", p.seen[0].DidResume, p.seen[1].DidResume)
	}
}

func TestInterceptAsksOnceForManyConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) { // where no connection is out of time
		operator := newAuthority(t, "weir")
		held := make(chan struct{})
		l := cache(t, operator, func(ctx context.Context, request []byte) ([]byte, error) {
			<-held
			return operator.issue(ctx, request)
		})
		var connections sync.WaitGroup
		for range 200 {
			connections.Go(func() {
				if _, err := l.get(t.Context(), host); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // for all of them to wait
		close(held)
		connections.Wait()
		if asked := operator.asked.Load(); asked != 1 {
			t.Errorf("the operator was asked %d times for one name, want once", asked)
		}
	})
}

func TestInterceptEndsWithItsContext(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	client, ours := net.Pipe() // nobody reads the answer
	defer func() { _, _ = client.Close(), ours.Close() }()
	data := helloOf(t, &tls.Config{ServerName: host})
	hello, _ := ReadHello(data)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.Intercept(ctx, hello, &peeked{Conn: ours, prefix: data}, h.dial)
		done <- err
	}()
	if _, err := client.Read(make([]byte, 1)); err != nil { // the answer began
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if got := outcomeOf(err); got != Failed {
			t.Errorf("%v, want an error of the outcome %s", err, Failed)
		}
	case <-time.After(patience):
		t.Fatal("Intercept did not end with its context")
	}
	if h.history.verdict(host) != "" {
		t.Error("a connection that the caller ended is remembered as a refusal")
	}
}

func TestInterceptLeavesTheClientOpenWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	data := helloOf(t, &tls.Config{ServerName: host})
	hello, _ := ReadHello(data)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	client := &untouchable{t: t}
	_, err := h.Intercept(ctx, hello, client, h.dial)
	if err == nil {
		t.Fatal("intercepted with a context that had ended")
	}
	if _, err := h.answer(ctx, hello, client, &leaf{certificate: operator.served(host)}, ""); outcomeOf(err) != NoProtocol {
		t.Errorf("%v, want a PassError", err)
	}
}

// untouchable is a client that must neither be read, written nor closed.
type untouchable struct {
	net.Conn
	t *testing.T
}

func (u *untouchable) Read([]byte) (int, error)  { u.t.Error("read"); return 0, io.EOF }
func (u *untouchable) Write([]byte) (int, error) { u.t.Error("written"); return 0, io.EOF }
func (u *untouchable) Close() error              { u.t.Error("closed"); return nil }

func TestInterceptWhereThePolicyGoes(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	client := h.client(operator.pool())
	response, err := client.Get("https://" + host + "/") // a connection that stays
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	h.want(Intercepted)
	h.use(operator.pem())
	if h.Wants(host) {
		t.Error("a host is wanted that no policy names any longer")
	}
	if response, err = client.Get("https://" + host + "/"); err != nil {
		t.Errorf("the connection that stood: %v, want it to go on", err)
	} else {
		_ = response.Body.Close()
	}
	if _, err := get(h.client(p.pool()), host); err != nil {
		t.Error(err)
	}
	h.want(Passthrough)
}

func TestCountIsForTheClosedSet(t *testing.T) {
	t.Parallel()
	h := build(t, newAuthority(t, "weir"), nil, nil)
	for _, o := range []Outcome{Passthrough, NoSNI, ECH, "made up"} {
		h.Count(o)
	}
	if got := len(h.family("weir_sidecar_tls_connections_total")); got != len(outcomes) {
		t.Errorf("%d series, want %d", got, len(outcomes))
	}
	if h.counted(ECH) != 1 {
		t.Error("what the caller counted is not counted")
	}
	if h.family("weir_sidecar_tls_leaf_expiry_seconds") != nil {
		t.Error("an expiry is told without a leaf")
	}
}
