// Package redistest starts real Redis servers for tests: alone, with TLS, behind
// Sentinel, and as a cluster of three, with replicas or without. They listen on 127.0.0.1 only, keep
// nothing on disk unless asked to, and do not outlive the test: each is stopped
// by the test's cleanup, and on Linux the kernel kills it when the test's
// process dies.
package redistest

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/weir-dev/weir/test/child"
)

// startTimeout bounds a server's start, until it answers PING.
const startTimeout = 20 * time.Second

// Server is a running redis-server.
type Server struct {
	// Addr is host:port.
	Addr string

	t        testing.TB
	dir      string
	args     []string
	password string
	secure   *security // nil: plain TCP

	mu      sync.Mutex
	process *child.Process // nil: killed
	paused  bool
}

// program that is run: redis-server, or what the environment's REDIS_SERVER names,
// as valkey-server.
func program() string { return cmp.Or(os.Getenv("REDIS_SERVER"), "redis-server") }

// AOF are the arguments of a server that has written a command to its disk
// before it answers: Kill loses nothing that was answered, and Restart starts
// with it.
func AOF() []string { return []string{"--appendonly", "yes", "--appendfsync", "always"} }

// Start runs redis-server with the arguments added to the package's own, as
// "--requirepass", "secret", and returns when it answers PING. The test fails
// when it does not.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	return start(t, nil, t.TempDir(), args...)
}

// start runs a server on a free port.
func start(t testing.TB, secure *security, dir string, args ...string) *Server {
	t.Helper()
	return attempt(t, func(port string) *Server {
		s := &Server{
			Addr: net.JoinHostPort("127.0.0.1", port), t: t, dir: dir, secure: secure,
			args: slices.Concat([]string{
				"--bind", "127.0.0.1", "--daemonize", "no", "--save", "", "--appendonly", "no",
				"--dir", dir, "--logfile", filepath.Join(dir, "redis.log"),
			}, secure.args(port), args),
		}
		if i := slices.Index(s.args, "--requirepass"); i >= 0 && i+1 < len(s.args) {
			s.password = s.args[i+1]
		}
		return s
	})
}

// attempt runs a server that is made for a free port. A port that somebody else
// took meanwhile is given up for another.
func attempt(t testing.TB, make func(port string) *Server) *Server {
	t.Helper()
	if _, err := exec.LookPath(program()); err != nil {
		t.Fatalf("%s is not installed and this test needs a real one: install redis-server, e.g. `make tools`", program())
	}
	var err error
	for range 5 {
		s := make(freePort(t))
		if err = s.run(); err == nil {
			t.Cleanup(s.Kill)
			return s
		}
	}
	t.Fatalf("starting redis-server: %v", err)
	return nil
}

// URL is redis://[:password@]host:port, or rediss:// with TLS.
func (s *Server) URL() string {
	u := url.URL{Scheme: "redis", Host: s.Addr}
	if s.secure != nil {
		u.Scheme = "rediss"
	}
	if s.password != "" {
		u.User = url.UserPassword("", s.password)
	}
	return u.String()
}

// Client returns a client of the server, closed at the test's end.
func (s *Server) Client() *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: s.Addr, Password: s.password, TLSConfig: s.secure.client(), ContextTimeoutEnabled: true,
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// Kill ends the server at once, as a crash does; without AOF what it held is
// lost.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process != nil {
		s.process.Kill()
		s.process = nil
	}
}

// Restart kills the server when it runs and starts it again on the same port,
// empty without AOF.
func (s *Server) Restart() {
	s.t.Helper()
	s.Kill()
	var err error
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); {
		if err = s.run(); err == nil {
			return
		}
	}
	s.t.Fatalf("restarting redis-server on %s: %v", s.Addr, err)
}

func (s *Server) answers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process != nil && !s.paused
}

// Pause stops the server's process (SIGSTOP): it keeps its connections and
// accepts new ones in the kernel, but answers nothing.
func (s *Server) Pause() { s.signal(syscall.SIGSTOP) }

// Resume lets a paused server go on.
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.process == nil {
		s.t.Fatalf("sending %v to redis-server on %s: it is not running", signal, s.Addr)
	}
	s.paused = signal == syscall.SIGSTOP
	if err := s.process.Signal(signal); err != nil {
		s.t.Fatalf("sending %v to redis-server on %s: %v", signal, s.Addr, err)
	}
}

// run starts the process and waits until it answers.
func (s *Server) run() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, err := child.Start(exec.Command(program(), s.args...))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.await(ctx, p); err != nil {
		p.Kill()
		log, _ := os.ReadFile(filepath.Join(s.dir, "redis.log"))
		return fmt.Errorf("%w; its log: %s", err, log[max(0, len(log)-2000):])
	}
	s.process, s.paused = p, false
	return nil
}

func (s *Server) await(ctx context.Context, p *child.Process) error {
	var last error
	for {
		select {
		case <-p.Done():
			return fmt.Errorf("redis-server exited: %w", p.Err())
		case <-ctx.Done():
			return fmt.Errorf("redis-server on %s did not answer in %v: %w", s.Addr, startTimeout, last)
		case <-time.After(2 * time.Millisecond):
		}
		if last = s.ping(ctx); last == nil {
			return nil
		}
	}
}

// ping asks once; any reply is an answer, since -NOAUTH is one too.
func (s *Server) ping(ctx context.Context) error {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "tcp", s.Addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	if s.secure != nil {
		conn = tls.Client(conn, s.secure.client())
	}
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if line[0] != '+' && line[0] != '-' {
		return errors.New("not a Redis server")
	}
	return nil
}

func freePort(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("looking for a free port: %v", err)
	}
	defer func() { _ = listener.Close() }()
	return strconv.Itoa(listener.Addr().(*net.TCPAddr).Port)
}

// await returns when a condition holds.
func await(ctx context.Context, t testing.TB, what string, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
