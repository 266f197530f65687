package proxy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// authority signs certificates, as a provider's does, or the operator.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTestAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key}
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	a.cert = a.sign(a.cert, &key.PublicKey)
	return a
}

func (a *authority) sign(template *x509.Certificate, key any) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key, a.key)
	if err != nil {
		a.t.Error(err)
		return nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Error(err)
	}
	return cert
}

func (a *authority) leaf(names []string, key any) *x509.Certificate {
	return a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, key)
}

func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue is what the operator does with a request.
func (a *authority) issue(_ context.Context, request []byte) ([]byte, error) {
	asked, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	leaf := a.leaf(asked.DNSNames, asked.PublicKey)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}), nil
}

// provider is an HTTPS server for api.example.com.
func provider(t testing.TB, signer *authority, handler http.HandlerFunc) net.Addr {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(handler)
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{signer.leaf([]string{"api.example.com"}, &key.PublicKey).Raw}, PrivateKey: key}}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr()
}

// intercepting is a house that intercepts with leaves of mine, and believes
// hosts that theirs signed.
func intercepting(t testing.TB, upstream net.Addr, mine, theirs *authority, issue func(context.Context, []byte) ([]byte, error), policies ...ruleset.Policy) *house {
	t.Helper()
	h := build(t, upstream, policies...)
	i, err := intercept.New(intercept.Config{
		Issue: issue, Trust: true, Authorities: mine.pem(), TrustDir: t.TempDir(), ExtraRoots: theirs.pem(),
		Registerer: h.registry, Logger: h.proxy.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	if err := i.Use(&ruleset.Ruleset{Namespace: "ns", Authorities: mine.pem(), Policies: policies}); err != nil {
		t.Fatal(err)
	}
	h.proxy.interceptor = i
	h.addr = h.listen(ruleset.Outbound)
	return h
}

// secureClient speaks TLS to whatever host through the house.
func (h *house) secureClient(roots *x509.CertPool, protocols func(*http.Protocols)) *http.Client {
	var allowed http.Protocols
	protocols(&allowed)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, h.addr)
		},
		TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: &allowed,
	}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func secureVersions(p *http.Protocols) { p.SetHTTP2(true); p.SetHTTP1(true) }

const (
	unseen         = "weir_sidecar_unseen_connections_total"
	tlsConnections = "weir_sidecar_tls_connections_total"
)

// denying intercepts api.example.com and denies what cannot be counted.
func denying(limit int64) ruleset.Policy {
	return basic("p", func(p *ruleset.Policy) {
		p.Hosts, p.Intercept, p.OnStoreFailure = []string{"api.example.com"}, true, ruleset.OnStoreFailureDeny
		p.Limits[0].Requests = limit
	})
}

// allowing intercepts it and lets pass what cannot be counted.
func allowing(limit int64) ruleset.Policy {
	p := denying(limit)
	p.OnStoreFailure = ruleset.OnStoreFailureAllow
	return p
}

// sharing intercepts it and goes on with this sidecar's share.
func sharing(limit int64) ruleset.Policy {
	p := denying(limit)
	p.OnStoreFailure, p.Enforcers = ruleset.OnStoreFailureLocal, 1
	return p
}

// helloOf is what a client sends first.
func helloOf(t testing.TB, config *tls.Config) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer func() { _, _ = client.Close(), server.Close() }()
	go func() { _ = tls.Client(client, config).Handshake() }()
	var hello []byte
	buffer := make([]byte, bufferBytes)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		hello = append(hello, buffer[:n]...)
		if _, status := intercept.ReadHello(hello); status == intercept.Complete {
			return hello
		}
	}
}

func TestInterceptedRequestsAreCounted(t *testing.T) {
	t.Parallel()
	for name, protocols := range map[string]func(*http.Protocols){"HTTP/1.1": http1, "HTTP/2.0": secureVersions} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
			upstream := provider(t, theirs, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, r.Proto+" "+r.Host+" "+r.Header.Get("X-User-ID"))
			})
			h := intercepting(t, upstream, mine, theirs, mine.issue, basic("p", func(p *ruleset.Policy) {
				p.Hosts, p.Intercept, p.Limits[0].Requests = []string{"api.example.com"}, true, 2
				p.Sources[0].Header.Strip = true
			}))
			client := h.secureClient(mine.pool(), protocols)
			for i, want := range []int{200, 200, 429} {
				response, body := do(t, client, ask(t, http.MethodGet, "https://api.example.com/v1", nil, "X-User-ID", "alice"))
				if response.StatusCode != want || response.Proto != name {
					t.Fatalf("request %d: %s %d, want %s %d", i, response.Proto, response.StatusCode, name, want)
				}
				if want == 200 && body != name+" api.example.com " {
					t.Errorf("the provider saw %q, want %s, its host and no X-User-ID", body, name)
				}
			}
			if response, _ := do(t, client, ask(t, http.MethodGet, "https://api.example.com/v1", nil, "X-User-ID", "bob")); response.StatusCode != http.StatusOK {
				t.Errorf("another user: %d, want 200", response.StatusCode)
			}
		})
	}
}

