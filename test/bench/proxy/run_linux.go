package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/weir-dev/weir/test/child"
)

// Run measures. It returns a Report also with the error that requests failed.
// It starts this program again in a network namespace of its own, the pod,
// where everything else is started; all of it ends with that process, and that
// one with this.
func Run(ctx context.Context, options Options, progress io.Writer) (*Report, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root: run the part proxy as root")
	}
	encoded, err := json.Marshal(options)
	if err != nil {
		return nil, err
	}
	command, err := (*stage)(nil).role("stage", string(encoded))
	if err != nil {
		return nil, err
	}
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, progress
	// A group of its own: an interruption reaches it once, from here.
	command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Setpgid: true}
	pod, err := child.Start(command)
	if err != nil {
		return nil, fmt.Errorf("starting in a network namespace: %w", err)
	}
	defer pod.Kill()
	select {
	case <-pod.Done():
	case <-ctx.Done():
		_ = pod.Signal(syscall.SIGTERM) // or it has ended
		select {
		case <-pod.Done():
		case <-time.After(patience):
		}
		return nil, errors.New("interrupted")
	}
	if output.Len() == 0 {
		return nil, fmt.Errorf("nothing was measured: %w", pod.Err())
	}
	report := new(Report)
	if err := json.Unmarshal(output.Bytes(), report); err != nil {
		return nil, fmt.Errorf("reading the report: %w", err)
	}
	if err := pod.Err(); err != nil {
		return report, fmt.Errorf("requests failed: %w", err)
	}
	return report, nil
}

// Role runs this program as one of the processes that Run needs, until ctx ends.
func Role(ctx context.Context, arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("no role is named")
	}
	role, arguments := arguments[0], arguments[1:]
	switch {
	case role == "stage" && len(arguments) == 1:
		return perform(ctx, arguments[0])
	case role == "reverse" && len(arguments) == 2:
		return serveReverse(ctx, arguments[0], arguments[1])
	case role == "application":
		var addresses []netip.AddrPort
		for _, argument := range arguments {
			address, err := netip.ParseAddrPort(argument)
			if err != nil {
				return fmt.Errorf("the application's address %q: %w", argument, err)
			}
			addresses = append(addresses, address)
		}
		return serveApplication(ctx, addresses...)
	}
	return fmt.Errorf("unknown role %q", role)
}

// perform is the process of the pod: it measures and writes the Report as JSON.
func perform(ctx context.Context, encoded string) error {
	var options Options
	if err := json.Unmarshal([]byte(encoded), &options); err != nil {
		return fmt.Errorf("reading the options: %w", err)
	}
	s, err := newStage(ctx, options, os.Stderr)
	if err != nil {
		return err
	}
	defer s.close()
	before, err := s.machine()
	if err != nil {
		return err
	}
	all, err := s.measure(ctx)
	if err != nil {
		return err
	}
	after, err := s.machine()
	if err != nil {
		return err
	}
	if options.Profile != "" {
		if err := s.profile(ctx); err != nil {
			return err
		}
	}
	report := all.report()
	report.Processors = runtime.NumCPU()
	report.Others, report.Stolen = after.since(before)
	if report.Versions, err = s.versions(ctx); err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(report), all.failures())
}
