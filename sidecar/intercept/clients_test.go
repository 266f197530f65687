package intercept

import (
	"bufio"
	"context"
	"crypto/x509"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// town is a house whose authority is followed by others, and clients that
// began with what it wrote at first.
type town struct {
	*house
	operator atomic.Pointer[authority]
	provider *provider
	files    string // the trust files as they were when the clients began
	port     string
}

func found(t *testing.T) *town {
	t.Helper()
	first := newAuthority(t, "weir", "provider.test")
	c := &town{provider: provide(t, nil)}
	c.operator.Store(first)
	c.house = build(t, first, c.provider, []string{host}, func(cfg *Config) {
		cfg.Issue = func(ctx context.Context, request []byte) ([]byte, error) {
			return c.operator.Load().issue(ctx, request)
		}
	})
	c.files = t.TempDir()
	if err := os.CopyFS(c.files, os.DirFS(c.trustDir)); err != nil {
		t.Fatal(err)
	}
	_, c.port, _ = net.SplitHostPort(c.addr)
	return c
}

func (c *town) file(name string) string { return filepath.Join(c.files, name) }
func (c *town) url() string             { return "https://" + net.JoinHostPort(host, c.port) + "/" }

// renew replaces the leaf as it is at two thirds of its life.
func (c *town) renew() {
	c.t.Helper()
	before := c.current()
	c.leaves.mu.Lock()
	e, _ := c.leaves.entries.get(host)
	c.leaves.ask(e)
	asking := e.asking
	c.leaves.mu.Unlock()
	<-asking
	if c.current() == before {
		c.t.Fatal("the leaf was not renewed")
	}
}

// rotate replaces the authority.
func (c *town) rotate() {
	c.t.Helper()
	before, old := c.current(), c.operator.Load()
	next := old.succeed(old.cert.Subject.CommonName + "'")
	c.operator.Store(next)
	c.use(old.pem()+next.pem(), host)
	for deadline := patient(c.t); c.current() == before; {
		deadline("the leaf of the new authority")
	}
}

func (c *town) current() *leaf {
	c.t.Helper()
	f, err := c.leaves.get(c.t.Context(), host)
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

// throughout has a client ask before and after the leaf is renewed, and after
// the authority was rotated twice. Every time it must get the provider's page,
// and we must see the request.
func (c *town) throughout(ask func() string, want string) {
	c.t.Helper()
	for _, step := range []struct {
		what string
		do   func()
	}{{"at first", func() {}}, {"once the leaf was renewed", c.renew}, {"once the authority was rotated", c.rotate}, {"once it was rotated again", c.rotate}} {
		step.do()
		if got := ask(); !strings.Contains(got, want) {
			c.t.Fatalf("%s the client says %q, want %q; log:\n%s", step.what, got, want, c.logged)
		}
		c.want(Intercepted)
	}
}

// start runs a program that prints a line for every URL that it is sent.
func (c *town) start(environment []string, program string, args ...string) (ask func() string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), installed(c.t, program), args...)
	cmd.Env = append(os.Environ(), environment...)
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(out)
	return func() string {
		c.t.Helper()
		if _, err := io.WriteString(in, c.url()+"\n"); err != nil {
			c.t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			c.t.Fatalf("%s ended: %v", program, err)
		}
		return line
	}
}

// once runs a program anew for every question.
func (c *town) once(input string, environment []string, program string, args ...string) (ask func() string) {
	c.t.Helper()
	path := installed(c.t, program)
	return func() string {
		cmd := exec.CommandContext(c.t.Context(), path, args...)
		cmd.Env = append(os.Environ(), environment...)
		cmd.Stdin = strings.NewReader(input)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return err.Error() + ": " + string(out)
		}
		return string(out)
	}
}

func TestCurl(t *testing.T) {
	t.Parallel()
	for flag, version := range map[string]string{"--http1.1": "1.1", "--http2": "2"} {
		c := found(t)
		c.throughout(c.once("", []string{"CURL_CA_BUNDLE=" + c.file(ruleset.TrustBundle)}, "curl", "-sS", flag,
			"-w", " over %{http_version}", "--resolve", host+":"+c.port+":127.0.0.1", c.url()),
			"hello from "+host+":"+c.port+" over "+version)
	}
}

func TestOpenSSL(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		c := found(t)
		c.throughout(c.once("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", nil, "openssl", "s_client", version,
			"-connect", c.addr, "-servername", host, "-verify_hostname", host, "-verify_return_error", "-ign_eof",
			"-alpn", "http/1.1", "-CAfile", c.file(ruleset.TrustBundle)), "hello from h")
	}
}

