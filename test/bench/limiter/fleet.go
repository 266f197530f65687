package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// sidecars of the fleet.
const sidecars = 20

// pace of the fleet's users, who go to any of the sidecars each time.
type pace struct {
	name string
	// times the limit.
	times float64
}

// admission is the time before a request and after it.
type admission struct{ before, after time.Duration }

// user and what it was admitted.
type user struct {
	take     limiter.Take
	asked    int
	admitted []admission
}

// run asks, at even intervals, for a time.
func (u *user) run(ctx context.Context, limiters []*limiter.Limiter, start time.Time, duration, interval time.Duration) error {
	quotas := make([]limiter.Quota, 0, 1)
	takes := []limiter.Take{u.take}
	next := time.Now().Add(rand.N(interval)) //nolint:gosec // no secret
	for time.Since(start) < duration {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Until(next)):
		}
		for ; !next.After(time.Now()); next = next.Add(interval) { // all that are due
			before := time.Since(start)
			d, err := limiters[rand.IntN(len(limiters))].TakeInto(ctx, takes, quotas) //nolint:gosec // no secret
			if err != nil {
				return err
			}
			u.asked++
			if d.Admitted {
				u.admitted = append(u.admitted, admission{before, time.Since(start)})
			}
		}
	}
	return nil
}

// over is by how much a window surely held more than the limit. The instants of
// the admissions, in their order, lie between the times before and the times
// after, each in theirs.
func (u *user) over(limit int, window time.Duration) (most int) {
	var before, after []time.Duration
	for _, a := range u.admitted {
		before, after = append(before, a.before), append(after, a.after)
	}
	slices.Sort(before)
	slices.Sort(after)
	first := 0
	for last := range after {
		for after[last]-before[first] >= window {
			first++
		}
		most = max(most, last-first+1-limit)
	}
	return most
}

// in is how many were admitted in the windows that follow each other from the
// first admission on: the fewest of them.
func (u *user) in(window, until time.Duration) (fewest int) {
	if len(u.admitted) == 0 {
		return 0
	}
	fewest = len(u.admitted)
	for from := u.admitted[0].before; from+window <= until; from += window {
		n := 0
		for _, a := range u.admitted {
			if a.before >= from && a.before < from+window {
				n++
			}
		}
		fewest = min(fewest, n)
	}
	return fewest
}

// fleet measures what users of all sidecars cost Redis.
func fleet(ctx context.Context, s *server, p pace, limit ruleset.Limit, o options, progress io.Writer) (figures fleetFigures, err error) {
	var limiters []*limiter.Limiter
	for range sidecars {
		l, err := s.limiter()
		if err != nil {
			return figures, err
		}
		defer l.Close()
		limiters = append(limiters, l)
	}
	users := make([]user, o.users)
	interval := time.Duration(float64(limit.Window()) / float64(limit.Requests) / p.times)
	before, err := s.counters(ctx)
	if err != nil {
		return figures, err
	}
	start := time.Now()
	failures := make([]error, len(users))
	var all sync.WaitGroup
	for i := range users {
		u := &users[i]
		u.take = limiter.Take{
			Namespace: "bench", Service: "fleet", Identity: p.name + strconv.Itoa(i), Limits: []ruleset.Limit{limit}, Sharers: sidecars,
		}
		all.Go(func() { failures[i] = u.run(ctx, limiters, start, o.duration, interval) })
	}
	all.Wait()
	elapsed := time.Since(start)
	after, err := s.counters(ctx)
	if err := errors.Join(append(failures, err)...); err != nil {
		return figures, fmt.Errorf("users at %g of their limit: %w", p.times, err)
	}
	figures.used = 1
	for i := range users {
		u := &users[i]
		figures.asked += u.asked
		figures.admitted += len(u.admitted)
		figures.over = max(figures.over, u.over(int(limit.Requests), limit.Window()))
		figures.used = min(figures.used, float64(u.in(limit.Window(), elapsed))/float64(limit.Requests))
	}
	figures.calls = after.scripts - before.scripts
	figures.bytes, err = s.bytes(ctx, "ratelimit:{bench/fleet:"+p.name+"*")
	fmt.Fprintf(progress, "%d users at %g of %d in %v: %d asked, %d admitted, %d calls of Redis, at most %d over, %.2f %% used\n",
		len(users), p.times, limit.Requests, limit.Window(), figures.asked, figures.admitted, figures.calls, figures.over, 100*figures.used)
	if figures.over > 0 {
		err = errors.Join(err, fmt.Errorf("a window held %d requests more than its limit", figures.over))
	}
	return figures, err
}

type fleetFigures struct {
	asked, admitted, calls int
	// over is the most that a window held above its limit, and used the share of
	// the limit that was admitted, in the user's window in which that was least.
	over  int
	used  float64
	bytes float64 // in Redis, of the user that has the most
}

// bytes is the most that an identity's keys take.
func (s *server) bytes(ctx context.Context, pattern string) (float64, error) {
	of := map[string]float64{}
	keys := s.client.Scan(ctx, 0, pattern, 1000).Iterator()
	most := 0.0
	for keys.Next(ctx) {
		bytes, err := s.client.MemoryUsage(ctx, keys.Val(), 0).Result()
		if err != nil {
			return 0, err
		}
		identity, _, _ := strings.Cut(keys.Val(), "}")
		of[identity] += float64(bytes)
		most = max(most, of[identity])
	}
	return most, keys.Err()
}
