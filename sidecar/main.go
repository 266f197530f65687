// Command sidecar holds the requests of the pod beside which it runs to the
// limits of the RateLimitPolicies that select the pod.
//
//	sidecar [run]     serves captured connections; what injection adds as a native sidecar
//	sidecar capture   leads the pod's connections to it, and ends; the init container
//	sidecar version   prints the version
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/weir-dev/weir/sidecar/capture"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// version is set when building: -ldflags "-X main.version=v1.2.3".
var version = "dev"

func main() {
	err := dispatch(os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "sidecar:", err)
		os.Exit(1)
	}
}

// gcPercent has garbage collected at half the growth that Go would wait for: a
// request leaves next to none, so that it saves memory in every pod and costs
// hardly any time.
const gcPercent = 50

// dispatch runs the subcommand that the arguments name.
func dispatch(args []string, stdout, stderr io.Writer) error {
	command := "run"
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	flags := flag.NewFlagSet("sidecar "+command, flag.ContinueOnError)
	flags.SetOutput(stderr)
	switch command {
	case "run":
		return runCommand(flags, args, stderr)
	case "capture":
		return captureCommand(flags, args, stdout)
	case "version":
		_, err := fmt.Fprintln(stdout, version)
		return err
	default:
		return fmt.Errorf("unknown command %q: run, capture and version are known", command)
	}
}

// parse reads flags and refuses what is left over.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: only flags are expected", flags.Arg(0))
	}
	return nil
}

// runCommand serves until a signal ends it.
func runCommand(flags *flag.FlagSet, args []string, stderr io.Writer) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	o := options{
		outboundPort: ruleset.OutboundPort, inboundPort: ruleset.InboundPort,
		localPort: ruleset.LocalPort, healthPort: ruleset.HealthPort,
	}
	portVar(flags, &o.outboundPort, "outbound-port", "port that accepts captured outbound connections")
	portVar(flags, &o.inboundPort, "inbound-port", "port that accepts captured inbound connections")
	portVar(flags, &o.localPort, "local-port", "port of the local API, on loopback only")
	portVar(flags, &o.healthPort, "health-port", "port of health and metrics, on the pod's address")
	flags.StringVar(&o.stateDir, "state-dir", ruleset.StateDir, "memory-backed directory that keeps the last Ruleset")
	flags.StringVar(&o.trustDir, "trust-dir", ruleset.TrustDir, "directory for what the pod's processes verify TLS with")
	flags.StringVar(&o.tokenFile, "token-file", ruleset.TokenFile, "projected service-account token for the operator")
	flags.StringVar(&o.auditFile, "audit-file", "", "file to record every admission in, for test/audit; empty: none is recorded")
	flags.DurationVar(&o.drainTimeout, "drain-timeout", 25*time.Second, "longest wait for requests in flight after SIGTERM")
	var level slog.Level
	flags.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	if err := parse(flags, args); err != nil {
		return err
	}
	bootstrap, err := readBootstrap(os.Getenv(ruleset.BootstrapEnv))
	if err != nil {
		return err
	}
	logger := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level}))
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	return run(o, bootstrap, logger, signals)
}

// captureCommand writes the nftables table of the pod's network namespace.
func captureCommand(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	c := capture.Config{
		UID: ruleset.UID, InboundPort: ruleset.InboundPort, OutboundPort: ruleset.OutboundPort,
	}
	flags.Func("inbound-ports", "captured inbound TCP ports, for example 8080,9000", portsInto(&c.InboundPorts))
	flags.Func("outbound-ports", "captured outbound TCP ports, for example 80,443", portsInto(&c.OutboundPorts))
	portVar(flags, &c.InboundPort, "inbound-port", "port where the sidecar accepts inbound connections")
	portVar(flags, &c.OutboundPort, "outbound-port", "port where the sidecar accepts outbound connections")
	flags.Func("uid", fmt.Sprintf("the sidecar's user, whose connections are not captured (default %d)", c.UID), func(text string) error {
		uid, err := strconv.ParseUint(text, 10, 32)
		c.UID = uint32(uid)
		return err
	})
	if err := parse(flags, args); err != nil {
		return err
	}
	if err := capture.Install(c); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "capturing inbound TCP ports %v and outbound TCP ports %v\n", c.InboundPorts, c.OutboundPorts)
	return err
}

// portVar defines a flag for one port; its default is what port holds.
func portVar(flags *flag.FlagSet, port *uint16, name, usage string) {
	flags.Func(name, fmt.Sprintf("%s (default %d)", usage, *port), func(text string) (err error) {
		*port, err = parsePort(text)
		return err
	})
}

// portsInto reads a list of ports; an empty one is no port.
func portsInto(ports *[]uint16) func(string) error {
	return func(text string) error {
		*ports = nil
		for part := range strings.SplitSeq(text, ",") {
			part = strings.TrimSpace(part)
			if part == "" {
				continue
			}
			port, err := parsePort(part)
			if err != nil {
				return err
			}
			*ports = append(*ports, port)
		}
		return nil
	}
}

func parsePort(text string) (uint16, error) {
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is not a port: 1 to 65535", text)
	}
	return uint16(port), nil
}

// readBootstrap decodes what injection stamped into the container.
func readBootstrap(encoded string) (*ruleset.Bootstrap, error) {
	if encoded == "" {
		return nil, fmt.Errorf("%s is not set: the sidecar is started by Weir's injection, which sets it", ruleset.BootstrapEnv)
	}
	b := new(ruleset.Bootstrap)
	if err := json.Unmarshal([]byte(encoded), b); err != nil {
		return nil, fmt.Errorf("reading %s: %w", ruleset.BootstrapEnv, err)
	}
	if b.Ruleset.Namespace == "" {
		return nil, fmt.Errorf("reading %s: its ruleset names no namespace", ruleset.BootstrapEnv)
	}
	return b, nil
}
