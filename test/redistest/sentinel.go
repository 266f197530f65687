package redistest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// sentinels that watch a master, two of which must agree that it is down.
const sentinels = 3

// Sentinel is a master with a replica, and three sentinels that watch them.
type Sentinel struct {
	// Sentinels' clients have their password, and only Sentinel's commands.
	Sentinels []*Server
	// MasterName under which the sentinels know the master.
	MasterName string
	// Master and Replica at the start.
	Master, Replica *Server
	// CA is the PEM of the authority that signed all their certificates; empty
	// without TLS.
	CA string

	t       testing.TB
	options SentinelOptions
}

// SentinelOptions of what is started. The zero value has no passwords and no TLS.
type SentinelOptions struct {
	// Password of master and replica, SentinelPassword of the sentinels.
	Password, SentinelPassword string
	// TLS only, with a certificate for 127.0.0.1.
	TLS bool
	// Args of master and replica, as those of Start.
	Args []string
}

// StartSentinel returns when the sentinels know both servers and each other, and
// the replica is in step.
func StartSentinel(t testing.TB, options SentinelOptions) *Sentinel {
	t.Helper()
	s := &Sentinel{t: t, MasterName: "weir-master", options: options}
	var secure *security
	if options.TLS {
		secure = newSecurity(t)
		s.CA = secure.ca
	}
	args := append([]string{"--repl-diskless-sync-delay", "0"}, options.Args...)
	if options.Password != "" {
		args = append(args, "--requirepass", options.Password, "--masterauth", options.Password)
	}
	if options.TLS {
		args = append(args, "--tls-replication", "yes")
	}
	s.Master = start(t, secure, t.TempDir(), args...)
	host, port, _ := net.SplitHostPort(s.Master.Addr)
	s.Replica = start(t, secure, t.TempDir(), append(args, "--replicaof", host+" "+port)...)
	for range sentinels {
		s.Sentinels = append(s.Sentinels, s.sentinel(secure, host, port))
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, sentinel := range s.Sentinels {
		client := s.client(sentinel)
		await(ctx, s.t, "sentinels that know each other, and a replica in step", func() bool {
			master, err := client.Master(ctx, s.MasterName).Result()
			replicas, errReplicas := client.Replicas(ctx, s.MasterName).Result()
			return err == nil && master["num-other-sentinels"] == fmt.Sprint(sentinels-1) &&
				errReplicas == nil && len(replicas) == 1 && replicas[0]["master-link-status"] == "ok"
		})
	}
	return s
}

// sentinel starts one. Its configuration must be a file: it writes into it.
func (s *Sentinel) sentinel(secure *security, host, port string) *Server {
	s.t.Helper()
	dir := s.t.TempDir()
	return attempt(s.t, func(own string) *Server {
		var text strings.Builder
		fmt.Fprintf(&text, "bind 127.0.0.1\ndir %q\nlogfile %q\n", dir, filepath.Join(dir, "redis.log"))
		args := secure.args(own)
		for i := 0; i < len(args); i += 2 {
			fmt.Fprintf(&text, "%s %q\n", strings.TrimPrefix(args[i], "--"), args[i+1])
		}
		if s.options.TLS {
			text.WriteString("tls-replication yes\n") // with master, replica and each other
		}
		fmt.Fprintf(&text, `sentinel monitor %[1]s %[2]s %[3]s 2
sentinel down-after-milliseconds %[1]s 500
sentinel failover-timeout %[1]s 3000
`, s.MasterName, host, port)
		if s.options.Password != "" {
			fmt.Fprintf(&text, "sentinel auth-pass %s %s\n", s.MasterName, s.options.Password)
		}
		if s.options.SentinelPassword != "" {
			fmt.Fprintf(&text, "requirepass %[1]q\nsentinel sentinel-pass %[1]q\n", s.options.SentinelPassword)
		}
		file := filepath.Join(dir, "sentinel.conf")
		writeFile(s.t, file, []byte(text.String()))
		return &Server{
			Addr: net.JoinHostPort("127.0.0.1", own), t: s.t, dir: dir, secure: secure,
			args: []string{file, "--sentinel"}, password: s.options.SentinelPassword,
		}
	})
}

// client of a sentinel.
func (s *Sentinel) client(sentinel *Server) *redis.SentinelClient {
	client := redis.NewSentinelClient(sentinel.Client().Options())
	s.t.Cleanup(func() { _ = client.Close() })
	return client
}

// URL is redis[s]://[:password@]sentinel?master_name=NAME with the other sentinels
// as addr, and their password.
func (s *Sentinel) URL() string {
	u, err := url.Parse(s.Master.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	query := url.Values{"master_name": {s.MasterName}}
	for _, sentinel := range s.Sentinels[1:] {
		query.Add("addr", sentinel.Addr)
	}
	if s.options.SentinelPassword != "" {
		query.Set("sentinel_password", s.options.SentinelPassword)
	}
	u.Host, u.RawQuery = s.Sentinels[0].Addr, query.Encode()
	return u.String()
}

// FailOver kills the master, and returns when the replica is the new one. The
// test fails when that takes longer than a server's start may.
func (s *Sentinel) FailOver(ctx context.Context) {
	s.t.Helper()
	s.Master.Kill()
	s.AwaitMaster(ctx, s.Replica)
}

// SwapMaster has a sentinel make the replica the master, and the master a replica,
// and returns when the former is.
func (s *Sentinel) SwapMaster(ctx context.Context) {
	s.t.Helper()
	if err := s.client(s.Sentinels[0]).Failover(ctx, s.MasterName).Err(); err != nil {
		s.t.Fatalf("ordering a failover: %v", err)
	}
	s.AwaitMaster(ctx, s.Replica)
}

// AwaitMaster returns when all sentinels that answer name a server as the master, and
// that takes writes.
func (s *Sentinel) AwaitMaster(ctx context.Context, server *Server) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for _, sentinel := range s.Sentinels {
		if !sentinel.answers() {
			continue
		}
		client := s.client(sentinel)
		await(ctx, s.t, "the new master", func() bool {
			addr, err := client.GetMasterAddrByName(ctx, s.MasterName).Result()
			return err == nil && net.JoinHostPort(addr[0], addr[1]) == server.Addr
		})
	}
	client := server.Client()
	await(ctx, s.t, "a master that takes writes", func() bool {
		info, err := client.Info(ctx, "replication").Result()
		return err == nil && strings.Contains(info, "role:master")
	})
}
