// Command bench measures Weir beside others on one machine, in one run, the
// sides interleaved. Figures of different runs are not to be compared; ratios
// are.
//
//	bench tasks    no-op tasks a second, and memory, beside Celery's own worker
//	bench proxy    CPU, latency and memory of the sidecar, beside HAProxy and net/http (Linux, root)
//	bench operator memory, CPU, calls and latencies of the operator with many policies and pods (Linux)
//
// The limiter's part is a program of its own, in the folder limiter.
//
// JSON=1 prints JSON. Of the part proxy, ROUNDS=n is for a quick look, OTHER=file
// measures another build of the sidecar too, and PROFILE=folder keeps profiles.
// Of the part operator, POLICIES, PODS and EDITS are how many, REST=duration is
// how long it is watched at rest, and PROFILE=folder keeps profiles.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/weir-dev/weir/test/bench/operator"
	"github.com/weir-dev/weir/test/bench/proxy"
)

// report prints itself for people, and as JSON.
type report interface{ Table(io.Writer) error }

// parts are what can be measured. They may return a report also with an error.
var parts = map[string]func(context.Context, io.Writer) (report, error){
	"tasks":    benchTasks,
	"proxy":    benchProxy,
	"operator": benchOperator,
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
	if len(arguments) > 1 && arguments[0] == "role" { // started by the part proxy
		return proxy.Role(ctx, arguments[1:])
	}
	if len(arguments) != 1 || parts[arguments[0]] == nil {
		return fmt.Errorf("one part is expected, tasks, proxy or operator")
	}
	result, err := parts[arguments[0]](ctx, os.Stderr)
	if result != nil {
		if failed := show(os.Stdout, result, os.Getenv("JSON") == "1"); failed != nil {
			return failed
		}
	}
	return err
}

func show(out io.Writer, result report, asJSON bool) error {
	if !asJSON {
		return result.Table(out)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

func benchProxy(ctx context.Context, progress io.Writer) (report, error) {
	options := proxy.Options{Rounds: 5, Other: os.Getenv("OTHER"), Profile: os.Getenv("PROFILE")}
	if text := os.Getenv("ROUNDS"); text != "" {
		var err error
		if options.Rounds, err = strconv.Atoi(text); err != nil || options.Rounds < 1 {
			return nil, fmt.Errorf("ROUNDS is %q: a number of rounds is expected", text)
		}
	}
	result, err := proxy.Run(ctx, options, progress)
	if result == nil {
		return nil, err // not a report that is nil
	}
	return result, err
}

func benchOperator(ctx context.Context, progress io.Writer) (report, error) {
	options := operator.Full()
	options.Assets, options.Profile = os.Getenv("KUBEBUILDER_ASSETS"), os.Getenv("PROFILE")
	for name, into := range map[string]*int{"POLICIES": &options.Policies, "PODS": &options.Pods, "EDITS": &options.Edits} {
		if text := os.Getenv(name); text != "" {
			var err error
			if *into, err = strconv.Atoi(text); err != nil {
				return nil, fmt.Errorf("%s is %q: a number is expected", name, text)
			}
		}
	}
	if text := os.Getenv("REST"); text != "" {
		var err error
		if options.Rest, err = time.ParseDuration(text); err != nil {
			return nil, fmt.Errorf("REST is %q: a duration is expected, as 10m", text)
		}
	}
	result, err := operator.Run(ctx, options, progress)
	if result == nil {
		return nil, err // not a report that is nil
	}
	return result, err
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
