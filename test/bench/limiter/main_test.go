package main

import (
	"os"
	"testing"
	"time"
)

// TestMain is the process that remember starts, when it is.
func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestBench keeps make bench PART=limiter alive: a run of a few seconds, in which
// no window may be over.
func TestBench(t *testing.T) {
	report, err := run(t.Context(), options{
		rounds: 1, takes: 2000, window: 2 * time.Second, duration: 5 * time.Second, users: 4, identities: 1000,
	}, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Table(t.Output()); err != nil {
		t.Fatal(err)
	}
	for _, side := range report.Sides {
		if side.Side == weir && (side.CallsATake <= 0 || side.CallsATake > 1) {
			t.Errorf("%g calls of Redis a take, want at most 1, and some", side.CallsATake)
		}
	}
}
