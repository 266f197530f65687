package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// generations is a lineage of three: the first knows api.example.com and what
// is below; the second, made a year later, the same; the third, made now,
// new.example.org too.
func generations(t *testing.T, now time.Time) lineage {
	t.Helper()
	var l lineage
	for _, step := range []struct {
		age     time.Duration
		domains []string
	}{
		{400 * day, []string{"api.example.com"}},
		{30 * day, []string{"api.example.com"}},
		{0, []string{"api.example.com", "new.example.org"}},
	} {
		l, _ = succeeded(t, now.Add(-step.age), l, step.domains...)
	}
	if len(l.authorities) != 3 {
		t.Fatalf("got %d authorities, want 3", len(l.authorities))
	}
	return l
}

// leafOf is what the newest authority signs for names, with its whole chain.
func leafOf(t *testing.T, now time.Time, l lineage, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := newLeaf(now, 6*time.Hour, names, key.Public(), l.signer())
	if err != nil {
		t.Fatal(err)
	}
	return chained(now, l, leaf, key)
}

func chained(now time.Time, l lineage, leaf *x509.Certificate, key *ecdsa.PrivateKey) tls.Certificate {
	chain := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	for _, cert := range l.crossed(now) {
		chain.Certificate = append(chain.Certificate, cert.Raw)
	}
	return chain
}

// shown is what of a chain a sidecar shows to programs that know some
// authorities: nothing above what one of them has signed. GnuTLS would follow
// the chain to its end, and hold the leaf to constraints that need not concern it.
func shown(t *testing.T, chain tls.Certificate, known []*x509.Certificate) tls.Certificate {
	t.Helper()
	for i, der := range chain.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(known, func(k *x509.Certificate) bool { return bytes.Equal(k.RawSubject, cert.RawIssuer) }) {
			chain.Certificate = chain.Certificate[:i+1]
			break
		}
	}
	return chain
}

// verify is what Go says of a chain.
func verify(chain tls.Certificate, known []*x509.Certificate, name string, now time.Time) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range known {
		roots.AddCert(root)
	}
	for _, der := range chain.Certificate[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return err
		}
		between.AddCert(cert)
	}
	_, err := chain.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name, CurrentTime: now})
	return err
}

// verifier is what programs of a kind verify with.
type verifier struct {
	// command that has to be installed.
	command string
	// ignoresRoots: the constraints of a trusted root bind nobody, only those of
	// the authorities between.
	ignoresRoots bool
	// prepare makes the program that says whether one that knows the PEM
	// file roots and asks for name accepts the server at address.
	prepare func(t *testing.T) program
}

type program func(t *testing.T, roots, address, name string) (accepts bool, said string)

var verifiers = map[string]verifier{
	"openssl": {command: "openssl", prepare: always(func(t *testing.T, roots, address, name string) (bool, string) {
		return run(t, "openssl", "s_client", "-connect", address, "-servername", name, "-verify_hostname", name,
			"-CAfile", roots, "-no-CApath", "-no-CAstore", "-verify_return_error", "-verify", "10", "-x509_strict", "-purpose", "sslserver")
	})},
	"python": {command: "python3", prepare: always(func(t *testing.T, roots, address, name string) (bool, string) {
		return run(t, "python3", "-c", `
import socket, ssl, sys
roots, address, name = sys.argv[1:]
host, port = address.split(":")
context = ssl.create_default_context(cafile=roots)
context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN  # as 3.13 does by default
with socket.create_connection((host, int(port)), timeout=20) as s:
    context.wrap_socket(s, server_hostname=name).close()
`, roots, address, name)
	})},
	"curl": {command: "curl", prepare: always(func(t *testing.T, roots, address, name string) (bool, string) {
		return run(t, "curl", "-sS", "--max-time", "20", "--noproxy", "*", "--cacert", roots, "--resolve", resolve(address, name), site(address, name))
	})},
	"git, for GnuTLS": {command: "git", prepare: always(func(t *testing.T, roots, address, name string) (bool, string) {
		_, said := run(t, "env", "GIT_SSL_CAINFO="+roots, "GIT_TERMINAL_PROMPT=0", "git", "-c", "http.proxy=", "-c", "http.curloptResolve="+resolve(address, name),
			"ls-remote", site(address, name))
		return !strings.Contains(said, "certificate"), said // whatever else it finds wrong
	})},
	"node": {command: "node", prepare: always(func(t *testing.T, roots, address, name string) (bool, string) {
		return run(t, "node", "-e", `
const [roots, address, name] = process.argv.slice(1);
const [host, port] = address.split(":");
const socket = require("tls").connect({host, port, servername: name, ca: require("fs").readFileSync(roots)}, () => socket.end());
socket.on("error", e => { console.error(e); process.exit(1); });
`, roots, address, name)
	})},
	"java": {command: "javac", ignoresRoots: true, prepare: func(t *testing.T) program {
		folder := t.TempDir()
		source := filepath.Join(folder, "Connect.java")
		if err := os.WriteFile(source, []byte(connectJava), 0o600); err != nil {
			t.Fatal(err)
		}
		if ok, said := run(t, "javac", "-d", folder, source); !ok {
			t.Fatalf("compiling the client: %s", said)
		}
		return func(t *testing.T, roots, address, name string) (bool, string) {
			return run(t, "java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", folder, "Connect", roots, address, name)
		}
	}},
}