// A tunnel goes to one destination for as long as it stands, also when what
// read the head that named it has long been used for something else.
func TestInterceptedTunnelsKeepTheirDestination(t *testing.T) {
	t.Parallel()
	mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
	upstream := provider(t, theirs, func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	h := intercepting(t, upstream, mine, theirs, mine.issue, basic("p", func(p *ruleset.Policy) {
		p.Hosts, p.Intercept, p.Limits[0].Requests = []string{"api.example.com"}, true, 100
	}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = h.proxy.ServeExplicit(l) }()
	h.addr = l.Addr().String()
	client := h.secureClient(mine.pool(), secureVersions)
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
		c := h.dial()
		write(t, c, "CONNECT "+upstream.String()+" HTTP/1.1\r\nHost: "+upstream.String()+"\r\n\r\n")
		_, err := io.ReadFull(c, make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n")))
		return c, err
	}
	for i := range 20 {
		want := strings.Repeat("x", 1<<10)
		response, got := do(t, client, ask(t, http.MethodPost, "https://api.example.com/", strings.NewReader(want)))
		if response.Proto != "HTTP/2.0" || got != want {
			t.Fatalf("request %d: %s %s %.100q, want its body back", i, response.Proto, response.Status, got)
		}
	}
}

// A request within TLS is for the host that the connection was made for, and
// for its own Host, so that neither a false Host nor a front evades a limit.
func TestInterceptedRequestsMeetBothTheirHosts(t *testing.T) {
	t.Parallel()
	for name, protocols := range map[string]func(*http.Protocols){"HTTP/1.1": http1, "HTTP/2.0": secureVersions} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
			upstream := provider(t, theirs, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Host) })
			h := intercepting(t, upstream, mine, theirs, mine.issue, allowing(3),
				basic("hidden", func(p *ruleset.Policy) { p.Hosts, p.Limits[0].Requests = []string{"hidden.test"}, 1 }))
			client := h.secureClient(mine.pool(), protocols)
			for _, c := range []struct {
				host string
				want int
			}{
				{"other.test", 200},
				{"hidden.test", 200},
				{"hidden.test", 429}, // by its own policy
				{"api.example.com", 200},
				{"other.test", 429}, // by that of the connection's host
			} {
				r := ask(t, http.MethodGet, "https://api.example.com/", nil)
				r.Host = c.host
				response, body := do(t, client, r)
				if response.StatusCode != c.want || response.Proto != name {
					t.Fatalf("%s: %s %d, want %s %d", c.host, response.Proto, response.StatusCode, name, c.want)
				}
				if c.want == 200 && body != c.host {
					t.Errorf("the provider saw the host %q, want %q", body, c.host)
				}
			}
		})
	}
}

// What no policy intercepts keeps its own certificate, and its connections are
// counted where a policy names the host.
func TestPassthroughCountsConnections(t *testing.T) {
	t.Parallel()
	mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
	upstream := provider(t, theirs, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "own") })
	h := intercepting(t, upstream, mine, theirs, mine.issue, basic("p", func(p *ruleset.Policy) { p.Hosts = []string{"*.example.com"} }))
	if _, body := do(t, h.secureClient(theirs.pool(), http1), ask(t, http.MethodGet, "https://api.example.com/", nil)); body != "own" {
		t.Errorf("answer %q, want own", body)
	}
	h.wantCount(1, "weir_sidecar_unseen_connections_total", "p", "p")
	h.wantCount(1, "weir_sidecar_tls_connections_total", "passthrough")
}

// Without a leaf the policy's onStoreFailure decides: nothing can be counted.
func TestWithoutALeaf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		on     ruleset.OnStoreFailure
		served bool
	}{{ruleset.OnStoreFailureAllow, true}, {ruleset.OnStoreFailureLocal, true}, {ruleset.OnStoreFailureDeny, false}} {
		mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
		upstream := provider(t, theirs, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "own") })
		h := intercepting(t, upstream, mine, theirs,
			func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the operator is away") },
			basic("p", func(p *ruleset.Policy) {
				p.Hosts, p.Intercept, p.OnStoreFailure = []string{"api.example.com"}, true, c.on
			}))
		response, err := h.secureClient(theirs.pool(), http1).Get("https://api.example.com/")
		if served := err == nil; served != c.served {
			t.Errorf("%s: %v %v, want served %v", c.on, response, err, c.served)
		}
		if err == nil {
			_ = response.Body.Close()
		}
	}
}

// A host that the sidecar cannot verify is the client's to judge.
func TestUnverifiableHostPassesToTheClient(t *testing.T) {
	t.Parallel()
	mine, theirs, unknown := newTestAuthority(t, "weir"), newTestAuthority(t, "public"), newTestAuthority(t, "private")
	upstream := provider(t, unknown, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "own") })
	h := intercepting(t, upstream, mine, theirs, mine.issue, basic("p", func(p *ruleset.Policy) {
		p.Hosts, p.Intercept = []string{"api.example.com"}, true
	}))
	if _, body := do(t, h.secureClient(unknown.pool(), http1), ask(t, http.MethodGet, "https://api.example.com/", nil)); body != "own" {
		t.Errorf("answer %q, want own", body)
	}
	if _, err := h.secureClient(mine.pool(), http1).Get("https://api.example.com/"); err == nil {
		t.Error("a client that does not know the authority either was served")
	}
	h.wantCount(2, "weir_sidecar_tls_connections_total", "unverified")
}

