package certs

import (
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
)

var certificateExpiry = prometheus.NewGaugeVec(prometheus.GaugeOpts{
	Name: "weir_operator_certificate_expiry_seconds",
	Help: "Unix time at which the operator's certificate expires: the serving certificate, or the authority that signs it.",
}, []string{"certificate"})

func init() {
	metrics.Registry.MustRegister(certificateExpiry)
}

func recordExpiry(current material) {
	certificateExpiry.WithLabelValues("serving").Set(float64(current.serving.cert.NotAfter.Unix()))
	certificateExpiry.WithLabelValues("authority").Set(float64(current.signer.cert.NotAfter.Unix()))
}
