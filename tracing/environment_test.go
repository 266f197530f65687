package tracing

import (
	"strings"
	"testing"
)

func TestEnvironment(t *testing.T) {
	t.Parallel()
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT"
	for _, c := range []struct {
		reason string
		env    map[string]string
		url    string // empty: no traces
		ratio  float64
		ignore bool
		says   string // of the error
	}{
		{reason: "nothing is set"},
		{reason: "a collector", env: map[string]string{endpoint: "http://c:4318"}, url: "http://c:4318/v1/traces", ratio: 1},
		{reason: "one for traces", env: map[string]string{endpoint: "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, url: "http://t/x", ratio: 1},
		{reason: "as the operator sets it", env: map[string]string{
			endpoint: "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
			"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01",
		}, url: "http://c:4318/v1/traces", ratio: 0.01},
		{reason: "all", env: map[string]string{endpoint: "http://c", "OTEL_TRACES_SAMPLER": "always_on"}, url: "http://c/v1/traces", ratio: 1, ignore: true},
		{reason: "none", env: map[string]string{endpoint: "http://c", "OTEL_TRACES_SAMPLER": "always_off"}, url: "http://c/v1/traces", ignore: true},
		{reason: "no SDK", env: map[string]string{endpoint: "http://c", "OTEL_SDK_DISABLED": "true"}},
		{reason: "no exporter", env: map[string]string{endpoint: "http://c", "OTEL_TRACES_EXPORTER": "none"}},
		{reason: "another exporter", env: map[string]string{endpoint: "http://c", "OTEL_TRACES_EXPORTER": "console"}, says: "OTEL_TRACES_EXPORTER"},
		{reason: "another protocol", env: map[string]string{endpoint: "http://c", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, says: "OTEL_EXPORTER_OTLP_PROTOCOL"},
		{reason: "no URL", env: map[string]string{endpoint: "c:4318"}, says: endpoint},
		{reason: "an unknown sampler", env: map[string]string{endpoint: "http://c", "OTEL_TRACES_SAMPLER": "jaeger_remote"}, says: "OTEL_TRACES_SAMPLER"},
		{reason: "no ratio", env: map[string]string{endpoint: "http://c", "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, says: "OTEL_TRACES_SAMPLER_ARG"},
		{reason: "headers that are none", env: map[string]string{endpoint: "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "s3cret"}, says: "OTEL_EXPORTER_OTLP_HEADERS"},
	} {
		o, on, err := FromEnvironment(func(name string) string { return c.env[name] }, "weir-worker")
		if (err != nil) != (c.says != "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: got the error %v, want one that says %q", c.reason, err, c.says)
			continue
		}
		if on != (c.url != "") || on && (o.Endpoint != c.url || o.Ratio != c.ratio || o.IgnoreParent != c.ignore) {
			t.Errorf("%s: got %v, %+v; want %s, ratio %v, whatever the parent: %v", c.reason, on, o, c.url, c.ratio, c.ignore)
		}
	}
}

func TestEnvironmentNamesTheServiceAndItsHeaders(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t%3D, x-tenant = a",
		"OTEL_RESOURCE_ATTRIBUTES": "team=a,service.name=theirs",
	}
	lookup := func(name string) string { return env[name] }
	o, _, err := FromEnvironment(lookup, "weir-worker")
	if err != nil || o.Header.Get("Authorization") != "Bearer t=" || o.Header.Get("X-Tenant") != "a" {
		t.Errorf("got the header %v and %v", o.Header, err)
	}
	service := func() string {
		o, _, _ := FromEnvironment(lookup, "weir-worker")
		for _, a := range o.Resource {
			if a.key == "service.name" {
				return a.text
			}
		}
		return ""
	}
	if got := service(); got != "theirs" {
		t.Errorf("the service is %q, want the attribute's", got)
	}
	env["OTEL_SERVICE_NAME"] = "mine"
	if got := service(); got != "mine" {
		t.Errorf("the service is %q, want that of OTEL_SERVICE_NAME", got)
	}
	env["OTEL_SERVICE_NAME"], env["OTEL_RESOURCE_ATTRIBUTES"] = "", ""
	if got := service(); got != "weir-worker" {
		t.Errorf("the service is %q, want ours", got)
	}
}
