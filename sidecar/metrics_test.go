package main

import (
	"log/slog"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/metricstable"
)

func TestAllMetricsAreInTheTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := wire(options{stateDir: dir, trustDir: dir, tokenFile: dir + "/token"},
		&ruleset.Bootstrap{Ruleset: ruleset.Ruleset{Namespace: "ns"}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.limiter.Close(); s.tls.Close() })
	metricstable.Check(t, "sidecar", s.registry)
}