func TestPython(t *testing.T) {
	t.Parallel()
	for module, variable := range map[string]string{"urllib": "SSL_CERT_FILE", "requests": "REQUESTS_CA_BUNDLE"} {
		t.Run(module, func(t *testing.T) {
			t.Parallel()
			if err := exec.Command(installed(t, "python3"), "-c", "import "+module).Run(); err != nil {
				t.Skipf("python3 has no module %s", module)
			}
			c := found(t)
			c.throughout(c.start([]string{variable + "=" + c.file(ruleset.TrustBundle)}, "python3", "testdata/clients/client.py", module),
				"200 hello from "+host)
		})
	}
}

func TestNode(t *testing.T) {
	t.Parallel()
	c := found(t)
	c.provider.server.SetKeepAlivesEnabled(false) // fetch has no way to ask for a new connection
	c.throughout(c.start([]string{"NODE_EXTRA_CA_CERTS=" + c.file(ruleset.TrustAuthorities)}, "node", "testdata/clients/client.mjs"),
		"200 hello from "+host)
}

func TestJava(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]string{
		"without a password":           nil,
		"with the password of another": {"-Djavax.net.ssl.trustStorePassword=of another truststore"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := found(t)
			c.throughout(c.java(c.file(ruleset.TrustStore), options...), "200 hello from "+host+":"+c.port+" HTTP_2")
		})
	}
}

// java starts a Java that trusts a file.
func (c *town) java(store string, options ...string) (ask func() string) {
	c.t.Helper()
	hosts := filepath.Join(c.t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 "+host+"\n"), 0o600); err != nil {
		c.t.Fatal(err)
	}
	if err := exec.Command(installed(c.t, "java"), "--list-modules").Run(); err != nil {
		c.t.Skip("java is older than 9")
	}
	arguments := slices.Concat(options, []string{
		"-XX:TieredStopAtLevel=1", "-Djdk.net.hosts.file=" + hosts, "-Djavax.net.ssl.trustStore=" + store, "testdata/clients/Client.java",
	})
	return c.start(nil, "java", arguments...)
}

func TestGo(t *testing.T) {
	t.Parallel()
	c := found(t)
	client := c.client(c.operator.Load().pool())
	c.throughout(func() string {
		response, err := get(client, host)
		if err != nil {
			return err.Error()
		}
		return response.Proto
	}, "HTTP/2.0")
}

// What pinned clients do, of which every kind refuses in another way.
func TestRealClientsThatPin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		program    string
		connection func(c *town) (ask func() string)
	}{
		{"curl", func(c *town) func() string {
			return c.once("", nil, "curl", "-sS", "--cacert", c.pinned(), "--resolve", host+":"+c.port+":127.0.0.1", c.url())
		}},
		{"python3", func(c *town) func() string {
			return c.start([]string{"SSL_CERT_FILE=" + c.pinned()}, "python3", "testdata/clients/client.py", "urllib")
		}},
		{"java", func(c *town) func() string {
			return c.java(c.pinnedStore())
		}},
		{"node", func(c *town) func() string {
			return c.start([]string{"NODE_EXTRA_CA_CERTS=" + c.pinned()}, "node", "testdata/clients/client.mjs")
		}},
	} {
		t.Run(c.program, func(t *testing.T) {
			t.Parallel()
			installed(t, c.program)
			town := found(t)
			ask := c.connection(town)
			for range maxStrikes {
				if got := ask(); strings.Contains(got, "hello from") {
					break
				}
				if got := town.outcome(); got != Rejected && got != Intercepted {
					t.Errorf("the connection's outcome is %s", got)
				}
				town.noSessions()
			}
			if got := ask(); !strings.Contains(got, "hello from "+host) {
				t.Errorf("the client says %q after it refused our leaf, want the provider's page", got)
			}
			town.want(Pinned)
		})
	}
}

// pinned is a file with the provider's authority alone.
func (c *town) pinned() string {
	c.t.Helper()
	file := filepath.Join(c.t.TempDir(), "pinned.crt")
	if err := os.WriteFile(file, []byte(c.provider.pem()), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}

// pinnedStore is pinned for Java.
func (c *town) pinnedStore() string {
	c.t.Helper()
	store, err := truststore(nil, []*x509.Certificate{c.provider.cert})
	if err != nil {
		c.t.Fatal(err)
	}
	file := filepath.Join(c.t.TempDir(), "pinned.p12")
	if err := os.WriteFile(file, store, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}
