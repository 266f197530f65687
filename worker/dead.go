package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// deadCommand shows dead letters, puts them back, or deletes them.
func deadCommand(flags *flag.FlagSet, args []string, stdout io.Writer) error {
	if len(args) == 0 {
		return usageError{errors.New("usage: worker dead list|retry|delete --queue NAME [--id ID,…|--all]")}
	}
	var queue, ids string
	var all, asJSON bool
	var limit int
	flags.StringVar(&queue, "queue", "celery", "queue whose dead letters are meant")
	flags.StringVar(&ids, "id", "", "ids of messages, separated by commas")
	flags.BoolVar(&all, "all", false, "all of the queue's dead letters")
	flags.BoolVar(&asJSON, "json", false, "list as JSON, with the messages")
	flags.IntVar(&limit, "limit", 50, "how many to list, newest first")
	if err := parse(flags, args[1:]); err != nil {
		return err
	}
	if err := celery.CheckQueue(queue); err != nil {
		return usageError{fmt.Errorf("--queue: %w", err)}
	}
	if limit < 1 {
		return usageError{fmt.Errorf("--limit is %d: want 1 or more", limit)}
	}
	var chosen []string
	if ids != "" {
		chosen = strings.Split(ids, ",")
	}
	if args[0] != "list" && all == (len(chosen) > 0) {
		return usageError{fmt.Errorf("worker dead %s wants either --id or --all", args[0])}
	}
	broker, err := openBroker(celery.Options{})
	if err != nil {
		return err
	}
	defer func() { _ = broker.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	switch args[0] {
	case "list":
		letters, total, err := broker.DeadLetters(ctx, queue, limit)
		if err != nil {
			return err
		}
		return printLetters(stdout, letters, total, asJSON)
	case "retry":
		n, err := broker.Revive(ctx, queue, chosen...)
		fmt.Fprintf(stdout, "%d put back into %s\n", n, queue)
		return err
	case "delete":
		n, err := broker.Bury(ctx, queue, chosen...)
		fmt.Fprintf(stdout, "%d deleted\n", n)
		return err
	default:
		return usageError{fmt.Errorf("unknown command %q: there are list, retry and delete", args[0])}
	}
}

func printLetters(stdout io.Writer, letters []celery.DeadLetter, total int64, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(letters)
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "AT\tID\tTASK\tREASON\tERROR")
	for _, l := range letters {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.100q\n", time.UnixMicro(int64(l.At*1e6)).UTC().Format(time.RFC3339), l.ID, l.Task, l.Reason, l.Error)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "%d of %d\n", len(letters), total)
	return err
}
