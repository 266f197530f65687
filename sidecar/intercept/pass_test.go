package intercept

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

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

func TestHostsAreVerifiedWithTheRulesetsRoots(t *testing.T) {
	t.Parallel()
	operator, provider := newAuthority(t, "weir"), provide(t, nil)
	h := build(t, operator, provider, []string{host}, func(c *Config) { c.ExtraRoots = "" })
	for _, step := range []struct {
		reason, roots string
		want          Outcome
	}{
		{"with the host's authority", provider.pem(), Intercepted},
		{"once it is taken away", "", Unverified},
	} {
		rs := &ruleset.Ruleset{Authorities: operator.pem(), HostRoots: step.roots, Policies: []ruleset.Policy{intercepting("spotify", host)}}
		if err := h.Use(rs); err != nil {
			t.Fatal(err)
		}
		_, _ = get(h.client(operator.pool()), host)
		if got := h.outcome(); got != step.want {
			t.Errorf("%s the outcome is %s, want %s; log:\n%s", step.reason, got, step.want, h.logged)
		}
	}
}
