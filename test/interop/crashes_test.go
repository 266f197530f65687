package interop

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "of what is random in TestNothingIsLost")

// Workers that are killed at random, and a Redis that is, lose no task.
func TestNothingIsLost(t *testing.T) {
	const (
		calls, workers, kills = 5000, 8, 50
		// limit of the whole: each of its waits is bounded by it.
		limit = 3 * time.Minute
	)
	t.Logf("repeat with -seed %d", *seed)
	random := randomOf(*seed)
	server := redistest.Start(t, redistest.AOF()...)
	client, start := server.Client(), time.Now()
	enqueueRecords(t, server.URL(), calls, random)

	fleet := make([]*process, workers)
	hire := func(i int) {
		fleet[i] = counting(t, server.URL(), fmt.Sprint("worker-", i), "--concurrency", "2", "--lease", "2s", "--timeout", "1s", "--max-crashes", "1000")
	}
	for i := range fleet {
		hire(i)
	}
	// Each kill comes when so many runs have ended.
	at := make([]int64, kills)
	for i := range at {
		at[i] = random.Int64N(calls * 9 / 10)
	}
	slices.Sort(at)
	for i, threshold := range at {
		eventually(t, limit-time.Since(start), fmt.Sprintf("%d runs have ended", threshold), func() bool {
			n, err := client.SCard(t.Context(), "interop:runs").Result()
			return err == nil && n >= threshold
		})
		if i == kills/3 || i == kills*2/3 {
			server.Restart()
		}
		victim := random.IntN(workers)
		fleet[victim].Kill()
		hire(victim)
	}
	eventually(t, limit-time.Since(start), "every call has run", func() bool {
		return client.LLen(t.Context(), "celery").Val() == 0 && client.HLen(t.Context(), "unacked").Val() == 0
	})
	settled(t, client)
	got := ran(t, client, "interop:runs")
	var missing []int
	for n := range calls {
		if got.byN[n] == 0 {
			missing = append(missing, n)
		}
	}
	begun := ran(t, client, "interop:begun")
	t.Logf("%d calls, %d kills of workers, 2 of Redis, %v: %d never ended, %d runs were interrupted, %d ended that had ended before (%.2f %%)",
		calls, kills, time.Since(start).Round(time.Second), len(missing), begun.runs-got.runs, got.runs-len(got.byN), 100*float64(got.runs-len(got.byN))/calls)
	if begun.runs == got.runs {
		t.Error("no kill interrupted a run: this shows nothing")
	}
	if len(missing) > 0 {
		t.Errorf("%d calls never ran to their end: %v", len(missing), missing)
	}
	if n := client.LLen(t.Context(), "weir.dead.celery").Val(); n != 0 {
		t.Errorf("want no dead letters, got %d", n)
	}
}

// randomOf is random, and the same for the same seed.
func randomOf(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// enqueueRecords sends calls of record, most of them short, some of up to 250 ms.
func enqueueRecords(t *testing.T, url string, calls int, random *rand.Rand) {
	t.Helper()
	broker, err := celery.Open(url, celery.Options{})
	if err != nil {
		t.Fatalf("opening the broker: %v", err)
	}
	defer func() { _ = broker.Close() }()
	signatures := make([]celery.Signature, calls)
	for n := range signatures {
		ms := random.IntN(5)
		if random.IntN(3) == 0 {
			ms = random.IntN(250)
		}
		signatures[n] = celery.Signature{Task: "record", Args: []any{n, ms}, Queue: "celery"}
	}
	if err := broker.Enqueue(t.Context(), signatures...); err != nil {
		t.Fatalf("enqueuing %d calls: %v", calls, err)
	}
}