// A host that lets its connection go (GOAWAY) is dialled anew, and no request
// of the client's connection is lost.
func TestInterceptedHTTP2OutlivesItsUpstreamConnection(t *testing.T) {
	t.Parallel()
	mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
	var connections atomic.Int64
	upstream := provider(t, theirs, func(w http.ResponseWriter, _ *http.Request) {
		connections.Add(1)
		w.Header().Set("Connection", "close") // net/http sends GOAWAY
	})
	h := intercepting(t, upstream, mine, theirs, mine.issue, basic("p", func(p *ruleset.Policy) {
		p.Hosts, p.Intercept, p.Limits[0].Requests = []string{"api.example.com"}, true, 100
	}))
	client := h.secureClient(mine.pool(), secureVersions)
	for range 5 {
		if response, _ := do(t, client, ask(t, http.MethodGet, "https://api.example.com/", nil)); response.StatusCode != http.StatusOK {
			t.Fatalf("answer %d, want 200", response.StatusCode)
		}
	}
	if connections.Load() != 5 {
		t.Errorf("%d requests arrived, want 5", connections.Load())
	}
}

// preconnected is a client's connection that has been intercepted and says nothing.
func (h *house) preconnected(roots *x509.CertPool) *tls.Conn {
	h.t.Helper()
	c := tls.Client(h.dial(), &tls.Config{ServerName: "api.example.com", RootCAs: roots, NextProtos: []string{"http/1.1"}})
	if err := c.Handshake(); err != nil {
		h.t.Fatal(err)
	}
	return c
}

// A connection that clients keep for later does not keep the sidecar.
func TestShutdownEndsPreconnectedInterceptedConnections(t *testing.T) {
	t.Parallel()
	mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
	upstream := provider(t, theirs, func(http.ResponseWriter, *http.Request) {})
	h := intercepting(t, upstream, mine, theirs, mine.issue, allowing(1))
	c := h.preconnected(mine.pool())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := h.proxy.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown with an idle connection: %v, want nil", err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the client read %d bytes, %v; want an end in order", n, err)
	}
	h.wantCount(0, tlsConnections, "unused")
}

// A sidecar whose patience has ended resets connections at whatever point they are.
func TestConnectionsAreSeveredWhileInterceptionBegins(t *testing.T) {
	t.Parallel()
	mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
	upstream := provider(t, theirs, func(http.ResponseWriter, *http.Request) {})
	h := intercepting(t, upstream, mine, theirs, mine.issue, allowing(1))
	for range 10 {
		c := h.preconnected(mine.pool())
		h.proxy.sessions.sever()
		wantClosed(t, c)
		h.noSessions()
	}
}

// What large Hellos took is given back however their connections end. Not
// parallel: what others take counts.
func TestConnectionsThatEndGiveBackWhatTheirHellosTook(t *testing.T) {
	protocols := []string{"http/1.1"}
	for range 90 {
		protocols = append(protocols, strings.Repeat("x", 200))
	}
	hello := helloOf(t, &tls.Config{ServerName: "api.example.com", NextProtos: protocols})
	if len(hello) <= bufferBytes {
		t.Fatalf("the Hello has %d bytes, want more than a buffer's", len(hello))
	}
	away := func(context.Context, []byte) ([]byte, error) { return nil, errors.New("the operator is away") }
	for _, gone := range []bool{false, true} {
		mine, theirs := newTestAuthority(t, "weir"), newTestAuthority(t, "public")
		host := provider(t, theirs, func(http.ResponseWriter, *http.Request) {})
		clients, reset := make(chan *net.TCPConn, 1), make(chan struct{})
		upstream := rawServer(t, func(c *net.TCPConn) {
			begun := bufio.NewReader(c)
			if _, err := begun.Peek(1); err != nil {
				return
			}
			client := <-clients // whose Hello has been read
			_ = client.SetLinger(0)
			_ = client.Close()
			close(reset)
			up, err := net.Dial("tcp", host.String())
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = up.Close() }()
			go func() { _, _ = io.Copy(up, begun) }()
			_, _ = io.Copy(c, up)
		})
		issue := away
		if gone {
			issue = mine.issue
		}
		h := intercepting(t, upstream, mine, theirs, issue, denying(1))
		before := large.Load()
		conn := h.dial()
		write(t, conn, string(hello))
		clients <- conn
		if gone {
			<-reset
		} else {
			wantClosed(t, conn)
		}
		h.noSessions()
		if took := large.Load() - before; took != 0 {
			t.Errorf("client gone %v, else denied: %d bytes of the budget for large heads are lost, want none", gone, took)
		}
	}
}

// noSessions waits until none is left.
func (h *house) noSessions() {
	h.t.Helper()
	eventually(h.t, "the end of all sessions", func() bool {
		live := 0
		h.proxy.sessions.each(func(*session) { live++ })
		return live == 0
	})
}
