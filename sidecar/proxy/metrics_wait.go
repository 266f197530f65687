package proxy

import (
	"github.com/prometheus/client_golang/prometheus"
)

// ending is how a wait ended.
type ending int

const (
	// endedForwarded: there was a slot; or no store any more, and the policies
	// allow that.
	endedForwarded ending = iota
	// endedRefused: the time or the hope for a slot in time has passed, or an
	// edit refuses the request.
	endedRefused
	// endedCancelled: the client went away, or the sidecar was cut.
	endedCancelled
	endings
)

var endingNames = [endings]string{
	endedForwarded: "forwarded", endedRefused: "refused", endedCancelled: "cancelled",
}

// waitMetrics are those of policies that hold requests; others have none.
type waitMetrics struct {
	waiting   *prometheus.GaugeVec
	seconds   *prometheus.HistogramVec
	overflows *prometheus.CounterVec
}

func newWaitMetrics(r prometheus.Registerer) waitMetrics {
	m := waitMetrics{
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_sidecar_waiting_requests",
			Help: "Requests held until there is a slot, by the policy whose slot they wait for.",
		}, []string{"direction", "policy", "service"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "weir_sidecar_wait_seconds",
			Help:    "How long requests were held, by how that ended: forwarded, refused after all, or cancelled with the client.",
			Buckets: []float64{.01, .1, .5, 1, 2.5, 5, 10, 30, 60, 150, 300},
		}, []string{"direction", "policy", "service", "ending"}),
		overflows: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_sidecar_wait_overflows_total",
			Help: "Requests refused at once because too many waited: of one caller (bound policy: maxWaiting), or in the sidecar (bound sidecar).",
		}, []string{"direction", "policy", "service", "bound"}),
	}
	r.MustRegister(m.waiting, m.seconds, m.overflows)
	return m
}

// follow gives the policies of next that wait their series, and deletes those
// of policies that do no longer.
func (m *waitMetrics) follow(old, next *table) {
	kept := map[[3]string]bool{}
	for _, p := range next.policies {
		if p.Wait == nil {
			continue
		}
		k := [3]string{string(p.Direction), p.Name, p.Service}
		kept[k] = true
		p.waiting = m.waiting.WithLabelValues(k[:]...)
		for e, name := range endingNames {
			p.waits[e] = m.seconds.WithLabelValues(append(k[:], name)...)
		}
		p.overflows = map[bound]prometheus.Counter{}
		for _, b := range []bound{boundPolicy, boundSidecar} {
			p.overflows[b] = m.overflows.WithLabelValues(append(k[:], string(b))...)
		}
	}
	for _, p := range old.policies {
		k := [3]string{string(p.Direction), p.Name, p.Service}
		if p.Wait == nil || kept[k] {
			continue
		}
		gone := prometheus.Labels{"direction": k[0], "policy": k[1], "service": k[2]}
		m.waiting.DeletePartialMatch(gone)
		m.seconds.DeletePartialMatch(gone)
		m.overflows.DeletePartialMatch(gone)
	}
}
