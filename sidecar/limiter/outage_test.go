package limiter

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

const (
	// shortTimeout of a store that is about to fail.
	shortTimeout = 100 * time.Millisecond
	// busy is what answers may be late by on a machine that runs other tests.
	busy = 500 * time.Millisecond
)

// failing asks at the same time and demands ErrStore in time from all.
func failing(t *testing.T, l *Limiter, takes ...Take) {
	t.Helper()
	var all sync.WaitGroup
	var mu sync.Mutex
	var durations []time.Duration
	for range 80 { // more than there are connections
		all.Go(func() {
			start := time.Now()
			_, err := l.Take(context.Background(), takes)
			duration := time.Since(start)
			mu.Lock()
			defer mu.Unlock()
			durations = append(durations, duration)
			if !errors.Is(err, ErrStore) {
				t.Errorf("error %v, want ErrStore", err)
			}
		})
	}
	all.Wait()
	slices.Sort(durations)
	median, slowest := durations[len(durations)/2], durations[len(durations)-1]
	t.Logf("80 failures with a timeout of %v: half within %v, all within %v", shortTimeout, median, slowest)
	if slowest > shortTimeout+busy {
		t.Errorf("an error came after %v, want at most %v", slowest, shortTimeout+busy)
	}
}

func admits(l *Limiter, takes ...Take) func() bool {
	return func() bool {
		decision, err := l.Take(context.Background(), takes)
		return err == nil && decision.Admitted
	}
}

func TestOutages(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason      string
		fail, mend  func(*redistest.Server)
		connections bool // made before the failure
	}{
		{"a server that hangs", (*redistest.Server).Pause, (*redistest.Server).Resume, true},
		{"a server that hung before the first connection", (*redistest.Server).Pause, (*redistest.Server).Resume, false},
		{"a server that is gone", (*redistest.Server).Kill, (*redistest.Server).Restart, true},
		{"a server that was never there", (*redistest.Server).Kill, (*redistest.Server).Restart, false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			server := redistest.Start(t)
			store := ruleset.Store{URL: server.URL(), TimeoutMillis: shortTimeout.Milliseconds()}
			if !test.connections {
				test.fail(server)
			}
			l, _ := newLimiterOf(t, store)
			take := perMinute("u", 1_000_000)
			if test.connections {
				eventually(t, "it admits", admits(l, take))
				test.fail(server)
			}
			failing(t, l, perMinute("another, of whom there is no lease", 1_000_000))
			eventually(t, "the gauge is 0", func() bool { return testutil.ToFloat64(l.metrics.up) == 0 })
			if err := l.Ping(t.Context()); !errors.Is(err, ErrStore) {
				t.Errorf("Ping: error %v, want ErrStore", err)
			}
			test.mend(server)
			eventually(t, "it admits again", admits(l, take))
			eventually(t, "the gauge is 1", func() bool { return testutil.ToFloat64(l.metrics.up) == 1 })
		})
	}
}

// A server that was restarted has closed every pooled connection: no call after
// it may fail for that.
func TestRestartIsNotNoticed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	flood([]*Limiter{l}, 30, func(l *Limiter) { mustTake(t, l, perMinute("u", 1000)) })
	server.Restart()
	for range 60 {
		mustTake(t, l, perMinute("u", 1000))
	}
}

// blackhole returns an address where packets vanish: a listener with no room in
// its queue, whose kernel drops every further SYN.
func blackhole(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatalf("making a socket: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatalf("binding it: %v", err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatalf("listening: %v", err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatalf("asking for its port: %v", err)
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(name.(*syscall.SockaddrInet4).Port))
	for range 16 {
		conn, err := net.DialTimeout("tcp", addr, 50*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { _ = conn.Close() })
	}
	t.Fatal("the listener's queue never filled")
	return ""
}

func TestBlackhole(t *testing.T) {
	t.Parallel()
	addr := blackhole(t)
	for _, url := range []string{"redis://" + addr, "rediss://" + addr, "redis://" + addr + "?cluster=true"} {
		l, _ := newLimiterOf(t, ruleset.Store{URL: url, TimeoutMillis: shortTimeout.Milliseconds()})
		failing(t, l, perMinute("u", 1))
	}
}

// nodeOf is the index of the cluster's server that holds an identity.
func nodeOf(t *testing.T, cluster *redistest.Cluster, take Take) int {
	t.Helper()
	slot, err := cluster.Servers[0].Client().ClusterKeySlot(t.Context(), mustQuotas(t, []Take{take})[0].key).Result()
	if err != nil {
		t.Fatal(err)
	}
	return int(slot) * len(cluster.Servers) / 16384
}

