package intercept

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
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

// What passes, and why: every time the client ends up with the host itself,
// as if nobody had looked.
func TestInterceptLetsPass(t *testing.T) {
	t.Parallel()
	away := func(c *Config) {
		c.Issue = func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the operator is away") }
	}
	unknown := func(c *Config) { c.Authorities = newAuthority(t, "an older one").pem() }
	for _, c := range []struct {
		want   Outcome
		reason string
		hosts  []string
		server func(*tls.Config)
		client func(*tls.Config)
		config func(*Config)
	}{
		{want: NoLeaf, reason: "the operator is away", config: away},
		{want: NoLeaf, reason: "the operator does not answer in time", hosts: []string{"*.provider.test"}, config: func(c *Config) {
			c.Issue = func(ctx context.Context, request []byte) ([]byte, error) {
				if isFor(request, host) {
					<-ctx.Done()
				}
				return nil, errors.New("not in time")
			}
		}},
		{want: NoLeaf, reason: "the operator answers nonsense", config: func(c *Config) {
			c.Issue = func(context.Context, []byte) ([]byte, error) { return []byte("x"), nil }
		}},
		{want: Untrusted, reason: "the pod began before the authority", config: unknown},
		{want: Untrusted, reason: "the pod was not led to the bundle", config: func(c *Config) { c.Trust = false }},
		{want: Untrusted, reason: "the pod began before any authority", config: func(c *Config) { c.Authorities = "" }},
		{want: Unverified, reason: "the host's certificate is of an unknown authority", config: func(c *Config) { c.ExtraRoots = "" }},
		{want: ClientCertificate, reason: "the host asks for a client's certificate", server: func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }},
		{want: ClientCertificate, reason: "it does, over TLS 1.2", server: func(c *tls.Config) { c.ClientAuth, c.MaxVersion = tls.RequestClientCert, tls.VersionTLS12 }},
		{want: NoProtocol, reason: "the host has no TLS 1.2", server: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
			client: func(c *tls.Config) { c.MinVersion = tls.VersionTLS10 }},
		{want: NoProtocol, reason: "the client has no TLS 1.2", server: func(c *tls.Config) { c.MinVersion = tls.VersionTLS10 },
			client: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }},
		{want: NoProtocol, reason: "the client takes no ECDSA", server: rsaOf(t),
			client: func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}
			}},
		{want: NoProtocol, reason: "the client speaks something else", server: func(c *tls.Config) { c.NextProtos = []string{"postgresql", "h2", "http/1.1"} },
			client: func(c *tls.Config) { c.NextProtos = []string{"postgresql"} }},
		{want: Passthrough, reason: "another host", hosts: []string{"other.test"}},
		{want: NoSNI, reason: "no name", client: func(c *tls.Config) { c.ServerName = "127.0.0.1" }},
	} {
		t.Run(string(c.want)+", "+c.reason, func(t *testing.T) {
			t.Parallel()
			operator := newAuthority(t, "weir")
			p := &provider{authority: newAuthority(t, "Provider's authority")}
			config := &tls.Config{Certificates: []tls.Certificate{p.served(host)}, NextProtos: []string{"h2", "http/1.1"}}
			if c.server != nil {
				c.server(config)
			}
			l := tls.NewListener(listen(t), config)
			p.addr = l.Addr().String()
			go echo(l)
			hosts := c.hosts
			if hosts == nil {
				hosts = []string{host}
			}
			sets := []func(*Config){func(*Config) {}}
			if c.config != nil {
				sets[0] = c.config
			}
			h := build(t, operator, p, hosts, sets...)
			mine := &tls.Config{ServerName: host, NextProtos: []string{"h2", "http/1.1"}, InsecureSkipVerify: true}
			if c.client != nil {
				c.client(mine)
			}
			conn, err := tls.Dial("tcp", h.addr, mine)
			if err != nil {
				t.Fatalf("the relayed handshake failed: %v", err)
			}
			defer func() { _ = conn.Close() }()
			h.want(c.want)
			if leaf := conn.ConnectionState().PeerCertificates[0]; leaf.Issuer.CommonName == "weir" {
				t.Error("the client saw our leaf, want the host's certificate")
			}
			mustEcho(t, conn)
			if got := h.counted(c.want); got != 1 {
				t.Errorf("%v connections were counted as %s, want 1", got, c.want)
			}
		})
	}
}

