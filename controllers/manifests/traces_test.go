package manifests

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAWorkersOwnTracesAreLeftAlone(t *testing.T) {
	t.Parallel()
	traces := Traces{Endpoint: "http://collector:4318", Ratio: 0.5}
	const all = "OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_PROTOCOL OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG"
	for _, test := range []struct {
		reason string
		traces Traces
		own    string
		from   bool // envFrom
		adds   string
	}{
		{"nobody collects", Traces{}, "", false, ""},
		{"all of ours", traces, "", false, all},
		{"a name for the service is no exporter", traces, "OTEL_SERVICE_NAME", false, all},
		{"an exporter of their own", traces, "OTEL_EXPORTER_OTLP_PROTOCOL", false, "OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG"},
		{"no exporter", traces, "OTEL_TRACES_EXPORTER", false, "OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG"},
		{"a sampler of their own", traces, "OTEL_TRACES_SAMPLER", false, "OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_PROTOCOL"},
		{"what envFrom sets is not known", traces, "", true, ""},
	} {
		container := corev1.Container{}
		if test.own != "" {
			container.Env = []corev1.EnvVar{{Name: test.own, Value: "theirs"}}
		}
		if test.from {
			container.EnvFrom = []corev1.EnvFromSource{{}}
		}
		test.traces.addTo(&container)
		var added []string
		for _, e := range container.Env {
			switch {
			case e.Name != test.own:
				added = append(added, e.Name)
			case e.Value != "theirs":
				t.Errorf("%s: %s was replaced", test.reason, e.Name)
			}
		}
		if got := strings.Join(added, " "); got != test.adds {
			t.Errorf("%s: adds %q, want %q", test.reason, got, test.adds)
		}
	}
}
