package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/audit/judge"
)

// sidecars of the fleet.
const sidecars = 20

// pace of the fleet's users, who go to any of the sidecars each time.
type pace struct {
	name string
	// times the limit.
	times float64
}

// user and when it asked for what it was admitted, since the beginning.
type user struct {
	take     limiter.Take
	asked    int
	admitted []time.Duration
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
				u.admitted = append(u.admitted, before)
			}
		}
	}
	return nil
}

// in is how many were admitted in the windows that follow each other from the
// first admission on: the fewest of them.
func (u *user) in(window, until time.Duration) (fewest int) {
	if len(u.admitted) == 0 {
		return 0
	}
	fewest = len(u.admitted)
	for from := u.admitted[0]; from+window <= until; from += window {
		n := 0
		for _, a := range u.admitted {
			if a >= from && a < from+window {
				n++
			}
		}
		fewest = min(fewest, n)
	}
	return fewest
}

// audited are the limiters of a fleet, each with a record of what it admits.
type audited struct {
	limiters []*limiter.Limiter
	logs     []*audit.Log
	files    []string
}

func (s *server) audited() (a audited, err error) {
	for i := range sidecars {
		file := filepath.Join(s.folder, "audit-"+strconv.Itoa(i))
		_ = os.Remove(file) // of the pace before
		log, err := audit.Open(file, slog.Default())
		if err != nil {
			return a, err
		}
		a.files, a.logs = append(a.files, file), append(a.logs, log)
		l, err := s.limiter(limiter.Options{Audit: log})
		if err != nil {
			return a, err
		}
		a.limiters = append(a.limiters, l)
	}
	return a, nil
}

func (a *audited) close() (err error) {
	for _, l := range a.limiters {
		l.Close()
	}
	for _, log := range a.logs {
		err = errors.Join(err, log.Close())
	}
	a.limiters, a.logs = nil, nil
	return err
}

// judge closes the records and says by how much a window was surely over, of so
// many units that were admitted.
func (a *audited) judge(admitted int) (over int, err error) {
	if err := a.close(); err != nil {
		return 0, err
	}
	var records judge.Records
	for _, file := range a.files {
		if err := records.Read(file); err != nil {
			return 0, err
		}
	}
	verdict := records.Judge(judge.Options{})
	recorded := 0
	for _, units := range verdict.Admitted {
		recorded += int(units)
	}
	if recorded != admitted || verdict.Untimed > 0 {
		err = fmt.Errorf("%d admissions are recorded of %d, %d without a time", recorded, admitted, verdict.Untimed)
	}
	for _, violation := range verdict.Violations {
		over = max(over, int(violation.Units-violation.Most))
		err = errors.Join(err, fmt.Errorf("a window was over: %v", violation))
	}
	return over, err
}

// fleet measures what users of all sidecars cost Redis.
func fleet(ctx context.Context, s *server, p pace, limit ruleset.Limit, o options, progress io.Writer) (figures fleetFigures, err error) {
	all, err := s.audited()
	defer func() { err = errors.Join(err, all.close()) }()
	if err != nil {
		return figures, err
	}
	users := make([]user, o.users)
	interval := time.Duration(float64(limit.Window()) / float64(limit.Requests) / p.times)
	before, err := s.counters(ctx)
	if err != nil {
		return figures, err
	}
	start := time.Now()
	failures := make([]error, len(users))
	var asking sync.WaitGroup
	for i := range users {
		u := &users[i]
		u.take = limiter.Take{
			Namespace: "bench", Service: "fleet", Identity: p.name + strconv.Itoa(i), Limits: []ruleset.Limit{limit}, Sharers: sidecars,
		}
		asking.Go(func() { failures[i] = u.run(ctx, all.limiters, start, o.duration, interval) })
	}
	asking.Wait()
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
		figures.used = min(figures.used, float64(u.in(limit.Window(), elapsed))/float64(limit.Requests))
	}
	figures.calls = after.scripts - before.scripts
	figures.bytes, err = s.bytes(ctx, "ratelimit:{bench/fleet:"+p.name+"*")
	over, judged := all.judge(figures.admitted)
	figures.over = over
	fmt.Fprintf(progress, "%d users at %g of %d in %v: %d asked, %d admitted, %d calls of Redis, at most %d over, %.2f %% used\n",
		len(users), p.times, limit.Requests, limit.Window(), figures.asked, figures.admitted, figures.calls, figures.over, 100*figures.used)
	return figures, errors.Join(err, judged)
}

type fleetFigures struct {
	asked, admitted, calls int
	// over is the most that a window held above its limit, by the auditor, and used the
	// share of the limit that was admitted, in the user's window in which that was least.
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
