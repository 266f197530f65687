package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// decision is what became of a request at one policy.
type decision int

const (
	// admitted: taken from the quota and forwarded.
	admitted decision = iota
	// limited: refused, because this policy's quota is used up. A request that
	// another policy refused is counted there alone: nothing was taken here.
	limited
	// observed: a policy in mode Observe would have refused it. What such a
	// policy would have let pass counts as admitted.
	observed
	// bypassed: passed uncounted by the policy's own rule: ifMissing Bypass,
	// or an override without limits.
	bypassed
	// rejected: refused because nobody was named and ifMissing is Reject.
	rejected
	// unavailable: refused, because the store did not answer and
	// onStoreFailure is Deny.
	unavailable
	// uncounted: the store did not answer, and the request passed this policy
	// without being counted.
	uncounted
	decisions
)

var decisionNames = [decisions]string{
	admitted: "admitted", limited: "limited", observed: "observed", bypassed: "bypassed",
	rejected: "rejected", unavailable: "unavailable", uncounted: "uncounted",
}

// Kinds of connections that pass without being read.
const (
	kindTLS    = "tls"
	kindOpaque = "opaque"
)

type metrics struct {
	requests *prometheus.CounterVec
	passed   *prometheus.CounterVec
	// unseen connections, by policy.
	unseen   *prometheus.CounterVec
	upstream *prometheus.CounterVec
	// malformed requests, and connections beyond maxSessions.
	malformed, refused *prometheus.CounterVec
	wait               waitMetrics
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_sidecar_requests_total",
			Help: "Requests that met a policy, by what it decided; a request that meets several policies counts at each that decided on it.",
		}, []string{"direction", "policy", "service", "decision"}),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_sidecar_passed_connections_total",
			Help: "Connections relayed without reading them: tls, or opaque for other protocols than HTTP.",
		}, []string{"direction", "kind"}),
		upstream: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_sidecar_upstream_errors_total",
			Help: "Requests and connections whose destination could not be reached or did not answer.",
		}, []string{"direction"}),
	}
	m.malformed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_malformed_requests_total",
		Help: "Requests refused because their head or framing is ambiguous, too large or too slow.",
	}, []string{"direction"})
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_refused_connections_total",
		Help: "Connections reset because the sidecar holds as many as it may.",
	}, []string{"direction"})
	m.unseen = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_sidecar_unseen_connections_total",
		Help: "Connections over TLS and tunnels to a host of a policy, whose requests were not seen and not counted: tls is Passthrough, they could not be intercepted (weir_sidecar_tls_connections_total says why), or what is in the tunnel is neither HTTP nor TLS.",
	}, []string{"policy", "service"})
	m.wait = newWaitMetrics(r)
	r.MustRegister(m.unseen, m.requests, m.passed, m.upstream, m.malformed, m.refused)
	for _, d := range []ruleset.Direction{ruleset.Inbound, ruleset.Outbound} {
		m.upstream.WithLabelValues(string(d))
		m.malformed.WithLabelValues(string(d))
		m.refused.WithLabelValues(string(d))
		m.passed.WithLabelValues(string(d), kindTLS)
		m.passed.WithLabelValues(string(d), kindOpaque)
	}
	return m
}

// follow gives the policies of next their counters and deletes the series of
// policies that are gone.
func (m *metrics) follow(old, next *table) {
	m.wait.follow(old, next)
	type key struct{ direction, policy, service string }
	keyOf := func(p *policy) key { return key{string(p.Direction), p.Name, p.Service} }
	kept := make(map[key]bool, len(next.policies))
	for _, p := range next.policies {
		k := keyOf(p)
		kept[k] = true
		p.unseen = m.unseen.WithLabelValues(k.policy, k.service)
		for d, name := range decisionNames {
			p.counters[d] = m.requests.WithLabelValues(k.direction, k.policy, k.service, name)
		}
	}
	for _, p := range old.policies {
		if k := keyOf(p); !kept[k] {
			m.unseen.DeleteLabelValues(k.policy, k.service)
			m.requests.DeletePartialMatch(prometheus.Labels{
				"direction": k.direction, "policy": k.policy, "service": k.service,
			})
		}
	}
}
