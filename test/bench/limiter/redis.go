package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/child"
)

// server is the redis-server that all sides ask.
type server struct {
	address string
	process *child.Process
	client  *redis.Client
	folder  string
}

func startRedis(ctx context.Context) (*server, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{address: listener.Addr().String()}
	_, port, _ := net.SplitHostPort(s.address)
	_ = listener.Close()
	if s.folder, err = os.MkdirTemp("", "weir-bench"); err != nil {
		return nil, err
	}
	s.process, err = child.Start(exec.Command("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", s.folder))
	if err != nil {
		_ = os.RemoveAll(s.folder)
		return nil, err
	}
	s.client = redis.NewClient(&redis.Options{Addr: s.address, PoolSize: concurrency})
	for s.client.Ping(ctx).Err() != nil {
		select {
		case <-ctx.Done():
			s.stop()
			return nil, ctx.Err()
		case <-s.process.Done():
			err := fmt.Errorf("redis-server ended: %w", s.process.Err())
			s.stop()
			return nil, err
		case <-time.After(5 * time.Millisecond):
		}
	}
	return s, nil
}

func (s *server) stop() {
	_ = s.client.Close()
	s.process.Kill()
	_ = os.RemoveAll(s.folder)
}

// limiter is a sidecar's, with nothing in its memory.
func (s *server) limiter(options limiter.Options) (*limiter.Limiter, error) {
	l := limiter.New(options)
	return l, l.Use(&ruleset.Store{URL: "redis://" + s.address, TimeoutMillis: 10_000})
}

// counters of Redis's own.
type counters struct {
	scripts int     // calls of scripts
	cpu     float64 // seconds
}

func (s *server) counters(ctx context.Context) (counters, error) {
	var c counters
	info, err := s.client.Info(ctx, "commandstats", "cpu").Result()
	if err != nil {
		return c, err
	}
	for line := range strings.SplitSeq(info, "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		switch name {
		case "cmdstat_evalsha":
			calls, _, _ := strings.Cut(strings.TrimPrefix(value, "calls="), ",")
			if c.scripts, err = strconv.Atoi(calls); err != nil {
				return c, err
			}
		case "used_cpu_sys", "used_cpu_user":
			seconds, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return c, err
			}
			c.cpu += seconds
		}
	}
	return c, nil
}
