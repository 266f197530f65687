package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/child"
)

// resident is a process's memory in MiB.
type resident struct {
	Heap, RSS float64
}

// remembering is what a process of one limiter holds: before it was asked, with
// all identities seen, and when their window has passed.
type remembering struct{ Before, Seen, After resident }

// roleVariable of the environment has a process be what remember measures, with
// the address of Redis in it.
const roleVariable = "WEIR_BENCH_MEMORY"

// remember runs such a process: this program again.
func remember(ctx context.Context, o options) (r remembering, err error) {
	s, err := startRedis(ctx) // its calls are not the fleet's
	if err != nil {
		return r, err
	}
	defer s.stop()
	command := exec.CommandContext(ctx, "/proc/self/exe")
	command.Env = append(os.Environ(), roleVariable+"="+s.address,
		"IDENTITIES="+strconv.Itoa(o.identities), "WINDOW="+o.window.String())
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, os.Stderr
	process, err := child.Start(command)
	if err != nil {
		return r, err
	}
	<-process.Done()
	if err := process.Err(); err != nil {
		return r, fmt.Errorf("the process with %d identities: %w", o.identities, err)
	}
	return r, json.Unmarshal(output.Bytes(), &r)
}

// role is the process: it asks twice for each identity, so that each has a lease.
func role(ctx context.Context, address string) error {
	debug.SetGCPercent(50) // as the sidecar
	identities, err := strconv.Atoi(os.Getenv("IDENTITIES"))
	if err != nil {
		return err
	}
	window, err := time.ParseDuration(os.Getenv("WINDOW"))
	if err != nil {
		return err
	}
	s := &server{address: address}
	l, err := s.limiter(limiter.Options{})
	if err != nil {
		return err
	}
	defer l.Close()
	limit := ruleset.Limit{Requests: 3000, WindowMillis: window.Milliseconds()}
	take := func(identity string) error {
		_, err := l.Take(ctx, []limiter.Take{{
			Namespace: "bench", Service: "memory", Identity: identity, Limits: []ruleset.Limit{limit}, Sharers: sidecars,
		}})
		return err
	}
	if err := take("first"); err != nil { // connects
		return err
	}
	var r remembering
	if r.Before, err = residentNow(); err != nil {
		return err
	}
	for range 2 {
		var next atomic.Int64
		failures := make([]error, concurrency)
		var all sync.WaitGroup
		for i := range failures {
			all.Go(func() {
				for failures[i] == nil {
					n := next.Add(1)
					if n > int64(identities) {
						return
					}
					failures[i] = take("user-" + strconv.FormatInt(n, 10))
				}
			})
		}
		all.Wait()
		if err := errors.Join(failures...); err != nil {
			return err
		}
	}
	if r.Seen, err = residentNow(); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(window + window/4): // that all have left, and have been swept
	}
	if r.After, err = residentNow(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// residentNow is what this process holds: the heap in use after a collection,
// and what the kernel counts before it.
func residentNow() (r resident, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return r, err
	}
	for line := range strings.Lines(string(status)) {
		if kib, is := strings.CutPrefix(line, "VmRSS:"); is {
			if r.RSS, err = strconv.ParseFloat(strings.Fields(kib)[0], 64); err != nil {
				return r, err
			}
			r.RSS /= 1024
		}
	}
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	r.Heap = float64(stats.HeapAlloc) / (1 << 20)
	return r, nil
}
