package tracing

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// FromEnvironment reads the variables that OpenTelemetry gives every SDK; lookup
// is os.Getenv. on is false where they ask for no traces: as Weir's are off
// until somebody names a collector, that is so too without an endpoint. An error
// names the variable; it asks for no traces, and is no reason to do no work.
func FromEnvironment(lookup func(string) string, service string) (o Options, on bool, err error) {
	get := func(name string) string { return strings.TrimSpace(lookup(name)) }
	// What is said of traces goes before what is said of everything.
	exporter := func(name string) (variable, value string) {
		variable = "OTEL_EXPORTER_OTLP_TRACES_" + name
		if value = get(variable); value == "" {
			variable = "OTEL_EXPORTER_OTLP_" + name
			value = get(variable)
		}
		return variable, value
	}
	variable, endpoint := exporter("ENDPOINT")
	if endpoint == "" || strings.EqualFold(get("OTEL_SDK_DISABLED"), "true") || get("OTEL_TRACES_EXPORTER") == "none" {
		return o, false, nil
	}
	o.Endpoint, err = endpoint, checkURL(endpoint)
	if err == nil && variable == "OTEL_EXPORTER_OTLP_ENDPOINT" {
		o.Endpoint, err = TracesURL(endpoint)
	}
	if err != nil {
		return o, false, fmt.Errorf("%s: %w", variable, err)
	}
	if variable, protocol := exporter("PROTOCOL"); protocol != "" && protocol != "http/protobuf" {
		return o, false, fmt.Errorf("%s is %.64q: only http/protobuf is spoken", variable, protocol)
	}
	if name := get("OTEL_TRACES_EXPORTER"); name != "" && name != "otlp" {
		return o, false, fmt.Errorf("OTEL_TRACES_EXPORTER is %.64q: want otlp or none", name)
	}
	variable, header := exporter("HEADERS")
	if o.Header, err = readHeader(header); err != nil {
		return o, false, fmt.Errorf("%s: %w", variable, err)
	}
	if err := o.readSampler(get("OTEL_TRACES_SAMPLER"), get("OTEL_TRACES_SAMPLER_ARG")); err != nil {
		return o, false, err
	}
	pairs, err := readPairs(get("OTEL_RESOURCE_ATTRIBUTES"))
	if err != nil {
		return o, false, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	for _, pair := range pairs {
		if pair[0] == "service.name" {
			service = pair[1]
			continue
		}
		o.Resource = append(o.Resource, Text(pair[0], pair[1]))
	}
	o.Resource = append(o.Resource, Text("service.name", cmp.Or(get("OTEL_SERVICE_NAME"), service)))
	return o, true, nil
}

// readSampler obeys the samplers that every SDK has.
func (o *Options) readSampler(sampler, argument string) error {
	name, parentBased := strings.CutPrefix(cmp.Or(sampler, "parentbased_always_on"), "parentbased_")
	o.IgnoreParent = !parentBased
	switch name {
	case "always_on":
		o.Ratio = 1
	case "always_off":
		o.Ratio = 0
	case "traceidratio":
		ratio, err := strconv.ParseFloat(cmp.Or(argument, "1"), 64)
		if err != nil || !(ratio >= 0 && ratio <= 1) {
			return fmt.Errorf("OTEL_TRACES_SAMPLER_ARG is %.64q: want a ratio, 0 to 1", argument)
		}
		o.Ratio = ratio
	default:
		return fmt.Errorf("OTEL_TRACES_SAMPLER is %.64q: want always_on, always_off or traceidratio, with or without parentbased_", sampler)
	}
	return nil
}

// readHeader reads a list of fields. Its errors do not show it: there are
// credentials in it.
func readHeader(list string) (http.Header, error) {
	pairs, err := readPairs(list)
	header := http.Header{}
	for _, pair := range pairs {
		header.Set(pair[0], pair[1])
	}
	return header, err
}

var errPairs = errors.New("want name=value,name=value, with values percent-encoded")

// readPairs reads a list as W3C Baggage has it, without properties.
func readPairs(list string) ([][2]string, error) {
	var pairs [][2]string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, value, ok := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || name == "" || err != nil || len(pairs) == maxAttributes {
			return nil, errPairs
		}
		pairs = append(pairs, [2]string{name, value})
	}
	return pairs, nil
}