// onTwoNodes are takes of which the first in the tags' order lies on one node, the
// other on another.
func onTwoNodes(t *testing.T, cluster *redistest.Cluster) (first, second Take) {
	t.Helper()
	first, second = perMinute("a", 5), perMinute("z", 5)
	for i := 0; nodeOf(t, cluster, first) == nodeOf(t, cluster, second); i++ {
		second.Identity = "z" + string(rune('0'+i))
	}
	return first, second
}

// A node of the cluster hangs: takes that meet it fail in time and what other
// nodes gave comes back; takes that do not meet it go on.
func TestClusterNodeHangs(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "--cluster-require-full-coverage", "no", "--cluster-replica-no-failover", "yes")
	l, _ := newLimiterOf(t, ruleset.Store{URL: cluster.URL(), TimeoutMillis: shortTimeout.Milliseconds()})
	stays, hangs := onTwoNodes(t, cluster)
	eventually(t, "both admit", admits(l, stays, hangs))
	client, hanging := cluster.Servers[nodeOf(t, cluster, stays)].Client(), cluster.Servers[nodeOf(t, cluster, hangs)]
	key := mustQuotas(t, []Take{stays})[0].key
	before := units(t, client, key)

	hanging.Pause()
	failing(t, l, hangs)
	start := time.Now()
	if _, err := l.Take(t.Context(), []Take{stays, hangs}); !errors.Is(err, ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	if took := time.Since(start); took > shortTimeout+busy {
		t.Errorf("failed after %v, want at most %v", took, shortTimeout+busy)
	}
	eventually(t, "what was taken is given back", func() bool { return units(t, client, key) == before })
	eventually(t, "other nodes admit", admits(l, stays))
	hanging.Resume()
	eventually(t, "the node admits again", admits(l, hangs))
}

// What a take took is given back although its caller had less time than the store.
func TestCallersDeadlineOnACluster(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t)
	l := newLimiter(t, cluster.URL())
	stays, hangs := onTwoNodes(t, cluster)
	eventually(t, "both admit", admits(l, stays, hangs))
	client, hanging := cluster.Servers[nodeOf(t, cluster, stays)].Client(), cluster.Servers[nodeOf(t, cluster, hangs)]
	key := mustQuotas(t, []Take{stays})[0].key
	before := units(t, client, key)
	hanging.Pause()
	defer hanging.Resume()
	ctx, cancel := context.WithTimeout(t.Context(), 5*shortTimeout)
	defer cancel()
	if _, err := l.Take(ctx, []Take{stays, hangs}); !errors.Is(err, ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	eventually(t, "what was taken is given back", func() bool { return units(t, client, key) == before })
}

// The caller's own deadline counts when it is the shorter.
func TestCallersDeadline(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l := newLimiter(t, server.URL())
	server.Pause()
	ctx, cancel := context.WithTimeout(t.Context(), shortTimeout)
	defer cancel()
	start := time.Now()
	if _, err := l.Take(ctx, []Take{perMinute("u", 1)}); !errors.Is(err, ErrStore) {
		t.Errorf("error %v, want ErrStore", err)
	}
	if took := time.Since(start); took > shortTimeout+busy {
		t.Errorf("failed after %v, want at most %v", took, shortTimeout+busy)
	}
	server.Resume()
}

// deadlines are those that scripts were called with.
type deadlines struct {
	redis.Scripter
	all []time.Time
}

func (d *deadlines) EvalSha(ctx context.Context, sha string, keys []string, args ...any) *redis.Cmd {
	until, _ := ctx.Deadline()
	d.all = append(d.all, until)
	return d.Scripter.EvalSha(ctx, sha, keys, args...)
}

// It counts as well when the take is asked again, without what was wrong with others.
func TestCallersDeadlineWhenAskedAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	b := newFleet(t, server.URL(), 1).limiters[0].backend
	broken := &command{verb: verbSettle, id: newID(), quotas: mustQuotas(t, []Take{perMinute("broken", 3000)}), length: int64(time.Second)}
	if err := server.Client().Set(t.Context(), broken.quotas[0].key, "no log", 0).Err(); err != nil {
		t.Fatal(err)
	}
	b.memory.later(broken)
	asked := &deadlines{Scripter: b.client}
	b.batch.client = asked
	ctx, cancel := context.WithTimeout(t.Context(), patience/2)
	defer cancel()
	if d, err := b.health.limiter.Take(ctx, []Take{perMinute("u", 1)}); err != nil || !d.Admitted {
		t.Fatalf("%+v, error %v, want admitted", d, err)
	}
	want, _ := ctx.Deadline()
	if len(asked.all) != 2 || !asked.all[0].Equal(want) || !asked.all[1].Equal(want) {
		t.Errorf("the script was called with the deadlines %v, want twice with the caller's, %v", asked.all, want)
	}
}
