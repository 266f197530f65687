package interop

import (
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
)

// tally is how often each n ran, and how many runs each worker made.
type tally struct {
	byN   map[int]int
	byWho map[string]int
	runs  int
}

// ran counts the notes of the tasks: "interop:begun" or "interop:runs".
func ran(t testing.TB, client *redis.Client, set string) tally {
	t.Helper()
	members, err := client.SMembers(t.Context(), set).Result()
	if err != nil {
		t.Fatalf("counting runs: %v", err)
	}
	counted := tally{byN: map[int]int{}, byWho: map[string]int{}, runs: len(members)}
	for _, member := range members {
		parts := strings.Split(member, "/")
		n, err := strconv.Atoi(parts[0])
		if err != nil || len(parts) != 3 {
			t.Fatalf("a note of a run is %q", member)
		}
		counted.byN[n]++
		counted.byWho[parts[1]]++
	}
	return counted
}

// settled waits until nothing is taken or parked any more.
func settled(t testing.TB, client *redis.Client) {
	t.Helper()
	eventually(t, patience, "unacked, unacked_index and weir.running are empty", func() bool {
		ctx := t.Context()
		pipe := client.Pipeline()
		unacked, index, running := pipe.HLen(ctx, "unacked"), pipe.ZCard(ctx, "unacked_index"), pipe.ZCard(ctx, "weir.running")
		if _, err := pipe.Exec(ctx); err != nil {
			return false
		}
		return unacked.Val()+index.Val()+running.Val() == 0
	})
}
