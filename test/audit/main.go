// Command audit judges from the records of many sidecars (sidecar run
// --audit-file=FILE) whether a window of any quota was over its limit.
//
//	go run ./test/audit [-shares] [-lost FROM,TO]... FILE...
//
// It prints how many were admitted, the fullest window, what records are missing,
// and each quota with a window that was surely over, with its records; then it
// ends with 1. How certain that is, and what the flags excuse, is in
// test/audit/judge.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/test/audit/judge"
)

func main() {
	over, err := run(os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "audit:", err)
		os.Exit(2)
	case over:
		os.Exit(1)
	}
}

func run(args []string, out, stderr io.Writer) (over bool, err error) {
	var options judge.Options
	flags := flag.NewFlagSet("audit", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&options.Shares, "shares", false, "allow limit + sharers × share in windows with admissions from shares")
	flags.Func("lost", "`FROM,TO` in microseconds of Redis's clock, between which Redis lost what it had acknowledged; repeatable", func(text string) error {
		var span judge.Span
		_, err := fmt.Sscanf(text, "%d,%d", &span.From, &span.To)
		options.Lost = append(options.Lost, span)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return false, err
	}
	if flags.NArg() == 0 {
		return false, fmt.Errorf("name the files that sidecars wrote to their --audit-file")
	}
	var records judge.Records
	for _, name := range flags.Args() {
		if err := records.Read(name); err != nil {
			return false, err
		}
	}
	verdict := records.Judge(options)
	report(out, &records, verdict)
	return len(verdict.Violations) > 0, nil
}

func report(out io.Writer, records *judge.Records, v judge.Verdict) {
	for _, gap := range records.Gaps {
		if !gap.Complete() {
			fmt.Fprintf(out, "incomplete: %s: %d records lost, %d times late with %d kills, %d torn lines\n",
				gap.File, gap.Lost, gap.Late, gap.Killed, gap.Torn)
		}
	}
	fmt.Fprintf(out, "admitted: %d by Redis, %d from leases, %d from shares; %d quotas; %d not judged for want of a time\n",
		v.Admitted[audit.Redis], v.Admitted[audit.Lease], v.Admitted[audit.Share], v.Quotas, v.Untimed)
	fmt.Fprintf(out, "fullest window: %s\n", describe(v.Fullest))
	if v.FullestExcused.Units > 0 {
		fmt.Fprintf(out, "fullest window around an outage or a loss: %s, at most %d are allowed\n", describe(v.FullestExcused), v.FullestExcused.Most)
	}
	fmt.Fprintf(out, "quotas with a window that was over: %d\n", len(v.Violations))
	for _, violation := range v.Violations {
		fmt.Fprintln(out, violation)
	}
}

func describe(w judge.Window) string {
	return fmt.Sprintf("%d of %d (%.1f %%)", w.Units, w.Limit, 100*w.Share())
}
