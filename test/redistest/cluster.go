package redistest

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// slots of a Redis Cluster.
const slots = 16384

// Cluster is a Redis Cluster of three masters that share all slots evenly, in
// the order of Servers.
type Cluster struct {
	Servers []*Server
	// Replicas has one of each master, or none, in the same order.
	Replicas []*Server

	t   testing.TB
	bus map[*Server]string // its port
}

// StartCluster runs three servers, joins them, and returns when every one of
// them says cluster_state:ok and knows the other two.
func StartCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	const masters = 3
	c := &Cluster{t: t, bus: map[*Server]string{}}
	for range masters {
		c.Servers = append(c.Servers, c.start(args))
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for i, server := range c.Servers {
		first, last := slots*i/masters, slots*(i+1)/masters-1
		if err := server.Client().ClusterAddSlotsRange(ctx, first, last).Err(); err != nil {
			t.Fatalf("giving slots %d to %d to %s: %v", first, last, server.Addr, err)
		}
		if i > 0 {
			c.meet(ctx, server)
		}
	}
	c.AwaitOK(ctx)
	return c
}

// StartReplicatedCluster is StartCluster with a replica of each master, all in
// step.
func StartReplicatedCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	c := StartCluster(t, args...)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for range c.Servers {
		replica := c.start(args)
		c.Replicas = append(c.Replicas, replica)
		c.meet(ctx, replica)
	}
	c.AwaitOK(ctx)
	for i, replica := range c.Replicas {
		client, master := replica.Client(), c.id(ctx, c.Servers[i])
		await(ctx, t, "a replica that knows its master", func() bool { return client.ClusterReplicate(ctx, master).Err() == nil })
		await(ctx, t, "a replica in step", func() bool {
			return strings.Contains(client.Info(ctx, "replication").Val(), "master_link_status:up")
		})
	}
	// All must know who is whose replica, or none is elected.
	for _, server := range slices.Concat(c.Servers, c.Replicas) {
		client := server.Client()
		await(ctx, t, "nodes that know of the replicas", func() bool {
			return strings.Count(client.ClusterNodes(ctx).Val(), "slave") == len(c.Replicas)
		})
	}
	return c
}

func (c *Cluster) start(args []string) *Server {
	c.t.Helper()
	bus := freePort(c.t) // the default, port + 10000, may be above 65535
	server := start(c.t, nil, c.t.TempDir(), append([]string{
		"--cluster-enabled", "yes", "--cluster-port", bus,
		"--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000", "--repl-diskless-sync-delay", "0",
	}, args...)...)
	c.bus[server] = bus
	return server
}

// meet joins a server to the first.
func (c *Cluster) meet(ctx context.Context, server *Server) {
	c.t.Helper()
	host, port, _ := net.SplitHostPort(c.Servers[0].Addr)
	if err := server.Client().Do(ctx, "CLUSTER", "MEET", host, port, c.bus[c.Servers[0]]).Err(); err != nil {
		c.t.Fatalf("joining %s to the cluster: %v", server.Addr, err)
	}
}

func (c *Cluster) id(ctx context.Context, server *Server) string {
	c.t.Helper()
	id, err := server.Client().ClusterMyID(ctx).Result()
	if err != nil {
		c.t.Fatalf("asking %s for its id: %v", server.Addr, err)
	}
	return id
}

// AwaitOK returns when every server says that the cluster is whole.
func (c *Cluster) AwaitOK(ctx context.Context) {
	c.t.Helper()
	all := slices.Concat(c.Servers, c.Replicas)
	for _, server := range all {
		client := server.Client()
		await(ctx, c.t, "the cluster on "+server.Addr, func() bool {
			info, err := client.ClusterInfo(ctx).Result()
			return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(all)))
		})
	}
}

// FailOver kills the master of an index, and returns when its replica serves and
// all others know it.
func (c *Cluster) FailOver(ctx context.Context, index int) {
	c.t.Helper()
	c.Servers[index].Kill()
	c.AwaitPromotion(ctx, index)
}

// AwaitPromotion returns when all nodes that answer take the replica of an index
// for a master.
func (c *Cluster) AwaitPromotion(ctx context.Context, index int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	id := c.id(ctx, c.Replicas[index])
	for _, server := range slices.Concat(c.Servers, c.Replicas) {
		if !server.answers() {
			continue
		}
		client := server.Client()
		await(ctx, c.t, "a replica that is promoted", func() bool {
			for line := range strings.Lines(client.ClusterNodes(ctx).Val()) {
				if strings.HasPrefix(line, id) && strings.Contains(line, "master") {
					return true
				}
			}
			return false
		})
	}
}

// MoveSlot moves a slot and its keys to another master, as redis-cli's reshard
// does. It calls midway when new keys are made there already and none has moved.
func (c *Cluster) MoveSlot(ctx context.Context, slot int, from, to *Server, midway func()) {
	c.t.Helper()
	source, target := from.Client(), to.Client()
	try := func(client *redis.Client, command ...any) {
		c.t.Helper()
		if err := client.Do(ctx, command...).Err(); err != nil {
			c.t.Fatalf("moving slot %d: %v: %v", slot, command, err)
		}
	}
	try(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", c.id(ctx, from))
	try(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", c.id(ctx, to))
	midway()
	host, port, _ := net.SplitHostPort(to.Addr)
	for {
		keys, err := source.ClusterGetKeysInSlot(ctx, slot, 10).Result()
		if err != nil {
			c.t.Fatalf("listing the keys of slot %d: %v", slot, err)
		}
		if len(keys) == 0 {
			break
		}
		for _, key := range keys {
			try(source, "MIGRATE", host, port, key, 0, 5000)
		}
	}
	for _, client := range []*redis.Client{target, source} {
		try(client, "CLUSTER", "SETSLOT", slot, "NODE", c.id(ctx, to))
	}
}

// URL is redis://host:port?cluster=true with the other nodes as addr.
func (c *Cluster) URL() string {
	query := url.Values{"cluster": {"true"}}
	for _, server := range c.Servers[1:] {
		query.Add("addr", server.Addr)
	}
	u := url.URL{Scheme: "redis", Host: c.Servers[0].Addr, RawQuery: query.Encode()}
	return u.String()
}

// Client returns a client of the cluster, closed at the test's end.
func (c *Cluster) Client() *redis.ClusterClient {
	var addrs []string
	for _, server := range c.Servers {
		addrs = append(addrs, server.Addr)
	}
	client := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: addrs, ContextTimeoutEnabled: true, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	c.t.Cleanup(func() { _ = client.Close() })
	return client
}
