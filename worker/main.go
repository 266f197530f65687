// Command worker runs tasks from Celery's queues, and enqueues the occurrences
// of PeriodicTasks.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/weir-dev/weir/worker/celery"
)

// version is set by the build.
var version = "dev"

const usage = `usage: worker COMMAND [flags]

  run      take tasks from queues and run them, until SIGTERM
  enqueue  enqueue one call of a task, once for each Job
  dead     list | retry | delete dead letters of a queue

Every command reads the broker's URL from CELERY_BROKER_URL; -h lists its flags.
`

// Exit codes.
const (
	exitOK = iota
	// exitFailed: the same command may succeed later.
	exitFailed
	// exitUsage: it never will; the command itself is wrong.
	exitUsage
)

// usageError is the caller's mistake.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() { os.Exit(command(os.Args[1:], os.Stdout, os.Stderr)) }

// command runs one command and returns the exit code.
func command(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return exitUsage
	}
	flags := flag.NewFlagSet("worker "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	var err error
	switch args[0] {
	case "run":
		err = runCommand(flags, args[1:], stderr)
	case "enqueue":
		err = enqueueCommand(flags, args[1:], stdout, stderr)
	case "dead":
		err = deadCommand(flags, args[1:], stdout)
	case "version":
		fmt.Fprintln(stdout, version)
	case "help", "-h", "--help":
		fmt.Fprint(stdout, usage)
	default:
		err = usageError{fmt.Errorf("unknown command %q\n%s", args[0], usage)}
	}
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case isUsage(err):
		fmt.Fprintln(stderr, "worker:", err)
		return exitUsage
	default:
		fmt.Fprintln(stderr, "worker:", err)
		return exitFailed
	}
}

func isUsage(err error) bool {
	_, is := errors.AsType[usageError](err)
	return is
}

// parse reads flags and refuses what is left over.
func parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected argument %q: only flags are expected", flags.Arg(0))}
	}
	return nil
}

// openBroker reads the broker's URL from where Celery has it.
func openBroker(o celery.Options) (*celery.Broker, error) {
	url := strings.TrimSpace(os.Getenv("CELERY_BROKER_URL"))
	if url == "" {
		return nil, usageError{errors.New("CELERY_BROKER_URL is not set: it holds the broker's URL, redis://host:port/db")}
	}
	o.KeyPrefix = os.Getenv("CELERY_GLOBAL_KEYPREFIX")
	broker, err := celery.Open(url, o)
	if err != nil {
		return nil, usageError{fmt.Errorf("reading CELERY_BROKER_URL: %w", err)}
	}
	return broker, nil
}
