// Command bench measures Weir beside others on one machine, in one run, the
// sides interleaved. Figures of different runs are not to be compared; ratios
// are.
//
//	bench tasks    no-op tasks a second, and memory, beside Celery's own worker
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

func main() {
	if len(os.Args) != 2 || os.Args[1] != "tasks" {
		fmt.Fprintln(os.Stderr, "usage: bench tasks (JSON=1 prints JSON)")
		os.Exit(2)
	}
	rows, err := benchTasks(os.Stderr)
	if err == nil {
		err = report(os.Stdout, rows, os.Getenv("JSON") == "1")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row is one side's medians.
type row struct {
	Side string `json:"side"`
	// TasksPerSecond, and how many times the first side's that is.
	TasksPerSecond float64 `json:"tasksPerSecond"`
	Ratio          float64 `json:"ratio"`
	// CPUMicros a task, of the worker's processes and of Redis.
	CPUMicros      float64 `json:"cpuMicros"`
	RedisCPUMicros float64 `json:"redisCpuMicros"`
	// MemoryMiB is the proportional set size of all of the worker's processes,
	// after the tasks.
	MemoryMiB   float64 `json:"memoryMiB"`
	MemoryRatio float64 `json:"memoryRatio"`
	Rounds      int     `json:"rounds"`
}

func report(out io.Writer, rows []row, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(rows)
	}
	table := tabwriter.NewWriter(out, 0, 0, 3, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "side\ttasks/s\tratio\tCPU µs a task\tRedis CPU µs a task\tMiB\tratio\t")
	for _, r := range rows {
		fmt.Fprintf(table, "%s\t%.0f\t%.2f\t%.0f\t%.0f\t%.1f\t%.2f\t\n",
			r.Side, r.TasksPerSecond, r.Ratio, r.CPUMicros, r.RedisCPUMicros, r.MemoryMiB, r.MemoryRatio)
	}
	return table.Flush()
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
