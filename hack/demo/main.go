// Command demo shows Weir's main job on one machine, with no cluster and no
// privileges: the real sidecar, with the rules of config/samples compiled by
// the operator's own code, holds two users' calls to four services; then the
// real worker runs a task of config/samples, from two users' chats to their
// profiles. Redis is embedded and the services are stood for by local servers;
// the rest is what runs in a pod.
//
// It exits 0 only if every number is right. With HOLD=1 the users go on calling and
// the worker working, with the page before them, until it is interrupted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
)

func main() {
	samples := flag.String("samples", "config/samples", "folder with the RateLimitPolicies and the PeriodicTask")
	asJSON := flag.Bool("json", os.Getenv("JSON") == "1", "print a JSON array of rows and nothing else")
	hold := flag.Bool("hold", os.Getenv("HOLD") == "1", "then serve the page until it is interrupted; needs KUBEBUILDER_ASSETS")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *samples, *asJSON, *hold, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// row is what became of one user's calls to one service.
type row struct {
	Service  string `json:"service"`
	User     string `json:"user"`
	Sent     int    `json:"sent"`
	Admitted int    `json:"admitted"`
	Limited  int    `json:"limited"`
	// RetryAfterSeconds is the first refusal's Retry-After; 0 without one.
	RetryAfterSeconds int `json:"retryAfterSeconds"`
}

// run sends the traffic, prints the rows and returns what was not as promised; then
// it may hold the stage until ctx ends.
func run(ctx context.Context, samples string, asJSON, hold bool, out io.Writer) error {
	policies, err := readPolicies(samples)
	if err != nil {
		return err
	}
	task, err := readTask(samples)
	if err != nil {
		return err
	}
	pod, err := build(policies)
	if err != nil {
		return err
	}
	defer pod.close()
	if err := pod.show(ctx, policies, task, asJSON, out); err != nil || !hold {
		return err
	}
	return pod.hold(ctx, samples, policies, task)
}

// show sends so many calls, runs the task once, and prints what came of it.
func (pod *stage) show(ctx context.Context, policies []v1alpha1.RateLimitPolicy, task *v1alpha1.PeriodicTask, asJSON bool, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var rows []row
	var wrong []error
	for i := range policies {
		policy := &policies[i]
		limit := int(policy.Spec.Limits[0].Requests)
		// The first asks for half as much again as it may, the second for half.
		for user, sent := range []int{limit + limit/2, limit / 2} {
			got, err := pod.call(ctx, policy, fmt.Sprintf("user-%d", user+1), sent)
			if err != nil {
				return fmt.Errorf("calling %s: %w", policy.ServiceName(), err)
			}
			rows = append(rows, got.row)
			wrong = append(wrong, got.check(min(sent, limit), policy.Spec.Limits[0].Window.Duration))
		}
		wrong = append(wrong, pod.checkUpstream(policy))
	}
	workers, err := employ(pod.redis.Addr(), task)
	if err != nil {
		return err
	}
	profiles, err := runTask(ctx, workers)
	wrong = append(wrong, err, workers.stop())
	if err := printRows(out, rows, profiles, asJSON); err != nil {
		return err
	}
	return errors.Join(wrong...)
}

func printRows(out io.Writer, rows []row, profiles []taskRow, asJSON bool) error {
	if asJSON {
		all := make([]any, 0, len(rows)+len(profiles))
		for _, r := range rows {
			all = append(all, r)
		}
		for _, p := range profiles {
			all = append(all, p)
		}
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(all)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "SERVICE\tUSER\tSENT\tADMITTED\tLIMITED\tFIRST RETRY-AFTER")
	for _, r := range rows {
		retryAfter := "-"
		if r.RetryAfterSeconds > 0 {
			retryAfter = fmt.Sprintf("%ds", r.RetryAfterSeconds)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%s\n", r.Service, r.User, r.Sent, r.Admitted, r.Limited, retryAfter)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintln(table, "TASK\tUSER\tLABEL\tMESSAGES")
	for _, p := range profiles {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\n", p.Task, p.User, p.Label, p.MessagesAnalyzed)
	}
	return table.Flush()
}
