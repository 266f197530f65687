package chaos

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

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

func TestSlotsMoved(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	f := newFleet(t, ruleset.Store{URL: cluster.URL()})
	m := newMover(t, cluster)
	var slots []int64
	for _, u := range users() {
		for _, service := range paths[u.path] {
			slots = append(slots, m.slot(fmt.Sprintf("{%s/%s:%s}", namespace, service, u.name)))
		}
	}
	slices.Sort(slots)
	slots = slices.Compact(slots)
	f.suffer("slots moved", func() {
		for range times(3) {
			for _, slot := range slots {
				m.move(slot)
				f.pass(30 * time.Millisecond)
			}
		}
	})
}

// mover moves slots of a cluster from node to node, as redis-cli does.
type mover struct {
	t       *testing.T
	servers []*redistest.Server
	clients []*redis.Client
	ids     []string
	owners  map[int64]int // where they were moved to
}

func newMover(t *testing.T, cluster *redistest.Cluster) *mover {
	t.Helper()
	m := &mover{t: t, servers: cluster.Servers, owners: map[int64]int{}}
	for _, server := range cluster.Servers {
		client := server.Client()
		id, err := client.Do(t.Context(), "CLUSTER", "MYID").Text()
		if err != nil {
			t.Fatal(err)
		}
		m.clients, m.ids = append(m.clients, client), append(m.ids, id)
	}
	return m
}

func (m *mover) slot(key string) int64 {
	m.t.Helper()
	slot, err := m.clients[0].ClusterKeySlot(m.t.Context(), key).Result()
	if err != nil {
		m.t.Fatal(err)
	}
	return slot
}

// move moves a slot to the next node, with its keys.
func (m *mover) move(slot int64) {
	m.t.Helper()
	owner, known := m.owners[slot]
	if !known {
		owner = int(slot * int64(len(m.clients)) / 16384)
		for first := int64(16384 * (owner + 1) / len(m.clients)); slot >= first; first = int64(16384 * (owner + 1) / len(m.clients)) {
			owner++
		}
	}
	next := (owner + 1) % len(m.clients)
	m.do(next, "CLUSTER", "SETSLOT", slot, "IMPORTING", m.ids[owner])
	m.do(owner, "CLUSTER", "SETSLOT", slot, "MIGRATING", m.ids[next])
	host, port, _ := net.SplitHostPort(m.servers[next].Addr)
	for {
		keys, err := m.clients[owner].ClusterGetKeysInSlot(m.t.Context(), int(slot), 1).Result()
		if err != nil {
			m.t.Fatal(err)
		}
		if len(keys) == 0 {
			break
		}
		m.do(owner, "MIGRATE", host, port, keys[0], 0, 5000)
	}
	for _, i := range []int{next, owner, 3 - next - owner} {
		m.do(i, "CLUSTER", "SETSLOT", slot, "NODE", m.ids[next])
	}
	m.owners[slot] = next
}

func (m *mover) do(node int, args ...any) {
	m.t.Helper()
	if err := m.clients[node].Do(m.t.Context(), args...).Err(); err != nil {
		m.t.Fatalf("%v: %v", args, err)
	}
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
