// Command h2spec runs all cases of h2spec against a server of HTTP/2 in clear,
// strict ones included, and writes their results to a file as a JSON array.
//
//	h2spec [-timeout 2s] [-cases http2/4.2/1,hpack] -results FILE HOST:PORT
//
// It is h2spec as a library: its own program's report has no case's number.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// result of a case.
type result struct {
	// ID is the section and the case's number in it, as http2/4.2/1.
	ID          string `json:"id"`
	Description string `json:"description"`
	Skipped     bool   `json:"skipped,omitempty"`
	// Failure is empty of a case that passed.
	Failure string `json:"failure,omitempty"`
}

func main() {
	var c config.Config
	var cases, file string
	flag.DurationVar(&c.Timeout, "timeout", 2*time.Second, "bounds each wait of a case")
	flag.StringVar(&cases, "cases", "", "run only these, separated by commas")
	flag.StringVar(&file, "results", "", "where to write the results")
	flag.Parse()
	if err := run(&c, cases, file, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "h2spec:", err)
		os.Exit(1)
	}
}

func run(c *config.Config, cases, file, address string) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("reading the server's address: %w", err)
	}
	if c.Port, err = strconv.Atoi(port); err != nil {
		return fmt.Errorf("reading the server's port: %w", err)
	}
	c.Host, c.Path, c.MaxHeaderLen, c.Strict = host, "/", 4000, true
	if cases != "" {
		c.Sections = strings.Split(cases, ",")
	}
	var results []result
	for _, group := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		group.Test(c) // which ends the process when the server does not accept
		results = append(results, resultsOf(group)...)
	}
	encoded, err := json.Marshal(results)
	if err != nil {
		return err
	}
	return os.WriteFile(file, encoded, 0o600)
}

func resultsOf(group *spec.TestGroup) []result {
	var results []result
	for _, c := range append(group.Tests, group.StrictTests...) {
		if c.Result == nil {
			continue // not asked for
		}
		r := result{ID: fmt.Sprintf("%s/%d", group.ID(), c.Result.Sequence), Description: c.Desc, Skipped: c.Result.Skipped}
		if c.Result.Failed {
			r.Failure = c.Result.Error.Error()
		}
		results = append(results, r)
	}
	for _, below := range group.Groups {
		results = append(results, resultsOf(below)...)
	}
	return results
}
