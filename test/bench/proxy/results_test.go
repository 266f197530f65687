package proxy

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// find returns the row of a key.
func find(t *testing.T, report *Report, k key) Row {
	t.Helper()
	for _, row := range report.Rows {
		if (key{row.Side, row.Connections, row.Traffic}) == k {
			return row
		}
	}
	t.Fatalf("the report has no row for %+v", k)
	return Row{}
}

// expect compares figures that arithmetic made.
func expect(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > 1e-9 {
		t.Errorf("%s is %v, expected %v", what, got, want)
	}
}

func TestReportComparesRoundByRoundWithTheBetterHAProxy(t *testing.T) {
	t.Parallel()
	all := newResults()
	add := func(side string, traffic Traffic, cpu, p50 float64) {
		all.add(key{side, 64, traffic}, figures{cpu: cpu, p50: p50, p99: 2 * p50, requests: 10}, nil)
	}
	// The machine is twice as slow in the second round, and three times in the third.
	for _, slow := range []float64{1, 2, 3} {
		add(direct, Admitted, 0, 10*slow)
		add(weir, Admitted, 30*slow, 40*slow)
		add(weir, Refused, 9*slow, 5*slow)
		add(haproxySides[0], Admitted, 20*slow, 40*slow) // better in CPU time
		add(haproxySides[1], Admitted, 25*slow, 30*slow) // better in latency
		add(haproxySides[0], Refused, 6*slow, 5*slow)
		add(netHTTP, Admitted, 60*slow, 70*slow)
	}
	report := all.report()
	row := find(t, report, key{weir, 64, Admitted})
	expect(t, "the median CPU time", row.CPUMicros, 60)
	expect(t, "the least", row.CPUMicrosLeast, 30)
	expect(t, "the most", row.CPUMicrosMost, 90)
	expect(t, "the ratio to HAProxy's CPU time", row.CPUToHAProxy, 1.5)
	expect(t, "the ratio to net/http's", row.CPUToNetHTTP, 0.5)
	expect(t, "what is added to the median latency", row.AddedP50Micros, 60)
	expect(t, "the ratio to what HAProxy adds", row.AddedP50ToHAProxy, 1.5)
	expect(t, "what is added to the 99th percentile", row.AddedP99Micros, 120)
	if row.Requests != 30 || report.Rounds != 3 {
		t.Errorf("%d requests of %d rounds, expected 30 of 3", row.Requests, report.Rounds)
	}
	refused := find(t, report, key{weir, 64, Refused})
	expect(t, "the ratio to HAProxy's CPU time for a refusal", refused.CPUToHAProxy, 1.5)
	expect(t, "what is added to a refusal, with which no direct request compares", refused.AddedP50Micros, 0)
	expect(t, "the CPU time of no proxy", find(t, report, key{direct, 64, Admitted}).CPUMicros, 0)
}

func TestFailedRequestsAreAnErrorThatSaysWhere(t *testing.T) {
	t.Parallel()
	all := newResults()
	all.add(key{direct, 1, Admitted}, figures{}, nil)
	if err := all.failures(); err != nil {
		t.Errorf("without failures: %v", err)
	}
	all.add(key{weir, 64, Admitted}, figures{failures: 2}, errors.New("the first"))
	all.add(key{weir, 64, Admitted}, figures{failures: 1}, errors.New("another"))
	err := all.failures()
	if err == nil || !strings.Contains(err.Error(), "3 requests failed") || !strings.Contains(err.Error(), "weir, 64 connections, admitted: the first") {
		t.Errorf("got %v, expected 3 failures and the first of them", err)
	}
	if row := find(t, all.report(), key{weir, 64, Admitted}); row.Failures != 3 {
		t.Errorf("the row has %d failures, expected 3", row.Failures)
	}
}

func TestMemoryIsTheMedianOfTheRounds(t *testing.T) {
	t.Parallel()
	all := newResults()
	for _, mib := range []float64{3, 1, 2} {
		all.addMemory(weir, MemoryRow{Idle: Memory{mib, mib / 2}, Open: Memory{10 * mib, mib}, Active: Memory{20 * mib, mib}})
	}
	want := MemoryRow{Side: weir, Idle: Memory{2, 1}, Open: Memory{20, 2}, Active: Memory{40, 2}}
	if got := all.report().Memory; len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, expected %+v", got, want)
	}
}
