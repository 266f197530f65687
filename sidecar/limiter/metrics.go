package limiter

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	admitted, refused, failed prometheus.Observer
	leased, remembered        prometheus.Counter
	failures                  prometheus.Counter
	// locally decided, while Redis does not.
	admittedLocally, refusedLocally prometheus.Counter
	up, since                       prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	factory := promauto.With(registerer)
	duration := factory.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "weir_sidecar_take_duration_seconds",
		Help:    "Time of a decision in Redis, by its result: admitted, refused, or failed.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1},
	}, []string{"result"})
	alone := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_takes_without_redis_total",
		Help: "Decisions that needed no answer of Redis: admitted from a lease, or refused as before.",
	}, []string{"result"})
	locally := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_local_takes_total",
		Help: "Decisions of this sidecar's own share of a quota, because Redis did not decide and onStoreFailure is Local.",
	}, []string{"result"})
	return &metrics{
		admittedLocally: locally.WithLabelValues("admitted"),
		refusedLocally:  locally.WithLabelValues("refused"),
		leased:          alone.WithLabelValues("admitted"),
		remembered:      alone.WithLabelValues("refused"),
		admitted:        duration.WithLabelValues("admitted"),
		refused:         duration.WithLabelValues("refused"),
		failed:          duration.WithLabelValues("failed"),
		failures: factory.NewCounter(prometheus.CounterOpts{
			Name: "weir_sidecar_store_failures_total",
			Help: "Decisions that Redis did not make within the store timeout, or was not asked for because it made none before.",
		}),
		up: factory.NewGauge(prometheus.GaugeOpts{
			Name: "weir_sidecar_store_up",
			Help: "1 when Redis answers, 0 when it does not or no store is known.",
		}),
		since: factory.NewGauge(prometheus.GaugeOpts{
			Name: "weir_sidecar_store_away_since_timestamp_seconds",
			Help: "Unix time since which Redis does not answer; 0 while it does or no store is known.",
		}),
	}
}

// remember counts a take that the memory decided.
func (m *metrics) remember(admitted bool) {
	if admitted {
		m.leased.Inc()
	} else {
		m.remembered.Inc()
	}
}

// away says since when Redis does not answer; zero: it does.
func (m *metrics) away(since time.Time) {
	if since.IsZero() {
		m.up.Set(1)
		m.since.Set(0)
		return
	}
	m.up.Set(0)
	m.since.Set(float64(since.Unix()))
}

// decideLocally counts a take that was decided without Redis.
func (m *metrics) decideLocally(admitted bool) {
	if admitted {
		m.admittedLocally.Inc()
	} else {
		m.refusedLocally.Inc()
	}
}

// observe counts a take. One whose caller gave up says nothing of the store.
func (m *metrics) observe(duration time.Duration, admitted bool, err error) {
	switch {
	case errors.Is(err, ErrStore):
		m.failures.Inc()
		m.failed.Observe(duration.Seconds())
	case err != nil:
	case admitted:
		m.admitted.Observe(duration.Seconds())
	default:
		m.refused.Observe(duration.Seconds())
	}
}
