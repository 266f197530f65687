package intercept

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	connections map[Outcome]prometheus.Counter
}

func newMetrics(r prometheus.Registerer, earliest func() (time.Time, bool)) (*metrics, error) {
	connections := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_tls_connections_total",
		Help: "Outbound TLS connections, by what became of them: intercepted, rejected by the client, or passed unseen for the reason named. Those intercepted that the client ended without a request count as unused, too.",
	}, []string{"outcome"})
	for _, c := range []prometheus.Collector{connections, &expiry{earliest: earliest}} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering the interceptor's metrics: %w", err)
		}
	}
	m := &metrics{connections: map[Outcome]prometheus.Counter{}}
	for _, o := range outcomes {
		m.connections[o] = connections.WithLabelValues(string(o))
	}
	return m, nil
}

// count counts a connection; an outcome that is none of ours is not counted.
func (m *metrics) count(o Outcome) {
	if c, ok := m.connections[o]; ok {
		c.Inc()
	}
}

// expiry is a gauge that is absent while there is no leaf.
type expiry struct {
	earliest func() (time.Time, bool)
}

var expiryDesc = prometheus.NewDesc("weir_sidecar_tls_leaf_expiry_seconds",
	"Unix time at which the first of the leaves expires that connections are intercepted with.", nil, nil)

func (e *expiry) Describe(descs chan<- *prometheus.Desc) { descs <- expiryDesc }

func (e *expiry) Collect(metrics chan<- prometheus.Metric) {
	if at, ok := e.earliest(); ok {
		metrics <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, float64(at.Unix()))
	}
}
