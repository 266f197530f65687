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
	if err := dispatch(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func dispatch(ctx context.Context, arguments []string) error {
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
	if err != nil {
		return err
	}
	if os.Getenv("JSON") != "1" {
		return report.Table(os.Stdout)
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(report)
}

// run measures everything.
func run(ctx context.Context, o options, progress io.Writer) (*Report, error) {
	s, err := startRedis(ctx)
	if err != nil {
		return nil, err
	}
	defer s.stop()
	r := &Report{Processors: runtime.NumCPU(), Rounds: o.rounds}
	for _, limit := range []ruleset.Limit{{Requests: 100, WindowMillis: 60_000}, {Requests: 3000, WindowMillis: 60_000}} {
		rows, err := compare(ctx, s, limit, o, progress)
		if err != nil {
			return nil, err
		}
		r.Sides = append(r.Sides, rows...)
		if err := s.client.FlushAll(ctx).Err(); err != nil {
			return nil, err
		}
	}
	return r, nil
}
