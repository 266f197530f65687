// Command limiter measures the limiter on one machine, in one run, beside other
// limiters on the same redis-server, the sides in turns: see Report.
//
// ROUNDS is how many rounds (5), DURATION how long users take from 20 sidecars
// (130s, two windows), TAKES how many each side decides in a round (100000); fewer are for a quick
// look. JSON=1 prints JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// options of a run.
type options struct {
	rounds, takes int
	window        time.Duration // of the fleet's users
	duration      time.Duration // of each of the fleet's runs
	users         int
	identities    int // in one sidecar's memory
}

func full() options {
	return options{rounds: 5, takes: 100_000, window: time.Minute, duration: 130 * time.Second, users: 50, identities: 100_000}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends it at once
	if err := dispatch(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context) error {
	if address := os.Getenv(roleVariable); address != "" { // started by remember
		return role(ctx, address)
	}
	o := full()
	for name, into := range map[string]*int{"ROUNDS": &o.rounds, "TAKES": &o.takes} {
		if text := os.Getenv(name); text != "" {
			var err error
			if *into, err = strconv.Atoi(text); err != nil || *into < 1 {
				return fmt.Errorf("%s is %q: a number is expected", name, text)
			}
		}
	}
	if text := os.Getenv("DURATION"); text != "" {
		var err error
		if o.duration, err = time.ParseDuration(text); err != nil {
			return fmt.Errorf("DURATION is %q: a duration is expected, as 130s", text)
		}
	}
	report, err := run(ctx, o, os.Stderr)
	if report == nil {
		return err
	}
	if os.Getenv("JSON") != "1" {
		return errors.Join(err, report.Table(os.Stdout))
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return errors.Join(err, encoder.Encode(report))
}

// run measures everything. It fails when a window was over its limit.
func run(ctx context.Context, o options, progress io.Writer) (*Report, error) {
	s, err := startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	r := &Report{Processors: runtime.NumCPU(), Rounds: o.rounds}
	if r.Figures, err = remembered(ctx, s); err != nil {
		return nil, err
	}
	large := ruleset.Limit{Requests: 3000, WindowMillis: 60_000}
	for _, limit := range []ruleset.Limit{{Requests: 100, WindowMillis: 60_000}, large} {
		rows, err := compare(ctx, s, limit, o, progress)
		if err != nil {
			return nil, err
		}
		r.Sides = append(r.Sides, rows...)
		r.Figures = append(r.Figures, throughRedis(rows)...)
		if err := s.client.FlushAll(ctx).Err(); err != nil {
			return nil, err
		}
	}
	return r, r.fleets(ctx, s, o, progress)
}

// throughRedis are the aims of one limit's sides.
func throughRedis(rows []SideRow) []Figure {
	ours, pipelined := rows[0], rows[2]
	limit := fmt.Sprintf(", limit %d", ours.Limit)
	return []Figure{
		{What: "through Redis, 64 at once, to EVALSHA" + limit, Value: ours.RateRatio, AtLeast: 1.8},
		{What: "the same to EVALSHA pipelined" + limit, Value: median(ratios(ours.rates, pipelined.rates)), AtLeast: 0.9},
		{What: "through Redis, one at a time, p50 to EVALSHA" + limit, Value: ours.P50Ratio, AtMost: 1.15},
		{What: "p99 to EVALSHA" + limit, Value: ours.P99Ratio, AtMost: 1.15},
	}
}

// fleets measures what many users cost, and at the same time the memory of one
// sidecar that has seen very many.
func (r *Report) fleets(ctx context.Context, s *server, o options, progress io.Writer) error {
	var memory remembering
	remembers := make(chan error, 1)
	go func() {
		var err error
		memory, err = remember(ctx, o)
		remembers <- err
	}()
	limit := ruleset.Limit{Requests: 3000, WindowMillis: o.window.Milliseconds()}
	half, err := fleet(ctx, s, pace{"half", 0.5}, limit, o, progress)
	if err != nil {
		return err
	}
	flood, err := fleet(ctx, s, pace{"flood", 10}, limit, o, progress)
	if err != nil {
		return err
	}
	if err := <-remembers; err != nil {
		return err
	}
	fmt.Fprintf(progress, "%d identities, MiB: %+v\n", o.identities, memory)
	r.Figures = append(r.Figures,
		Figure{What: "calls of Redis an admitted request, users at half of their limit", Value: float64(half.calls) / float64(half.admitted), AtMost: 0.1},
		Figure{What: "refused of them", Value: float64(half.asked - half.admitted), None: true},
		Figure{What: "calls of Redis a request, users at 10 times their limit", Value: float64(flood.calls) / float64(flood.asked), AtMost: 0.01},
		Figure{What: "used of the limit, in the window of the user that got least", Value: 100 * flood.used, Unit: "%", AtLeast: 99},
		Figure{What: "over the limit, in any window, by the auditor", Value: float64(max(half.over, flood.over, 0)), None: true},
		Figure{What: "memory in Redis, the largest user", Value: max(half.bytes, flood.bytes) / 1024, Unit: "KiB", AtMost: 6},
		Figure{What: fmt.Sprintf("heap of a sidecar that saw %d identities", o.identities), Value: memory.Seen.Heap - memory.Before.Heap, Unit: "MiB", AtMost: 64},
		Figure{What: "the same, resident", Value: memory.Seen.RSS - memory.Before.RSS, Unit: "MiB", AtMost: 64},
		Figure{What: "heap when their window has passed", Value: memory.After.Heap - memory.Before.Heap, Unit: "MiB", AtMost: 4},
		Figure{What: "the same, resident", Value: memory.After.RSS - memory.Before.RSS, Unit: "MiB"},
	)
	return nil
}
