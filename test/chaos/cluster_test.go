package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

func TestClusterNodeLost(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, append(redistest.AOF(), "--cluster-require-full-coverage", "no")...)
	f := newFleet(t, ruleset.Store{URL: cluster.URL()})
	f.suffer("a cluster's node lost", func() {
		for i := range times(1) {
			lost := cluster.Servers[i%len(cluster.Servers)]
			lost.Kill()
			f.pass(outage)
			lost.Restart()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			cluster.AwaitOK(ctx)
			cancel()
			f.recover()
		}
	})
}

// What a node had acknowledged and its replica not heard of is lost.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartReplicatedCluster(t)
	f := newFleet(t, ruleset.Store{URL: cluster.URL()})
	f.suffer("a cluster's replica takes over", func() {
		f.lose(func() { cluster.FailOver(t.Context(), 0) })
	})
}

// The slots of all users go from node to node, over and over.
func TestSlotsMoved(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	f := newFleet(t, ruleset.Store{URL: cluster.URL()})
	owners := map[int]int{}
	for _, u := range users() {
		for _, service := range paths[u.path] {
			slot, owner := place(t, cluster, fmt.Sprintf("{%s/%s:%s}", namespace, service, u.name))
			owners[slot] = owner
		}
	}
	f.suffer("slots moved", func() {
		for range times(3) {
			for slot, owner := range owners {
				next := (owner + 1) % len(cluster.Servers)
				cluster.MoveSlot(t.Context(), slot, cluster.Servers[owner], cluster.Servers[next], func() {})
				owners[slot] = next
				f.pass(30 * time.Millisecond)
			}
		}
	})
}

// place is a key's slot, and the index of the node that has it.
func place(t *testing.T, cluster *redistest.Cluster, key string) (slot, owner int) {
	t.Helper()
	for owner, server := range cluster.Servers {
		client := server.Client()
		slot, err := client.ClusterKeySlot(t.Context(), key).Result()
		if err != nil {
			t.Fatal(err)
		}
		if client.Exists(t.Context(), key).Err() == nil { // others say MOVED
			return int(slot), owner
		}
	}
	t.Fatalf("no node has the slot of %s", key)
	return 0, 0
}

// What the old master had acknowledged and the new one not heard of is lost.
func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{})
	f := newFleet(t, ruleset.Store{URL: sentinel.URL()})
	f.suffer("Sentinel fails over", func() {
		f.lose(func() { sentinel.FailOver(t.Context()) })
	})
}
