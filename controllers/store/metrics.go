package store

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	accesses = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_operator_store_access",
		Help: "1 for what sidecars reach the store with: namespaced (a user of their namespace), shared (the user of the store's URL), or none.",
	}, []string{"access"})
	present = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_operator_store_users",
		Help: "Users of this cluster's namespaces that the store has.",
	})
	changes = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_operator_store_user_changes_total",
		Help: "Users that this replica made in the store (each server counts), or removed from it.",
	}, []string{"change"})
	failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "weir_operator_store_failures_total",
		Help: "Rounds, every two seconds, in which the operator could not look after the store's users.",
	})
	evicting = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_operator_store_evicts",
		Help: "1 when the store's maxmemory-policy lets it forget what was counted.",
	})
)

func init() {
	metrics.Registry.MustRegister(accesses, present, changes, failures, evicting)
	changes.WithLabelValues("made")
	changes.WithLabelValues("removed")
}

func record(next inForce) {
	for _, one := range []access{namespaced, shared, none} {
		value := 0.0
		if one == next.access {
			value = 1
		}
		accesses.WithLabelValues(string(one)).Set(value)
	}
}
