package manifests

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Traces is where spans of tasks are sent.
type Traces struct {
	// Endpoint is the base URL of a collector of OTLP over HTTP; empty: nowhere.
	Endpoint string
	// Ratio of the traces that begin at a task is recorded, 0 to 1.
	Ratio float64
}

// env is what every OpenTelemetry SDK reads, and our worker: where to, and what.
func (t Traces) env() (exporter, sampler []corev1.EnvVar) {
	if t.Endpoint == "" {
		return nil, nil
	}
	return []corev1.EnvVar{
			{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: t.Endpoint},
			{Name: "OTEL_EXPORTER_OTLP_PROTOCOL", Value: "http/protobuf"}, // some SDKs' own default is gRPC
		}, []corev1.EnvVar{
			{Name: "OTEL_TRACES_SAMPLER", Value: "parentbased_traceidratio"},
			{Name: "OTEL_TRACES_SAMPLER_ARG", Value: strconv.FormatFloat(t.Ratio, 'f', -1, 64)},
		}
}

// addTo has a worker trace, unless its template says anything of the same: half
// of ours and half of theirs would be neither. What envFrom sets is not known
// here, and would be hidden by ours.
func (t Traces) addTo(container *corev1.Container) {
	if len(container.EnvFrom) > 0 {
		return
	}
	exporter, sampler := t.env()
	if !setsAny(container, "OTEL_EXPORTER_OTLP_", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED") {
		container.Env = append(container.Env, exporter...)
	}
	if !setsAny(container, "OTEL_TRACES_SAMPLER") {
		container.Env = append(container.Env, sampler...)
	}
}

// setsAny says whether the container has a variable whose name begins so.
func setsAny(container *corev1.Container, prefixes ...string) bool {
	for _, e := range container.Env {
		for _, prefix := range prefixes {
			if strings.HasPrefix(e.Name, prefix) {
				return true
			}
		}
	}
	return false
}
