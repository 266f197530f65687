package certs

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var (
	certificateExpiry = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "weir_operator_certificate_expiry_seconds",
		Help: "Unix time at which the operator's certificate expires: the serving certificate, or the authority that signs it.",
	}, []string{"certificate"})
	authorityExpiry = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_operator_interception_authority_expiry_seconds",
		Help: "Unix time at which the first of the authorities expires that sign what sidecars intercept with; 0 without any.",
	})
	authorityNamespaces = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_operator_interception_namespaces",
		Help: "Namespaces that have an authority to intercept with.",
	})
	authoritiesChanged = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_operator_interception_authority_changes_total",
		Help: "Authorities to intercept with that this replica made (first, hosts, rotation, lost) or removed (expired, too_many), by reason.",
	}, []string{"reason"})
)

func init() {
	metrics.Registry.MustRegister(certificateExpiry, authorityExpiry, authorityNamespaces, authoritiesChanged)
}

// recordExpiry of the serving certificate, and of the authorities' first.
func recordExpiry(serving *x509.Certificate, authorities ...*x509.Certificate) {
	first := slices.MinFunc(authorities, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	certificateExpiry.WithLabelValues("serving").Set(float64(serving.NotAfter.Unix()))
	certificateExpiry.WithLabelValues("authority").Set(float64(first.NotAfter.Unix()))
}

func recordAuthorities(all map[string]known) {
	var first time.Time
	for _, one := range all {
		if newest := one.newest(); newest != nil && (first.IsZero() || newest.NotAfter.Before(first)) {
			first = newest.NotAfter
		}
	}
	authorityNamespaces.Set(float64(len(all)))
	if first.IsZero() {
		authorityExpiry.Set(0)
	} else {
		authorityExpiry.Set(float64(first.Unix()))
	}
}
