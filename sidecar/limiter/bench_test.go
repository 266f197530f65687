package limiter

import (
	"context"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// BenchmarkTake measures decisions on a real Redis, beside the same round trip
// of a script that does nothing and so has the cost of the client and the wire.
func BenchmarkTake(b *testing.B) {
	server := redistest.Start(b)
	l := newLimiter(b, server.URL())
	one := perMinute("", 100)
	two := one
	two.Limits = []ruleset.Limit{{Requests: 100, WindowMillis: 60_000}, {Requests: 3000, WindowMillis: 3_600_000}}
	full := perMinute("full", 100)
	full.Cost = 100
	mustTake(b, l, full)
	full.Cost = 1

	var identity atomic.Int64
	nothing := redis.NewScript("return {1, 2, 3, 4}")
	for _, bench := range []struct {
		name string
		call func(ctx context.Context) error
	}{
		{"baseline", func(ctx context.Context) error {
			return nothing.Run(ctx, l.backend.client, []string{"key"}, verbTake, "012345678901", "", 100, 60_000_000, 1).Err()
		}},
		{"admitted", func(ctx context.Context) error { return takeAs(ctx, l, one, &identity) }},
		{"admitted by two limits", func(ctx context.Context) error { return takeAs(ctx, l, two, &identity) }},
		{"refused", func(ctx context.Context) error {
			_, err := l.Take(ctx, []Take{full})
			return err
		}},
	} {
		b.Run(bench.name+"/sequential", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := bench.call(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(bench.name+"/parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(16)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := bench.call(b.Context()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkMemory measures decisions that need no Redis.
func BenchmarkMemory(b *testing.B) {
	l := newLimiter(b, redistest.Start(b).URL())
	for _, bench := range []struct {
		name  string
		take  Take
		first int
	}{
		{"refused", perMinute("refused", 1), 2},
		{"leased", perMinute("leased", 1_000_000_000), 100},
	} {
		b.Run(bench.name, func(b *testing.B) {
			takes, quotas := []Take{bench.take}, make([]Quota, 0, 1)
			for range bench.first {
				mustTake(b, l, takes...)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.TakeInto(b.Context(), takes, quotas); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// takeAs takes for the next of many identities: each has some units, few at
// their limit.
func takeAs(ctx context.Context, l *Limiter, take Take, identity *atomic.Int64) error {
	take.Identity = strconv.FormatInt(identity.Add(1)%5000, 10)
	_, err := l.Take(ctx, []Take{take})
	return err
}
