package intercept

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// opened is OpenSSL's server, which renegotiates when it is told to, as
// crypto/tls does not.
type opened struct {
	*provider
	t   testing.TB
	in  io.Writer
	out *bufio.Reader
}

func openServer(t *testing.T) *opened {
	t.Helper()
	openssl := installed(t, "openssl")
	p := &provider{authority: newAuthority(t, "Provider's authority")}
	server := exec.Command(openssl, "s_server", "-tls1_2", "-accept", "127.0.0.1:0", "-cert", pemOf(t, p.served(host)))
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = server.Process.Kill() }) // ends every wait for its output
	t.Cleanup(func() {
		timer.Stop()
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	o := &opened{provider: p, t: t, in: in, out: bufio.NewReader(out)}
	p.addr = strings.TrimPrefix(o.until("ACCEPT "), "ACCEPT ")
	return o
}

// pemOf writes a certificate and its key into one file.
func pemOf(t *testing.T, c tls.Certificate) string {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})...)
	file := filepath.Join(t.TempDir(), "server.pem")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// until returns the next line of the server's output that begins like that.
func (o *opened) until(prefix string) string {
	o.t.Helper()
	for {
		line, err := o.out.ReadString('\n')
		if err != nil {
			o.t.Fatalf("waiting for %q of the server: %v", prefix, err)
		}
		if strings.HasPrefix(line, prefix) {
			return strings.TrimSpace(line)
		}
	}
}

// say sends a line on a connection and waits until the server has it.
func (o *opened) say(conn *tls.Conn, line string) {
	o.t.Helper()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		o.t.Fatal(err)
	}
	o.until(line)
}

// command is what the server's operator types: what is no command is sent.
func (o *opened) command(line string) {
	o.t.Helper()
	if _, err := io.WriteString(o.in, line+"\n"); err != nil {
		o.t.Fatal(err)
	}
}

// A host that wants a certificate for some of its pages asks when it has seen
// which one is wanted.
func TestInterceptLearnsOfCertificatesAskedForLater(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	o := openServer(t)
	h := build(t, operator, o.provider, []string{host})
	conn, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: host, RootCAs: operator.pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	h.want(Intercepted)
	o.say(conn, "a page for members")
	o.command("R")
	if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the client read %d bytes, %v; want the end of its connection", n, err)
	}
	again, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: host, RootCAs: o.pool()})
	if err != nil {
		t.Fatalf("the next connection: %v, want it to pass to the host", err)
	}
	defer func() { _ = again.Close() }()
	h.want(ClientCertificate)
	if !strings.Contains(h.logged.String(), string(ClientCertificate)) {
		t.Error("the log does not say why the host's connections pass")
	}
}

// A new handshake for other reasons is nothing to the client.
func TestInterceptOutlivesARenegotiation(t *testing.T) {
	t.Parallel()
	operator := newAuthority(t, "weir")
	o := openServer(t)
	h := build(t, operator, o.provider, []string{host})
	conn, err := tls.Dial("tcp", h.addr, &tls.Config{ServerName: host, RootCAs: operator.pool()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, line := range []string{"before", "between", "after"} {
		o.say(conn, line)
		o.command("r")
		o.until("Read BLOCK") // the handshake has begun at both ends
		o.command("answer to " + line)
		if got, err := bufio.NewReader(conn).ReadString('\n'); err != nil || got != "answer to "+line+"\n" {
			t.Fatalf("%s: the client read %q, %v; want the host's answer", line, got, err)
		}
	}
}
