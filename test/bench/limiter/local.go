package main

import (
	"context"
	"errors"
	"testing"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// remembered measures decisions without Redis: refusals and admissions from a
// lease, in the time and allocations of one.
func remembered(ctx context.Context, s *server) ([]Figure, error) {
	l, err := s.limiter(limiter.Options{})
	if err != nil {
		return nil, err
	}
	defer l.Close()
	var figures []Figure
	for _, one := range []struct {
		what     string
		requests int64
		admitted bool
		most     float64
	}{
		{"a remembered denial", 1, false, 250},
		{"an admission from a lease", 1_000_000_000, true, 500},
	} {
		takes := []limiter.Take{{
			Namespace: "bench", Service: "memory", Identity: one.what, Sharers: sidecars,
			Limits: []ruleset.Limit{{Requests: one.requests, WindowMillis: 60_000}},
		}}
		quotas := make([]limiter.Quota, 0, 1)
		for range 100 {
			if _, err := l.Take(ctx, takes); err != nil {
				return nil, err
			}
		}
		var failed error
		result := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d, err := l.TakeInto(ctx, takes, quotas)
				if err == nil && d.Admitted != one.admitted {
					err = errors.New(one.what + " was none")
				}
				if err != nil {
					failed = err
				}
			}
		})
		if failed != nil {
			return nil, failed
		}
		figures = append(figures,
			Figure{What: one.what, Value: float64(result.T.Nanoseconds()) / float64(result.N), Unit: "ns", AtMost: one.most},
			Figure{What: one.what + ": allocations", Value: float64(result.AllocsPerOp()), None: true})
	}
	return figures, nil
}
