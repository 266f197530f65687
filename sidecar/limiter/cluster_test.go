package limiter

import (
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// A node is killed under load and its replica takes over: callers of other nodes
// notice nothing, and its own are admitted as much again as was lost, and no more.
func TestClusterFailover(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartReplicatedCluster(t, "--cluster-require-full-coverage", "no")
	const limit, killed = 100, 1
	limiters := limitersOf(t, 4, ruleset.Store{URL: cluster.URL(), TimeoutMillis: failoverTimeout.Milliseconds()})
	var takes []Take
	for _, take := range manyTakes(40, limit) {
		if nodeOf(t, cluster, take) == killed {
			takes = append(takes, take)
		}
	}
	others := startLoad(t, limiters, shortWindows(takesElsewhere(t, cluster, killed)))
	before := startLoad(t, limiters, takes)
	eventually(t, "the load is under way", func() bool { return before.total() > limit*int64(len(takes))/4 })
	failures := others.failures.Load()
	cluster.Servers[killed].Kill()
	before.end() // so that the replica decides nothing before the losses are counted
	cluster.AwaitPromotion(t.Context(), killed)
	t.Logf("%d of %d decisions of other nodes' callers failed meanwhile", others.failures.Load()-failures, others.total())
	before.bounded(t)

	client, lost := cluster.Replicas[killed].Client(), make([]int64, len(takes))
	for i, take := range takes {
		lost[i] = max(before.admitted[i].Load()-units(t, client, mustQuotas(t, []Take{take})[0].key), 0)
	}
	promoted := time.Now()
	after := startLoad(t, limiters, takes)
	eventually(t, "all limits are reached on the new master", func() bool {
		for _, take := range takes {
			if units(t, client, mustQuotas(t, []Take{take})[0].key) < limit {
				return false
			}
		}
		return true
	})
	t.Logf("all limits reached %v after the promotion", time.Since(promoted))
	after.end()
	others.end()
	after.bounded(t)
	others.bounded(t)
	var all int64
	for i := range takes {
		if admitted := before.admitted[i].Load() + after.admitted[i].Load(); admitted > limit+lost[i] {
			t.Errorf("caller %d: %d admitted of %d, and %d were lost", i, admitted, limit, lost[i])
		}
		all += lost[i]
	}
	t.Logf("%d admissions were lost with the node", all)
}

// takesElsewhere are of callers that a node does not hold.
func takesElsewhere(t *testing.T, cluster *redistest.Cluster, node int) (takes []Take) {
	t.Helper()
	for _, take := range manyTakes(20, 128) {
		if take.Identity += "-elsewhere"; nodeOf(t, cluster, take) != node {
			takes = append(takes, take)
		}
	}
	return takes
}

// shortWindows has there always be some room soon.
func shortWindows(takes []Take) []Take {
	for i := range takes {
		takes[i].Limits[0].WindowMillis = 500
	}
	return takes
}

// Slots are moved from node to node under load: every caller is admitted its limit
// and not once more, with an exact log and a sliced one.
func TestClusterSlotsMove(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	// The time of patience: it is answers that are wanted here, and the machine may be busy.
	limiters := limitersOf(t, 4, ruleset.Store{URL: cluster.URL(), TimeoutMillis: patience.Milliseconds()})
	takes := append(manyTakes(4, 100), manyTakes(4, 900)...)
	for i := range takes[4:] {
		takes[4+i].Identity += "-sliced"
	}
	moving := takes[2:6] // two of each
	where := make([]int, len(moving))
	for i, take := range moving {
		where[i] = nodeOf(t, cluster, take)
	}
	load := startLoad(t, limiters, takes)
	for round := range 3 {
		for i, take := range moving {
			from, to := where[i], (where[i]+1)%len(cluster.Servers)
			before := load.total()
			cluster.MoveSlot(t.Context(), int(slotOf(mustQuotas(t, []Take{take})[0].key)), cluster.Servers[from], cluster.Servers[to], func() {
				if round == 0 {
					eventually(t, "takes pass while the slot is at two nodes", func() bool { return load.total() > before+20 })
				}
			})
			where[i] = to
		}
	}
	eventually(t, "all limits are reached", func() bool {
		for i, take := range takes {
			if load.admitted[i].Load() < take.Limits[0].Requests*9/10 {
				return false
			}
		}
		return true
	})
	load.end()
	for i, take := range takes {
		if n := load.admitted[i].Load(); n > take.Limits[0].Requests {
			t.Errorf("%s: %d admitted of %d", take.Identity, n, take.Limits[0].Requests)
		}
	}
	if n := load.failures.Load(); n > 0 {
		t.Errorf("%d of %d decisions failed", n, load.total())
	}
}
