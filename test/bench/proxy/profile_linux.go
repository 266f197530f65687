package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// profiled is how long each profile is taken.
const profiled = 5 * time.Second

// profile writes, for both kinds of traffic and 64 connections, what perf
// recorded of the sidecar, and its report as text, into the options' folder.
func (s *stage) profile(ctx context.Context) error {
	if _, err := exec.LookPath("perf"); err != nil {
		return fmt.Errorf("profiling: %w: install the package linux-perf", err)
	}
	if err := os.MkdirAll(s.options.Profile, 0o755); err != nil {
		return err
	}
	// With its symbols, other than what is measured.
	if err := buildSidecar(ctx, filepath.Join(s.folder, "symbols"), ""); err != nil {
		return err
	}
	one := &side{name: "profiled weir", address: captured, command: s.sidecar("symbols"), ready: sidecarReady}
	for _, traffic := range []Traffic{Admitted, Refused} {
		if err := s.profileOne(ctx, one, traffic); err != nil {
			return fmt.Errorf("profiling, %s: %w", traffic, err)
		}
	}
	return nil
}

func (s *stage) profileOne(ctx context.Context, one *side, traffic Traffic) error {
	if err := s.store.FlushAll(ctx).Err(); err != nil {
		return fmt.Errorf("emptying Redis: %w", err)
	}
	sidecar, err := s.startSide(ctx, one, traffic)
	if err != nil {
		return err
	}
	defer sidecar.Kill()
	data := filepath.Join(s.options.Profile, "weir-"+string(traffic)+".data")
	var perf *running
	err = s.client.do(func() error {
		c, err := dial(one.address, 64, s.requests)
		if err != nil {
			return err
		}
		defer c.close()
		// The first time that the CPU times are read is when the warm-up is over.
		p := phase{client: c, traffic: traffic, length: profiled, read: func() (use cpuUse, err error) {
			if perf == nil {
				perf, err = s.start("perf", exec.Command("perf", "record", "-q", "-F", "997", "-g", "-p", strconv.Itoa(sidecar.pid), "-o", data))
			}
			return use, err
		}}
		if _, err := p.run(ctx); err != nil {
			return err
		}
		return c.failure
	})
	if err != nil {
		return err
	}
	if err := perf.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("perf ended before: %s", perf.said())
	}
	<-perf.Done()
	report := exec.CommandContext(ctx, "perf", "report", "--stdio", "--no-children", "-g", "none", "-i", data)
	text, err := report.Output()
	if err != nil {
		return errors.Join(err, errors.New(perf.said()))
	}
	return os.WriteFile(filepath.Join(s.options.Profile, "weir-"+string(traffic)+".txt"), text, 0o644)
}
