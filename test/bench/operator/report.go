package operator

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a run found. Durations are in milliseconds.
type Report struct {
	Policies   int            `json:"policies"`
	Pods       int            `json:"pods"`
	Namespaces int            `json:"namespaces"`
	Processors int            `json:"processors"`
	Phases     []PhaseRow     `json:"phases"`
	Edits      []EditRow      `json:"edits"`
	Admissions []AdmissionRow `json:"admissions"`
	Restart    *Restart       `json:"restart,omitempty"`
}

// PhaseRow is what the operator took meanwhile.
type PhaseRow struct {
	Phase   string  `json:"phase"`
	Seconds float64 `json:"seconds"`
	// CPUSeconds of the operator; Resident at the end, and at most, in MiB.
	CPUSeconds  float64 `json:"cpuSeconds"`
	ResidentMiB float64 `json:"residentMiB"`
	PeakMiB     float64 `json:"peakMiB"`
	// Calls to the API server by verb and resource; a watch counts when it ends.
	Calls map[string]int `json:"calls"`
	// A minute.
	CallsPerMinute        float64 `json:"callsPerMinute"`
	TokenReviewsPerMinute float64 `json:"tokenReviewsPerMinute"`
}

// EditRow is of edits of one policy: until the last sidecar had it in force,
// and until the status said so.
type EditRow struct {
	Sidecars      int     `json:"sidecars"`
	Edits         int     `json:"edits"`
	EnforcedP50   float64 `json:"enforcedP50"`
	EnforcedP99   float64 `json:"enforcedP99"`
	ProgrammedP50 float64 `json:"programmedP50"`
	ProgrammedP99 float64 `json:"programmedP99"`
}

// AdmissionRow is of admissions one after the other.
type AdmissionRow struct {
	How        string  `json:"how"`
	Admissions int     `json:"admissions"`
	P50        float64 `json:"p50"`
	P99        float64 `json:"p99"`
}

// Restart is what followed when the operator was killed and started again with
// every sidecar connected; seconds since the start.
type Restart struct {
	Ready float64 `json:"readySeconds"`
	// Answered is when the requests of all sidecars were held.
	Answered float64 `json:"answeredSeconds"`
	// Edit is an edit made as soon as the operator was ready: until the last of
	// its sidecars had it in force, and until the status said so.
	EditEnforced   float64 `json:"editEnforcedSeconds"`
	EditProgrammed float64 `json:"editProgrammedSeconds"`
	EditSidecars   int     `json:"editSidecars"`
	// Doubts are statuses that meanwhile said less than that all is enforced, but
	// for the edited policy's. There should be none.
	Doubts []string `json:"doubts"`
}

// Table prints the report for people.
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintf(out, "%d policies and %d pods in %d namespaces, %d processors for everything\n\n", r.Policies, r.Pods, r.Namespaces, r.Processors)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "phase\ts\toperator's CPU s\tMiB\tat most\tAPI calls a min\tTokenReviews a min\t")
	for _, p := range r.Phases {
		fmt.Fprintf(table, "%s\t%.1f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\t\n", p.Phase, p.Seconds, p.CPUSeconds, p.ResidentMiB, p.PeakMiB, p.CallsPerMinute, p.TokenReviewsPerMinute)
	}
	fmt.Fprintln(table, "\t\t\t\t\t\t\t\nedits, ms\tenforced p50\tp99\tsaid in status p50\tp99\tedits\t\t")
	for _, e := range r.Edits {
		fmt.Fprintf(table, "%d sidecars\t%.0f\t%.0f\t%.0f\t%.0f\t%d\t\t\n", e.Sidecars, e.EnforcedP50, e.EnforcedP99, e.ProgrammedP50, e.ProgrammedP99, e.Edits)
	}
	fmt.Fprintln(table, "\t\t\t\t\t\t\t\nadmissions, ms\tp50\tp99\tadmissions\t\t\t\t")
	for _, a := range r.Admissions {
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%d\t\t\t\t\n", a.How, a.P50, a.P99, a.Admissions)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, p := range r.Phases {
		var named []string
		for _, name := range slices.Sorted(maps.Keys(p.Calls)) {
			named = append(named, fmt.Sprintf("%s %d", name, p.Calls[name]))
		}
		fmt.Fprintf(out, "\n%s: %s", p.Phase, strings.Join(named, ", "))
	}
	if s := r.Restart; s != nil {
		fmt.Fprintf(out, "\n\nkilled and started again: ready after %.1f s, all sidecars answered after %.1f s; an edit of %d sidecars made when ready took %.1f s to be enforced, %.1f s to be said; %d statuses flapped\n",
			s.Ready, s.Answered, s.EditSidecars, s.EditEnforced, s.EditProgrammed, len(s.Doubts))
	}
	return nil
}

// quantile in milliseconds: the least value that at least that share is not above.
func quantile(values []time.Duration, share float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return milliseconds(sorted[max(0, int(math.Ceil(share*float64(len(sorted))))-1)])
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
