package limiter

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

// While a policy's edit travels, sidecars hold one caller to different limits.
// Every admission finds room under the limit that it was asked with, and none
// is counted twice or lost: the counts after them are 1, 2, 3 and so on.
func TestLimitEditedUnderFlood(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	limits := []int64{40, 5, 120, 1, 60, 90, 20}
	var mu sync.Mutex
	var counts []int64
	var all sync.WaitGroup
	for sidecar := range 4 {
		l := newLimiter(t, server.URL())
		for range 4 {
			all.Go(func() {
				for edit := range 50 {
					limit := limits[(sidecar+edit)%len(limits)]
					d := mustTake(t, l, perMinute("u", limit))
					if !d.Admitted {
						continue
					}
					mu.Lock()
					counts = append(counts, limit-d.Quotas[0].Remaining)
					mu.Unlock()
					if d.Quotas[0].Remaining < 0 {
						t.Errorf("a limit of %d is exceeded by %d", limit, -d.Quotas[0].Remaining)
					}
				}
			})
		}
	}
	all.Wait()
	slices.Sort(counts)
	for i, count := range counts {
		if count != int64(i)+1 {
			t.Fatalf("the counts after the admissions are %v, want 1, 2, 3 and so on", counts)
		}
	}
}

// A failover leaves clients at a server that has become a replica.
func TestReadOnlyServer(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	l, client := newLimiter(t, server.URL()), server.Client()
	mustTake(t, l, perMinute("u", 2))
	if err := client.ReplicaOf(t.Context(), "127.0.0.1", "1").Err(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Take(t.Context(), []Take{perMinute("u", 2)}); !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("a replica: error %v, want ErrStore that says READONLY", err)
	}
	if err := client.ReplicaOf(t.Context(), "NO", "ONE").Err(); err != nil {
		t.Fatal(err)
	}
	if d := mustTake(t, l, perMinute("u", 2)); !d.Admitted || d.Quotas[0].Remaining != 0 {
		t.Errorf("promoted: %+v, want the second of 2 admitted", d)
	}
}
