// Package judge finds from the records of many sidecars (sidecar/audit) whether
// a window of any quota was over its limit.
//
// # What is judged
//
// For a quota (caller, service, window w) and an instant x, the admissions of
// (x−w, x] must together cost at most the limit. Across edits that is the limit
// of the last grant among them: the last time that Redis counted for one of
// them. It counted all others then, and their limits, smaller or larger, were
// held when they were granted. An admission by Redis is its own grant.
//
// Admissions from a lease, or without Redis, have an earliest and a latest time.
// Violation is only what is one for every choice of times within these bounds, in
// two ways, so that a report is certain:
//
//   - Contained: all the bounds of too many lie in one window.
//   - Crowded: while a limit stays the same, let e₁ ≤ e₂ ≤ … be all earliest times
//     of units, in order, and l₁ ≤ l₂ ≤ … all latest. For any choice the i-th
//     admission is not before eᵢ, not before w after the (i−limit)-th, and not after lᵢ.
//     If nothing fits, no choice does.
//
// Where all admissions are Redis's own the times are points, and both are exact.
//
// # What is not the limiter's fault
//
// While Redis does not decide, sidecars admit from shares, and a window with such
// admissions may hold limit + sharers × share. Where Redis lost what it had
// acknowledged, as much is admitted again: see Options.Lost.
package judge

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/weir-dev/weir/sidecar/audit"
)

// Records of some sidecars, by quota.
type Records struct {
	quotas map[quota][]admission
	// services by the number in quota.
	services []string
	numbers  map[string]int32
	Gaps     []Gap
}

// Gap is what a file does not have, or may not.
type Gap struct {
	File string
	// Killed processes wrote no end: their records are complete up to the last
	// request that they answered.
	Killed int
	// Late: so often were requests answered before they were recorded.
	Late int
	// Lost records did not fit. Torn lines are no records, and not a process's last.
	Lost int64
	Torn int
}

// Complete reports whether every admission that was answered is recorded.
func (g Gap) Complete() bool { return g.Lost == 0 && g.Torn == 0 && (g.Killed == 0 || g.Late == 0) }

// quota is one caller's, of one window.
type quota struct {
	caller  uint64
	window  int64 // milliseconds
	service int32
}

// admission is a Record in few bytes: judges hold hours of them. Times are
// microseconds.
type admission struct {
	earliest int64
	width    int64
	// granted by Redis; of a share its latest time.
	granted     int64
	cost, limit int32
	sharers     int32
	source      audit.Source
}

func (a *admission) latest() int64 { return a.earliest + a.width }

// Read adds the records of a file.
func (r *Records) Read(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return r.add(name, text)
}

// ReadFrom adds records that are in no file.
func (r *Records) ReadFrom(name string, from io.Reader) error {
	text, err := io.ReadAll(from)
	if err != nil {
		return err
	}
	return r.add(name, text)
}

func (r *Records) add(name string, text []byte) error {
	if r.quotas == nil {
		r.quotas, r.numbers = map[quota][]admission{}, map[string]int32{}
	}
	// A line that is torn where a process was killed is of an admission that
	// nobody was told of.
	gap, open, torn := Gap{File: name}, false, 0
	for number := 1; len(text) > 0; number++ {
		line, rest, whole := bytes.Cut(text, []byte{'\n'})
		text = rest
		var record audit.Record
		if err := record.Parse(string(line)); err == nil && whole {
			r.keep(&record)
			gap.Torn, torn = gap.Torn+torn, 0
			continue
		}
		note, ok := audit.ParseNote(string(line))
		switch {
		case !ok && number == 1:
			return fmt.Errorf("reading %s: not a file of admissions", name)
		case len(line) == 0:
		case !ok || !whole:
			torn++
		case note.Begun && open:
			gap.Killed++
			torn = 0
		case note.Late:
			gap.Late++
		}
		open = note.Begun || open && !note.Ended
		gap.Lost += note.Lost
	}
	if open {
		gap.Killed++
	}
	r.Gaps = append(r.Gaps, gap)
	return nil
}

// Admitted is how many units of a service were recorded, by its limits of a window
// in milliseconds.
func (r *Records) Admitted(service string, window int64) (units int64) {
	number, known := r.numbers[service]
	for q, admissions := range r.quotas {
		if known && q.service == number && q.window == window {
			for i := range admissions {
				units += int64(admissions[i].cost)
			}
		}
	}
	return units
}

// record is what was kept of it.
func (r *Records) record(q quota, a *admission) audit.Record {
	record := audit.Record{
		Source: a.source, Granted: a.granted, Earliest: a.earliest, Latest: a.latest(), Cost: int64(a.cost),
		Limit: int64(a.limit), WindowMillis: q.window, Sharers: int64(a.sharers), Caller: q.caller, Service: r.services[q.service],
	}
	if a.source == audit.Share {
		record.Granted = 0
	}
	return record
}

func (r *Records) keep(record *audit.Record) {
	number, known := r.numbers[record.Service]
	if !known {
		number = int32(len(r.services))
		service := strings.Clone(record.Service)
		r.services = append(r.services, service)
		r.numbers[service] = number
	}
	q := quota{record.Caller, record.WindowMillis, number}
	a := admission{
		earliest: record.Earliest, width: record.Latest - record.Earliest, granted: record.Granted,
		cost: narrow(record.Cost), limit: narrow(record.Limit), sharers: narrow(record.Sharers), source: record.Source,
	}
	if a.source == audit.Share {
		a.granted = record.Latest
	}
	r.quotas[q] = append(r.quotas[q], a)
}

// narrow is exact for what the limiter allows, at most 10⁹.
func narrow(n int64) int32 { return int32(min(n, math.MaxInt32)) }
