package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

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
		text, err := json.MarshalIndent(letters, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(stdout, escaped(string(text)))
		return err
	}
	table := tabwriter.NewWriter(stdout, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "AT\tID\tTASK\tREASON\tERROR")
	for _, l := range letters {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%.100q\n", time.UnixMicro(int64(l.At*1e6)).UTC().Format(time.RFC3339), plain(l.ID), plain(l.Task), plain(l.Reason), l.Error)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(stdout, "%d of %d\n", len(letters), total)
	return err
}

// plain is a text as it is, or quoted where a terminal would obey or not show some of
// it.
func plain(text string) string {
	if quoted := strconv.Quote(text); quoted != `"`+text+`"` {
		return quoted
	}
	return text
}

// escaped is JSON in which a terminal obeys nothing, and shows all: what it would not
// is in texts only, where it may be escaped.
func escaped(text string) string {
	var shown strings.Builder
	for _, letter := range text {
		if letter == '\n' || unicode.IsPrint(letter) {
			shown.WriteRune(letter)
			continue
		}
		for _, unit := range utf16.Encode([]rune{letter}) {
			fmt.Fprintf(&shown, `\u%04x`, unit)
		}
	}
	return shown.String()
}
