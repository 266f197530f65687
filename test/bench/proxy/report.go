package proxy

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Report is what a run found.
type Report struct {
	// Rounds that the medians are of; Processors of the machine.
	Rounds     int `json:"rounds"`
	Processors int `json:"processors"`
	// Others is how many processors everything that is not of the run kept busy
	// meanwhile, and Stolen how many the hypervisor gave to others: with much of
	// either the figures are too high, and the ratios uncertain.
	Others   float64           `json:"othersProcessors"`
	Stolen   float64           `json:"stolenProcessors"`
	Versions map[string]string `json:"versions"`
	Rows     []Row             `json:"rows"`
	// Memory of the proxies.
	Memory []MemoryRow `json:"memory"`
}

// Row has the medians of one side, number of connections and traffic. What does
// not apply is absent.
type Row struct {
	Side        string  `json:"side"`
	Connections int     `json:"connections"`
	Traffic     Traffic `json:"traffic"`
	// CPUMicros a request, of the proxy's process, and their range.
	CPUMicros      float64 `json:"cpuMicros,omitempty"`
	CPUMicrosLeast float64 `json:"cpuMicrosLeast,omitempty"`
	CPUMicrosMost  float64 `json:"cpuMicrosMost,omitempty"`
	// RedisCPUMicros a request are beside those.
	RedisCPUMicros float64 `json:"redisCpuMicros,omitempty"`
	// CPUToHAProxy and CPUToNetHTTP are how many times theirs CPUMicros is,
	// medians of the rounds' ratios.
	CPUToHAProxy float64 `json:"cpuToHAProxy,omitempty"`
	CPUToNetHTTP float64 `json:"cpuToNetHTTP,omitempty"`
	// RequestsPerSecond with the client, the application and Redis on the same processors.
	RequestsPerSecond float64 `json:"requestsPerSecond"`
	P50Micros         float64 `json:"p50Micros"`
	P99Micros         float64 `json:"p99Micros"`
	// AddedP50Micros and AddedP99Micros are over the direct side's of the same
	// round and connections; refused requests have none, since no direct one ends
	// as early.
	AddedP50Micros    float64 `json:"addedP50Micros,omitempty"`
	AddedP99Micros    float64 `json:"addedP99Micros,omitempty"`
	AddedP50ToHAProxy float64 `json:"addedP50ToHAProxy,omitempty"`
	// Memory when the requests have just ended, the connections still open.
	Memory
	// Requests that were measured, in all rounds, and those of all that got not
	// what was expected.
	Requests int `json:"requests"`
	Failures int `json:"failures"`
}

// MemoryRow has the medians of one side's memory.
type MemoryRow struct {
	Side string `json:"side"`
	// Idle: just ready. Open: 1,000 connections have made a request each, 64 at
	// a time, after the phases of fewer connections. Active: just after all
	// 1,000 were busy.
	Idle   Memory `json:"idle"`
	Open   Memory `json:"open1000"`
	Active Memory `json:"active1000"`
}

// Memory of a process in MiB.
type Memory struct {
	// RSS is resident, Anonymous the part of it that is no file's.
	RSS       float64 `json:"rssMiB"`
	Anonymous float64 `json:"anonymousMiB"`
}

// Table prints the report for people.
func (r *Report) Table(out io.Writer) error {
	fmt.Fprintf(out, "Medians of %d rounds; %s, %s, %s, %s.\n", r.Rounds,
		r.Versions["haproxy"], r.Versions["redis"], r.Versions["go"], r.Versions["kernel"])
	fmt.Fprintf(out, "Of %d processors, others kept %.2f busy meanwhile, and the hypervisor took %.2f.\n\n", r.Processors, r.Others, r.Stolen)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "side\tconns\ttraffic\tCPU µs\trange\tof haproxy\tof net/http\tRedis µs\treq/s\tp50 µs\tp99 µs\tadded p50\tof haproxy\tadded p99\tRSS MiB\tfailed\t")
	for _, row := range r.Rows {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f\t%.0f\t%.0f\t%s\t%s\t%s\t%s\t%d\t\n",
			row.Side, row.Connections, row.Traffic, number("%.1f", row.CPUMicros), span(row.CPUMicrosLeast, row.CPUMicrosMost),
			number("%.2f", row.CPUToHAProxy), number("%.2f", row.CPUToNetHTTP), number("%.1f", row.RedisCPUMicros),
			row.RequestsPerSecond, row.P50Micros, row.P99Micros, number("%.0f", row.AddedP50Micros),
			number("%.2f", row.AddedP50ToHAProxy), number("%.0f", row.AddedP99Micros), number("%.1f", row.RSS), row.Failures)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	fmt.Fprintf(table, "memory, MiB\tidle\tanonymous\t%[1]d open\tanonymous\t%[1]d active\tanonymous\t\n", many)
	for _, row := range r.Memory {
		fmt.Fprintf(table, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t\n", row.Side, row.Idle.RSS, row.Idle.Anonymous,
			row.Open.RSS, row.Open.Anonymous, row.Active.RSS, row.Active.Anonymous)
	}
	return table.Flush()
}

// number prints what applies.
func number(format string, value float64) string {
	if value == 0 {
		return "-"
	}
	return fmt.Sprintf(format, value)
}

func span(least, most float64) string {
	if most == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f-%.1f", least, most)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
