package redistest

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/child"
)

// Sentinel is one sentinel that watches a master with a replica.
type Sentinel struct {
	// Addr is the sentinel's host:port.
	Addr string
	// MasterName under which the sentinel knows the master.
	MasterName string
	// Master and Replica at the start.
	Master, Replica *Server

	t      testing.TB
	client *redis.SentinelClient
}

// StartSentinel runs a master and a replica with this password, and a sentinel
// without one; it returns when the sentinel knows both servers and the replica
// is in step.
func StartSentinel(t testing.TB, password string) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, MasterName: "weir-master"}
	auth := []string{"--requirepass", password, "--masterauth", password}
	s.Master = Start(t, append(auth, "--repl-diskless-sync-delay", "0")...)
	host, port, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = Start(t, append(auth, "--replicaof", host+" "+port)...)
	var err error
	for range 5 {
		if err = s.run(host, port, password); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("starting redis-server --sentinel: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	s.await(ctx, "a replica in step", func() bool {
		replicas, err := s.client.Replicas(ctx, s.MasterName).Result()
		return err == nil && len(replicas) == 1 && replicas[0]["master-link-status"] == "ok"
	})
	return s
}

// run starts the sentinel on a free port.
func (s *Sentinel) run(host, port, password string) error {
	own, dir := freePort(s.t), s.t.TempDir()
	file := filepath.Join(dir, "sentinel.conf")
	writeFile(s.t, file, fmt.Appendf(nil, `port %s
bind 127.0.0.1
dir %q
logfile %q
sentinel monitor %[4]s %s %s 1
sentinel auth-pass %[4]s %[7]s
sentinel down-after-milliseconds %[4]s 500
sentinel failover-timeout %[4]s 3000
`, own, dir, filepath.Join(dir, "sentinel.log"), s.MasterName, host, port, password))
	p, err := child.Start(exec.Command("redis-server", file, "--sentinel"))
	if err != nil {
		return err
	}
	s.t.Cleanup(p.Kill)
	s.Addr = net.JoinHostPort("127.0.0.1", own)
	s.client = redis.NewSentinelClient(&redis.Options{Addr: s.Addr})
	s.t.Cleanup(func() { _ = s.client.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for s.client.Ping(ctx).Err() != nil {
		select {
		case <-p.Done():
			return fmt.Errorf("it exited: %w", p.Err())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// FailOver kills the master, and returns when the sentinel names the replica as
// the new one, and that takes writes.
func (s *Sentinel) FailOver(ctx context.Context) {
	s.t.Helper()
	s.Master.Kill()
	replica := s.Replica.Client()
	s.await(ctx, "the replica as the new master", func() bool {
		addr, err := s.client.GetMasterAddrByName(ctx, s.MasterName).Result()
		if err != nil || net.JoinHostPort(addr[0], addr[1]) != s.Replica.Addr {
			return false
		}
		info, err := replica.Info(ctx, "replication").Result()
		return err == nil && strings.Contains(info, "role:master")
	})
}

func (s *Sentinel) await(ctx context.Context, what string, is func() bool) {
	s.t.Helper()
	for !is() {
		select {
		case <-ctx.Done():
			s.t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