func always(p program) func(*testing.T) program { return func(*testing.T) program { return p } }

// resolve is what curl is told of a name's address.
func resolve(address, name string) string {
	host, port, _ := strings.Cut(address, ":")
	return name + ":" + port + ":" + host
}

func site(address, name string) string {
	_, port, _ := strings.Cut(address, ":")
	return "https://" + name + ":" + port + "/"
}

const connectJava = `
import java.io.FileInputStream;
import java.net.Socket;
import java.security.KeyStore;
import java.security.cert.*;
import javax.net.ssl.*;

class Connect {
  public static void main(String[] args) throws Exception {
    KeyStore known = KeyStore.getInstance("PKCS12");
    known.load(null, null);
    int i = 0;
    for (Certificate c : CertificateFactory.getInstance("X.509").generateCertificates(new FileInputStream(args[0]))) {
      known.setCertificateEntry("authority-" + i++, c);
    }
    TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
    trust.init(known);
    SSLContext context = SSLContext.getInstance("TLS");
    context.init(null, trust.getTrustManagers(), null);
    String[] address = args[1].split(":");
    Socket plain = new Socket(address[0], Integer.parseInt(address[1]));
    SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket(plain, args[2], plain.getPort(), true);
    SSLParameters parameters = socket.getSSLParameters();
    parameters.setEndpointIdentificationAlgorithm("HTTPS");
    socket.setSSLParameters(parameters);
    socket.startHandshake();
  }
}
`

func run(t *testing.T, program string, arguments ...string) (ok bool, said string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), program, arguments...)
	command.Stdin = strings.NewReader("")
	output, err := command.CombinedOutput()
	return err == nil, string(output)
}

// TestProgramsAcceptWhatEveryAuthorityBetweenPermits holds the chains and the
// constraints to what programs really do with them.
func TestProgramsAcceptWhatEveryAuthorityBetweenPermits(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := generations(t, now)
	first, second, newest := l.authorities[0].root, l.authorities[1].root, l.authorities[2].root
	scenes := []struct {
		reason string
		known  []*x509.Certificate
		name   string
		chain  tls.Certificate
		good   bool
		// byRoot: only the trusted root forbids it.
		byRoot bool
	}{
		{"the newest is known", []*x509.Certificate{newest}, "api.example.com", leafOf(t, now, l, "api.example.com"), true, false},
		{"a program of two generations ago knows the first alone", []*x509.Certificate{first}, "api.example.com", leafOf(t, now, l, "api.example.com"), true, false},
		{"one of the last generation knows two", []*x509.Certificate{first, second}, "api.example.com", leafOf(t, now, l, "api.example.com"), true, false},
		{"one that starts now knows all", l.roots(), "new.example.org", leafOf(t, now, l, "new.example.org"), true, false},
		{"a wildcard", l.roots(), "eu.new.example.org", leafOf(t, now, l, "*.new.example.org"), true, false},
		{"below a domain that the first permits", []*x509.Certificate{first}, "v1.api.example.com", leafOf(t, now, l, "v1.api.example.com"), true, false},
		{"the first does not permit the new host", []*x509.Certificate{first}, "new.example.org", leafOf(t, now, l, "new.example.org"), false, false},
		{"no authority permits other names", l.roots(), "bank.example.net", leafOf(t, now, l, "bank.example.net"), false, true},
		{"nor one that only ends alike", l.roots(), "notapi.example.com", leafOf(t, now, l, "notapi.example.com"), false, true},
		{"nor the domain above", l.roots(), "example.com", leafOf(t, now, l, "example.com"), false, true},
	}
	for _, scene := range scenes {
		for _, chain := range []tls.Certificate{scene.chain, shown(t, scene.chain, scene.known)} {
			if err := verify(chain, scene.known, scene.name, now); (err == nil) != scene.good {
				t.Errorf("%s: Go says of %s: %v, want good: %v", scene.reason, scene.name, err, scene.good)
			}
		}
	}
	for who, verifier := range verifiers {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			if _, err := exec.LookPath(verifier.command); err != nil {
				t.Skipf("%s is not installed", verifier.command)
			}
			accepts := verifier.prepare(t)
			for _, scene := range scenes {
				if verifier.ignoresRoots && scene.byRoot {
					continue // it would accept it
				}
				roots := filepath.Join(t.TempDir(), "roots.pem")
				if err := os.WriteFile(roots, encodeCertificates(scene.known...), 0o600); err != nil {
					t.Fatal(err)
				}
				if good, said := accepts(t, roots, serve(t, shown(t, scene.chain, scene.known)), scene.name); good != scene.good {
					t.Errorf("%s: %s accepts %s: %v, want %v; it said:\n%s", scene.reason, who, scene.name, good, scene.good, said)
				}
			}
		})
	}
}

