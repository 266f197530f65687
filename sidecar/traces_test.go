package main

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/collector"
	"github.com/weir-dev/weir/tracing"
)

// An edit of where spans go is obeyed without a restart, and what was recorded
// before it is not lost.
func TestTracesFollowTheRuleset(t *testing.T) {
	t.Parallel()
	first, second := collector.Start(t), collector.Start(t)
	var log strings.Builder
	var recorder *tracing.Tracer
	made := 0
	s := &traces{
		trace:   func(tracer *tracing.Tracer) { recorder, made = tracer, made+1 },
		metrics: tracing.NewMetrics(prometheus.NewRegistry(), "test"), logger: slog.New(slog.NewTextHandler(&log, nil)),
	}
	t.Cleanup(s.close)
	for _, step := range []struct {
		reason string
		wanted *ruleset.Tracing
		on     bool
		made   int
	}{
		{"none are wanted", nil, false, 0},
		{"to the first", &ruleset.Tracing{Endpoint: first.URL, Ratio: 1}, true, 1},
		{"an edit of something else", &ruleset.Tracing{Endpoint: first.URL, Ratio: 1}, true, 1},
		{"to the second", &ruleset.Tracing{Endpoint: second.URL, Ratio: 1}, true, 2},
		{"to nowhere that is known", &ruleset.Tracing{Endpoint: "collector:4318", Ratio: 1}, false, 3},
		{"at a ratio that is none", &ruleset.Tracing{Endpoint: first.URL, Ratio: 2}, false, 4},
		{"of none", &ruleset.Tracing{Endpoint: first.URL}, true, 5},
		{"none any more", nil, false, 6},
	} {
		s.use(&ruleset.Ruleset{Namespace: "bondhu", Tracing: step.wanted})
		if (recorder != nil) != step.on || made != step.made {
			t.Errorf("%s: records: %v, after %d changes; want %v, after %d", step.reason, recorder != nil, made, step.on, step.made)
		}
		_, span := recorder.Start(tracing.Context{}, tracing.Server, step.reason)
		span.End()
	}
	if spans := first.Wait(2); spans[0].Name != "to the first" || spans[0].Resource["service.name"] != "weir-sidecar" ||
		spans[0].Resource["k8s.namespace.name"] != "bondhu" || spans[0].Resource["service.version"] != version {
		t.Errorf("got %+v", spans)
	}
	if spans := second.Wait(1); spans[0].Name != "to the second" {
		t.Errorf("got %+v", spans)
	}
	if got := strings.Count(log.String(), "no traces are recorded"); got != 2 {
		t.Errorf("said %d times that no traces are recorded, want twice: %s", got, log.String())
	}
}
