package runner

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/worker/celery"
)

// value of a metric with these labels, name and value in turn; -1: there is none.
func value(t *testing.T, registry *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	metrics:
		for _, metric := range family.GetMetric() {
			for i := 0; i < len(labels); i += 2 {
				found := false
				for _, label := range metric.GetLabel() {
					found = found || label.GetName() == labels[i] && label.GetValue() == labels[i+1]
				}
				if !found {
					continue metrics
				}
			}
			switch {
			case metric.GetCounter() != nil:
				return metric.GetCounter().GetValue()
			case metric.GetGauge() != nil:
				return metric.GetGauge().GetValue()
			case metric.GetHistogram() != nil:
				return float64(metric.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	registry := prometheus.NewRegistry()
	release := make(chan struct{})
	w := s.start(Registry{
		"good": fails(nil), "bad": fails(errBoom),
		"long": func(context.Context, *Call) (any, error) { <-release; return nil, nil },
	}, func(c *Config) { c.Registerer = registry })
	for _, call := range []celery.Signature{{ID: "a", Task: "good"}, {ID: "b", Task: "bad"}, {ID: "c", Task: "long"}} {
		s.send(call)
	}
	s.waitResult("a", celery.Success)
	s.waitResult("b", celery.Failure)
	s.waitResult("c", celery.Started)
	for _, c := range []struct {
		name   string
		labels []string
		want   float64
	}{
		{"weir_worker_runs_total", []string{"task", "good", "result", "success"}, 1},
		{"weir_worker_runs_total", []string{"task", "bad", "result", "retry"}, 2},
		{"weir_worker_runs_total", []string{"task", "bad", "result", "failure"}, 1},
		{"weir_worker_run_duration_seconds", []string{"task", "bad"}, 3},
		{"weir_worker_not_run_total", []string{"queue", "q", "outcome", "retried"}, 2},
		{"weir_worker_not_run_total", []string{"queue", "q", "outcome", "exhausted"}, 1},
		{"weir_worker_restored_total", []string{"reason", "due"}, 2},
		{"weir_worker_broker_up", nil, 1},
	} {
		s.wait(c.name, func() bool { return value(t, registry, c.name, c.labels...) == c.want })
	}
	s.wait("one call to run", func() bool { return value(t, registry, "weir_worker_running") == 1 })
	close(release)
	s.waitResult("c", celery.Success)
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

func TestDepthAndAgeOfTheOldest(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	registry := prometheus.NewRegistry()
	m := newMetrics(registry, &Runner{broker: health{}})
	now := time.Now()
	look := func(at time.Time) {
		t.Helper()
		depths, err := s.broker.Depths(t.Context(), []string{"q"})
		if err != nil {
			t.Fatal(err)
		}
		m.show([]string{"q"}, depths, at)
	}
	expect := func(when string, waiting, oldest float64) {
		t.Helper()
		if got := value(t, registry, "weir_worker_queue_messages", "queue", "q"); got != waiting {
			t.Errorf("%s: %v wait, want %v", when, got, waiting)
		}
		if got := value(t, registry, "weir_worker_queue_oldest_seconds", "queue", "q"); got < oldest-5 || got > oldest+5 {
			t.Errorf("%s: the oldest is %v s old, want %v", when, got, oldest)
		}
	}
	look(now)
	expect("empty", 0, 0)
	s.send(celery.Signature{ID: "a", Task: "t"})
	s.send(celery.Signature{ID: "b", Task: "t", Priority: 9})
	look(now.Add(time.Minute))
	expect("ours say when they were enqueued", 2, 60)

	s.redis.Del(t.Context(), "q", "q\x06\x169")
	s.redis.LPush(t.Context(), "q", `{"body":"","headers":{"id":"c","task":"t"},"properties":{}}`)
	look(now.Add(time.Minute))
	expect("Celery's do not", 1, 0)
	look(now.Add(3 * time.Minute))
	expect("so they age from when they were first seen", 1, 120)
	s.redis.LPush(t.Context(), "weir.dead.q", "letter")
	look(now)
	if got := value(t, registry, "weir_worker_dead_letters", "queue", "q"); got != 1 {
		t.Errorf("%v dead letters, want 1", got)
	}
}