// serve shows a chain on a port of its own until the test ends.
func serve(t *testing.T, chain tls.Certificate) string {
	t.Helper()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{chain}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer func() { _ = connection.Close() }()
				_, _ = connection.Write([]byte("HTTP/1.0 200 OK\r\n\r\n")) // shakes hands before
			}()
		}
	}()
	return listener.Addr().String()
}

// TestAnAuthoritySignsForNamesOnly holds even a stolen key to the constraints.
func TestAnAuthoritySignsForNamesOnly(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l, _ := succeeded(t, now, lineage{}, "example.com")
	for reason, forge := range map[string]func(*x509.Certificate){
		"an IPv4 address":        func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} },
		"an IPv6 address":        func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.ParseIP("2001:db8::1")} },
		"a mailbox":              func(c *x509.Certificate) { c.EmailAddresses = []string{"someone@example.com"} },
		"a URI":                  func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.com", Path: "/a"}} },
		"another purpose":        func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"code":                   func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"a name beside a domain": func(c *x509.Certificate) { c.DNSNames = append(c.DNSNames, "example.net") },
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template, err := newTemplate(now, now.Add(time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		template.DNSNames = []string{"www.example.com"}
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		forge(template)
		leaf, err := certify(template, key.Public(), l.signer())
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(l.newest())
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: leaf.ExtKeyUsage}); err == nil {
			t.Errorf("%s: Go accepts it", reason)
		}
		if good, said := opensslVerifies(t, l, leaf); good {
			t.Errorf("%s: openssl accepts it: %s", reason, said)
		}
	}
}

// opensslVerifies leaves the purpose to the caller's certificate.
func opensslVerifies(t *testing.T, l lineage, leaf *x509.Certificate) (ok bool, said string) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil {
		return false, "not installed"
	}
	folder := t.TempDir()
	for name, content := range map[string][]byte{"roots.pem": encodeCertificates(l.roots()...), "leaf.pem": encodeCertificates(leaf)} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	purpose := map[x509.ExtKeyUsage]string{x509.ExtKeyUsageServerAuth: "sslserver", x509.ExtKeyUsageClientAuth: "sslclient", x509.ExtKeyUsageCodeSigning: "any"}[leaf.ExtKeyUsage[0]]
	if purpose == "any" {
		return false, "it knows no such purpose"
	}
	return run(t, "openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", filepath.Join(folder, "roots.pem"), filepath.Join(folder, "leaf.pem"))
}

func TestALeafDoesNotOutliveItsAuthority(t *testing.T) {
	t.Parallel()
	l, _ := succeeded(t, began, lineage{}, "example.com")
	late := l.newest().NotAfter.Add(-time.Hour)
	if leaf := leafOf(t, late, l, "example.com").Leaf; !leaf.NotAfter.Equal(l.newest().NotAfter) {
		t.Errorf("want the leaf to end with its authority at %v, got %v", l.newest().NotAfter, leaf.NotAfter)
	}
	leaf := leafOf(t, began, l, "example.com").Leaf
	if got := leaf.NotAfter.Sub(began); got != 6*time.Hour {
		t.Errorf("want a leaf of 6 hours, got %v", got)
	}
	if !leaf.NotBefore.Equal(began.Add(-backdate)) {
		t.Errorf("want it to begin an hour earlier for clocks that are behind, got %v", leaf.NotBefore)
	}
	if strings.Contains(string(bytes.ToLower(leaf.RawSubject)), "authority") || leaf.Subject.CommonName != "example.com" {
		t.Errorf("got subject %v", leaf.Subject)
	}
}
