package tracing

import "github.com/prometheus/client_golang/prometheus"

// Why spans were not sent, or not taken.
const (
	// droppedFull: too many wait to be sent.
	droppedFull = "queue_full"
	// droppedUnreachable: the collector did not answer, again and again.
	droppedUnreachable = "unreachable"
	// droppedRefused: the collector did not want them.
	droppedRefused = "refused"
	// droppedEnded: they ended after the sending had.
	droppedEnded = "ended"
)

// Metrics count what becomes of spans. They outlive Tracers.
type Metrics struct {
	exported prometheus.Counter
	dropped  *prometheus.CounterVec
}

// NewMetrics registers the metrics of a part of Weir, PREFIX_spans_….
func NewMetrics(r prometheus.Registerer, prefix string) *Metrics {
	m := &Metrics{
		exported: prometheus.NewCounter(prometheus.CounterOpts{
			Name: prefix + "_spans_exported_total", Help: "Spans that the OpenTelemetry collector took.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: prefix + "_spans_dropped_total",
			Help: "Spans that the OpenTelemetry collector did not get: queue_full (it is too slow, or away), unreachable, refused (by the collector), ended (with the process, or an edit).",
		}, []string{"reason"}),
	}
	for _, reason := range []string{droppedFull, droppedUnreachable, droppedRefused, droppedEnded} {
		m.dropped.WithLabelValues(reason)
	}
	r.MustRegister(m.exported, m.dropped)
	return m
}

func (m *Metrics) export(spans int64) {
	if m != nil {
		m.exported.Add(float64(spans))
	}
}

func (m *Metrics) drop(reason string, spans int64) {
	if m != nil {
		m.dropped.WithLabelValues(reason).Add(float64(spans))
	}
}
