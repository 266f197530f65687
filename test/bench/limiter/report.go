package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Report is what a run found.
type Report struct {
	Processors int `json:"processors"`
	Rounds     int `json:"rounds"`
	// Sides through Redis.
	Sides   []SideRow `json:"sides"`
	Figures []Figure  `json:"figures"`
}

// SideRow is one side's medians; ratios are to the plain script's, round by round.
type SideRow struct {
	Side          string  `json:"side"`
	Limit         int64   `json:"limit"`
	WindowSeconds float64 `json:"windowSeconds"`
	// TakesPerSecond of 64 at the same time.
	TakesPerSecond float64 `json:"takesPerSecond"`
	RateRatio      float64 `json:"rateRatio"`
	// CallsATake are those of scripts that Redis counted: below 1 where several
	// takes share a call, since no take was decided without Redis.
	CallsATake     float64 `json:"callsATake"`
	RedisCPUMicros float64 `json:"redisCpuMicros"`
	// P50Micros and P99Micros of one at a time; 0: not measured.
	P50Micros float64 `json:"p50Micros"`
	P50Ratio  float64 `json:"p50Ratio"`
	P99Micros float64 `json:"p99Micros"`
	P99Ratio  float64 `json:"p99Ratio"`

	rates []float64
}

// Figure is one line of the table of aims. AtMost, AtLeast or None are the aim,
// if there is one.
type Figure struct {
	What    string  `json:"what"`
	Value   float64 `json:"value"`
	Unit    string  `json:"unit,omitempty"`
	AtMost  float64 `json:"atMost,omitempty"`
	AtLeast float64 `json:"atLeast,omitempty"`
	None    bool    `json:"none,omitempty"`
}

func (f Figure) aim() string {
	switch {
	case f.None:
		return "0"
	case f.AtMost > 0:
		return fmt.Sprintf("≤ %g", f.AtMost)
	case f.AtLeast > 0:
		return fmt.Sprintf("≥ %g", f.AtLeast)
	}
	return ""
}

func (f Figure) met() string {
	if f.None && f.Value > 0 || f.AtMost > 0 && f.Value > f.AtMost || f.Value < f.AtLeast {
		return "missed"
	}
	return ""
}

// Table prints the report for people.
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintf(out, "through Redis, medians of %d rounds, %d processors for Redis and all clients\n\n", r.Rounds, r.Processors)
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "side\tlimit\ttakes/s\tratio\tcalls a take\tRedis CPU µs\tp50 µs alone\tratio\tp99 µs\tratio\t")
	for _, s := range r.Sides {
		fmt.Fprintf(table, "%s\t%d in %gs\t%.0f\t%.2f\t%.3f\t%.1f\t", s.Side, s.Limit, s.WindowSeconds, s.TakesPerSecond, s.RateRatio, s.CallsATake, s.RedisCPUMicros)
		if s.P50Micros > 0 {
			fmt.Fprintf(table, "%.0f\t%.2f\t%.0f\t%.2f\t\n", s.P50Micros, s.P50Ratio, s.P99Micros, s.P99Ratio)
		} else {
			fmt.Fprintln(table, "\t\t\t\t")
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	table = tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "what\taim\tmeasured\t")
	for _, f := range r.Figures {
		fmt.Fprintf(table, "%s\t%s\t%.4g %s\t%s\n", f.What, f.aim(), f.Value, f.Unit, f.met())
	}
	return table.Flush()
}
