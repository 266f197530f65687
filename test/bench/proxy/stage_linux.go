package proxy

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/child"
)

// redisAddress is on the pod's loopback, which nobody else uses.
const redisAddress = "127.0.0.1:6379"

// patience bounds each wait for a process.
const patience = 20 * time.Second

// stage is what all sides share: the pod's and the client's network, the
// application, Redis, and an operator that has nothing new.
type stage struct {
	options     Options
	progress    io.Writer
	folder      string
	haproxyPath string
	client      *clientHost
	redis       *running
	application *running
	store       *redis.Client
	operator    *httptest.Server
	requests    [][]byte
	started     []*running
}

// newStage sets it up, in the network namespace of this process.
func newStage(ctx context.Context, options Options, progress io.Writer) (s *stage, err error) {
	s = &stage{options: options, progress: progress, requests: requests()}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.haproxyPath, err = haproxyPath(); err != nil {
		return s, err
	}
	if err := s.build(ctx); err != nil {
		return s, err
	}
	if s.client, err = newNetwork(ctx); err != nil {
		return s, err
	}
	if err := s.startRedis(ctx); err != nil {
		return s, err
	}
	if err := s.startApplication(ctx); err != nil {
		return s, err
	}
	s.operator = httptest.NewTLSServer(http.HandlerFunc(hold))
	capture := exec.CommandContext(ctx, filepath.Join(s.folder, "sidecar"), "capture", fmt.Sprintf("--inbound-ports=%d", captured.Port()))
	if output, err := capture.CombinedOutput(); err != nil {
		return s, fmt.Errorf("capturing the pod's connections: %w: %s", err, output)
	}
	return s, nil
}

// hold is an operator that has nothing newer for a sidecar.
func hold(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // or net/http does not notice that the sidecar is gone
	<-r.Context().Done()
}

func (s *stage) close() {
	for _, one := range s.started {
		one.Kill()
	}
	if s.store != nil {
		_ = s.store.Close()
	}
	if s.operator != nil {
		s.operator.CloseClientConnections()
		s.operator.Close()
	}
	if s.client != nil {
		s.client.close()
	}
	_ = os.RemoveAll(s.folder)
}

// build makes the folder with the sidecar, which its user may read.
func (s *stage) build(ctx context.Context) (err error) {
	if s.folder, err = os.MkdirTemp("", "weir-bench-"); err != nil {
		return err
	}
	state := filepath.Join(s.folder, "state")
	token := filepath.Join(state, "token")
	if err := errors.Join(
		os.Chmod(s.folder, 0o755), os.Mkdir(state, 0o700), os.WriteFile(token, []byte("token"), 0o600),
		os.Chown(token, ruleset.UID, ruleset.UID), os.Chown(state, ruleset.UID, ruleset.UID),
	); err != nil {
		return err
	}
	if err := buildSidecar(ctx, filepath.Join(s.folder, "sidecar"), "-s -w"); err != nil {
		return err
	}
	if s.options.Other == "" {
		return nil
	}
	binary, err := os.ReadFile(s.options.Other)
	if err != nil {
		return fmt.Errorf("reading the other sidecar: %w", err)
	}
	return os.WriteFile(filepath.Join(s.folder, "other"), binary, 0o755)
}

// buildSidecar builds as the Makefile does.
func buildSidecar(ctx context.Context, file, linkerFlags string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", linkerFlags, "-o", file, "./sidecar")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the sidecar: %w\n%s", err, output)
	}
	return nil
}

// haproxyPath also looks where users who are not root do not.
func haproxyPath() (string, error) {
	path, err := exec.LookPath("haproxy")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/haproxy")
	}
	if err != nil {
		return "", fmt.Errorf("looking for HAProxy: %w: install the package haproxy", err)
	}
	return path, nil
}

func (s *stage) startRedis(ctx context.Context) (err error) {
	host, port, _ := net.SplitHostPort(redisAddress)
	s.redis, err = s.start("redis", exec.Command("redis-server", "--bind", host, "--port", port,
		"--save", "", "--appendonly", "no", "--dir", s.folder))
	if err != nil {
		return err
	}
	s.store = redis.NewClient(&redis.Options{Addr: redisAddress})
	return s.redis.until(ctx, func(ctx context.Context) error { return s.store.Ping(ctx).Err() })
}

func (s *stage) startApplication(ctx context.Context) error {
	command, err := s.role("application", captured.String(), uncaptured.String())
	if err != nil {
		return err
	}
	if s.application, err = s.start("application", command); err != nil {
		return err
	}
	return s.application.until(ctx, func(ctx context.Context) error {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", uncaptured.String())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// role is this program in a role of its own: see Role.
func (*stage) role(arguments ...string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return exec.Command(self, append([]string{"role"}, arguments...)...), nil
}

// link is the operator's.
func (s *stage) link() ruleset.Link {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.operator.Certificate().Raw})
	return ruleset.Link{Address: s.operator.Listener.Addr().String(), CABundle: string(certificate)}
}

// running is a process with its log.
type running struct {
	*child.Process
	name, log string
	pid       int
}

// start starts a process that ends with the stage, if not before.
func (s *stage) start(name string, command *exec.Cmd) (*running, error) {
	log, err := os.CreateTemp(s.folder, "log-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }()
	command.Stdout, command.Stderr = log, log
	process, err := child.Start(command)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	one := &running{Process: process, name: name, log: log.Name(), pid: command.Process.Pid}
	s.started = append(s.started, one)
	return one, nil
}

// until waits for a condition that nothing tells of, while the process runs.
func (r *running) until(ctx context.Context, is func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := is(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-r.Done():
			return errors.Join(fmt.Errorf("%s ended and said: %s", r.name, r.said()), r.Err())
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w; it said: %s", r.name, err, r.said())
		case <-tick.C:
		}
	}
}

// said is the end of what the process has said.
func (r *running) said() string {
	text, err := os.ReadFile(r.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}
