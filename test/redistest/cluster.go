package redistest

import (
	"context"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// slots of a Redis Cluster.
const slots = 16384

// Cluster is a Redis Cluster of three masters that share all slots evenly, in
// the order of Servers.
type Cluster struct {
	Servers []*Server

	t testing.TB
}

// StartCluster runs three servers, joins them, and returns when every one of
// them says cluster_state:ok and knows the other two.
func StartCluster(t testing.TB, args ...string) *Cluster {
	t.Helper()
	const masters = 3
	c := &Cluster{t: t}
	var busPorts []string
	for range masters {
		bus := freePort(t) // the default, port + 10000, may be above 65535
		c.Servers = append(c.Servers, start(t, nil, t.TempDir(), append([]string{
			"--cluster-enabled", "yes", "--cluster-port", bus,
			"--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "2000",
		}, args...)...))
		busPorts = append(busPorts, bus)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for i, server := range c.Servers {
		client := server.Client()
		first, last := slots*i/masters, slots*(i+1)/masters-1
		if err := client.ClusterAddSlotsRange(ctx, first, last).Err(); err != nil {
			t.Fatalf("giving slots %d to %d to %s: %v", first, last, server.Addr, err)
		}
		host, port, _ := net.SplitHostPort(c.Servers[0].Addr)
		if i == 0 {
			continue
		}
		if err := client.Do(ctx, "CLUSTER", "MEET", host, port, busPorts[0]).Err(); err != nil {
			t.Fatalf("joining %s to the cluster: %v", server.Addr, err)
		}
	}
	c.AwaitOK(ctx)
	return c
}

// AwaitOK returns when every server says that the cluster is whole.
func (c *Cluster) AwaitOK(ctx context.Context) {
	c.t.Helper()
	for _, server := range c.Servers {
		client := server.Client()
		for {
			info, err := client.ClusterInfo(ctx).Result()
			if err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3") {
				break
			}
			select {
			case <-ctx.Done():
				c.t.Fatalf("waiting for the cluster on %s: error %v, its state:\n%s", server.Addr, err, info)
			case <-time.After(20 * time.Millisecond):
			}
		}
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
