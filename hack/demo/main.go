// Command demo shows Weir's main job on one machine, with no cluster and no
// privileges: the real sidecar, with the rules of config/samples compiled by
// the operator's own code, holds two users' calls to four services. Redis is
// embedded and the services are stood for by local servers; the rest is what
// runs in a pod.
//
// It exits 0 only if every number is right.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"
)

func main() {
	samples := flag.String("samples", "config/samples", "folder with the RateLimitPolicies")
	asJSON := flag.Bool("json", os.Getenv("JSON") == "1", "print a JSON array of rows and nothing else")
	flag.Parse()

	if err := run(*samples, *asJSON, os.Stdout); err != nil {
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

// run sends the traffic, prints the rows and returns what was not as promised.
func run(samples string, asJSON bool, out io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	policies, err := readPolicies(samples)
	if err != nil {
		return err
	}
	pod, err := build(policies)
	if err != nil {
		return err
	}
	defer pod.close()

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
	if err := printRows(out, rows, asJSON); err != nil {
		return err
	}
	return errors.Join(wrong...)
}

func printRows(out io.Writer, rows []row, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
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
	return table.Flush()
}
