package proxy

import (
	"errors"
	"fmt"
	"slices"
)

// key names what is measured once a round.
type key struct {
	side        string
	connections int
	traffic     Traffic
}

// figures of one round.
type figures struct {
	cpu, redis         float64 // microseconds a request
	rate               float64 // requests a second
	p50, p99           float64 // microseconds
	memory             Memory
	requests, failures int
}

// results are the figures of all rounds, in the order of their first.
type results struct {
	keys    []key
	rounds  map[key][]figures
	names   []string
	memory  map[string][]MemoryRow
	failure error // the first of any request
}

func newResults() *results {
	return &results{rounds: make(map[key][]figures), memory: make(map[string][]MemoryRow)}
}

func (r *results) add(k key, f figures, failure error) {
	if _, known := r.rounds[k]; !known {
		r.keys = append(r.keys, k)
	}
	r.rounds[k] = append(r.rounds[k], f)
	if r.failure == nil && failure != nil {
		r.failure = fmt.Errorf("%s, %d connections, %s: %w", k.side, k.connections, k.traffic, failure)
	}
}

func (r *results) addMemory(side string, m MemoryRow) {
	if _, known := r.memory[side]; !known {
		r.names = append(r.names, side)
	}
	r.memory[side] = append(r.memory[side], m)
}

// failures is an error when any request got not what was expected.
func (r *results) failures() error {
	failed := 0
	for _, rounds := range r.rounds {
		for _, f := range rounds {
			failed += f.failures
		}
	}
	if failed == 0 {
		return nil
	}
	return errors.Join(fmt.Errorf("%d requests failed, so the figures are not to be used", failed), r.failure)
}

// series is one figure in each round.
func (r *results) series(k key, of func(figures) float64) []float64 {
	values := make([]float64, 0, len(r.rounds[k]))
	for _, f := range r.rounds[k] {
		values = append(values, of(f))
	}
	return values
}

func cpuOf(f figures) float64 { return f.cpu }
func p50Of(f figures) float64 { return f.p50 }
func p99Of(f figures) float64 { return f.p99 }

// added is a latency less the direct one of the same round. It is nothing for
// refused requests: they do not reach the application, and direct ones do.
func (r *results) added(k key, of func(figures) float64) []float64 {
	if k.traffic == Refused {
		return nil
	}
	return pairs(r.series(k, of), r.series(key{direct, k.connections, k.traffic}, of), func(a, b float64) float64 { return a - b })
}

// pairs combines two series round by round; nothing when one is missing.
func pairs(a, b []float64, combine func(a, b float64) float64) []float64 {
	if len(a) != len(b) {
		return nil
	}
	combined := make([]float64, len(a))
	for i := range a {
		combined[i] = combine(a[i], b[i])
	}
	return combined
}

// ratio is the median of the rounds' ratios; 0 where it does not apply.
func ratio(a, b []float64) float64 {
	if len(b) == 0 || median(b) <= 0 {
		return 0
	}
	return middle(pairs(a, b, func(a, b float64) float64 { return a / b }))
}

// middle is the median; 0 of nothing.
func middle(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return median(values)
}

// bestHAProxy is the series of the number of threads that is better in it.
func bestHAProxy(k key, series func(key) []float64) []float64 {
	var best []float64
	for _, name := range haproxySides {
		one := series(key{name, k.connections, k.traffic})
		if len(one) > 0 && (best == nil || median(one) < median(best)) {
			best = one
		}
	}
	return best
}

// report computes the medians and ratios.
func (r *results) report() *Report {
	report := new(Report)
	for _, k := range r.keys {
		report.Rows = append(report.Rows, r.row(k))
		report.Rounds = max(report.Rounds, len(r.rounds[k]))
	}
	for _, side := range r.names {
		report.Memory = append(report.Memory, memoryRow(side, r.memory[side]))
	}
	return report
}

func (r *results) row(k key) Row {
	of := func(one func(figures) float64) float64 { return median(r.series(k, one)) }
	row := Row{
		Side: k.side, Connections: k.connections, Traffic: k.traffic,
		RequestsPerSecond: of(func(f figures) float64 { return f.rate }), P50Micros: of(p50Of), P99Micros: of(p99Of),
	}
	for _, f := range r.rounds[k] {
		row.Requests += f.requests
		row.Failures += f.failures
	}
	if k.side == direct {
		return row
	}
	cpu := func(k key) []float64 { return r.series(k, cpuOf) }
	addedP50 := func(k key) []float64 { return r.added(k, p50Of) }
	row.CPUMicros, row.CPUMicrosLeast, row.CPUMicrosMost = of(cpuOf), slices.Min(cpu(k)), slices.Max(cpu(k))
	row.CPUToHAProxy = ratio(cpu(k), bestHAProxy(k, cpu))
	row.CPUToNetHTTP = ratio(cpu(k), cpu(key{netHTTP, k.connections, k.traffic}))
	row.AddedP50Micros, row.AddedP99Micros = middle(addedP50(k)), middle(r.added(k, p99Of))
	row.AddedP50ToHAProxy = ratio(addedP50(k), bestHAProxy(k, addedP50))
	row.Memory = Memory{RSS: of(func(f figures) float64 { return f.memory.RSS }), Anonymous: of(func(f figures) float64 { return f.memory.Anonymous })}
	if k.side == weir || k.side == other {
		row.RedisCPUMicros = of(func(f figures) float64 { return f.redis })
	}
	return row
}

func memoryRow(side string, rounds []MemoryRow) MemoryRow {
	row := MemoryRow{Side: side}
	for _, at := range []func(*MemoryRow) *Memory{
		func(m *MemoryRow) *Memory { return &m.Idle },
		func(m *MemoryRow) *Memory { return &m.Open },
		func(m *MemoryRow) *Memory { return &m.Active },
	} {
		var rss, anonymous []float64
		for i := range rounds {
			rss, anonymous = append(rss, at(&rounds[i]).RSS), append(anonymous, at(&rounds[i]).Anonymous)
		}
		*at(&row) = Memory{RSS: median(rss), Anonymous: median(anonymous)}
	}
	return row
}