func isFor(request []byte, name string) bool {
	csr, err := x509.ParseCertificateRequest(request)
	return err == nil && csr.DNSNames[0] == name
}

// rsaOf gives a server a certificate with an RSA key, of nobody.
func rsaOf(t *testing.T) func(*tls.Config) {
	return func(c *tls.Config) {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		a := newAuthority(t, "Provider's authority")
		both := tls.Certificate{Certificate: [][]byte{a.leaf(key.Public(), host).Raw}, PrivateKey: key}
		c.Certificates = append(c.Certificates, both) // the first one is for clients that take ECDSA
	}
}

func TestInterceptLetsEarlyDataPass(t *testing.T) {
	t.Parallel()
	h := build(t, newAuthority(t, "weir"), nil, []string{host})
	_, err := h.Intercept(t.Context(), Hello{ServerName: host, MaxVersion: tls.VersionTLS13, EarlyData: true}, nil, nil)
	if got := outcomeOf(err); got != NoProtocol {
		t.Errorf("early data: %v, want a PassError for %s", err, NoProtocol)
	}
}

func TestInterceptOfPractisedECH(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	h := build(t, operator, p, []string{host})
	hello := Hello{ServerName: host, MaxVersion: tls.VersionTLS13, ECH: true}
	if err := h.refuse(hello); err != nil {
		t.Errorf("a hello with something like ECH: %v, want it intercepted", err)
	}
}

func TestInterceptPassesAtOnceWhereCertificatesWereAskedFor(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert })
	h := build(t, operator, p, []string{host})
	var dialled int
	dial := func(ctx context.Context) (net.Conn, error) { dialled++; return h.dial(ctx) }
	hello, _ := ReadHello(helloOf(t, &tls.Config{ServerName: host}))
	for n := range 2 {
		_, err := h.Intercept(t.Context(), hello, nil, dial)
		if got := outcomeOf(err); got != ClientCertificate || dialled != 1 {
			t.Errorf("connection %d: %v after %d dials, want %s after 1", n, err, dialled, ClientCertificate)
		}
	}
}

func TestInterceptSaysUnreachable(t *testing.T) {
	t.Parallel()
	h := build(t, newAuthority(t, "weir"), nil, []string{host})
	hello, _ := ReadHello(helloOf(t, &tls.Config{ServerName: host}))
	refused := errors.New("connection refused")
	_, err := h.Intercept(t.Context(), hello, nil, func(context.Context) (net.Conn, error) { return nil, refused })
	if _, ok := errors.AsType[*UnreachableError](err); !ok || !errors.Is(err, refused) {
		t.Errorf("%v, want an UnreachableError with its cause", err)
	}
	if h.counted(Unreachable) != 1 {
		t.Error("an unreachable host was not counted")
	}
}

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
		_ = conn.Close()
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

func TestInterceptAsksOnceForManyConnections(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	p := provide(t, nil)
	held := make(chan struct{})
	h := build(t, operator, p, []string{"*.provider.test"}, func(c *Config) {
		c.Issue = func(ctx context.Context, request []byte) ([]byte, error) {
			if isFor(request, host) {
				<-held
			}
			return operator.issue(ctx, request)
		}
	})
	before := operator.asked.Load()
	var clients sync.WaitGroup
	for range 200 {
		clients.Go(func() {
			if _, err := get(h.client(operator.pool()), host); err != nil {
				t.Error(err)
			}
		})
	}
	close(held)
	clients.Wait()
	if asked := operator.asked.Load() - before; asked != 1 {
		t.Errorf("the operator was asked %d times for one name, want once", asked)
	}
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
