package tracing

import (
	collector "go.opentelemetry.io/proto/slim/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/slim/otlp/common/v1"
	resource "go.opentelemetry.io/proto/slim/otlp/resource/v1"
	trace "go.opentelemetry.io/proto/slim/otlp/trace/v1"
)

// scopeName is whose spans they are.
const scopeName = "github.com/weir-dev/weir"

// request is a batch as OTLP has it.
func request(about []Attribute, batch []*Span) *collector.ExportTraceServiceRequest {
	spans := make([]*trace.Span, len(batch))
	for i, s := range batch {
		spans[i] = s.encode()
	}
	return &collector.ExportTraceServiceRequest{ResourceSpans: []*trace.ResourceSpans{{
		Resource:   &resource.Resource{Attributes: encodeAttributes(about)},
		ScopeSpans: []*trace.ScopeSpans{{Scope: &common.InstrumentationScope{Name: scopeName}, Spans: spans}},
	}}}
}

// encode is for spans that have ended, which nobody changes any more.
func (s *Span) encode() *trace.Span {
	out := &trace.Span{
		TraceId: s.context.TraceID[:], SpanId: s.context.SpanID[:], TraceState: s.context.State,
		Flags: uint32(s.context.Flags) | uint32(trace.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK),
		Name:  s.name, Kind: trace.Span_SpanKind(s.kind),
		StartTimeUnixNano: uint64(s.start.UnixNano()), EndTimeUnixNano: uint64(s.end.UnixNano()),
		Attributes: encodeAttributes(s.attributes),
	}
	if s.parent != [8]byte{} {
		out.ParentSpanId = s.parent[:]
	}
	if s.remote {
		out.Flags |= uint32(trace.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	}
	for _, e := range s.events {
		out.Events = append(out.Events, &trace.Span_Event{
			Name: e.name, TimeUnixNano: uint64(e.at.UnixNano()), Attributes: encodeAttributes(e.attributes),
		})
	}
	if s.failed {
		out.Status = &trace.Status{Code: trace.Status_STATUS_CODE_ERROR}
	}
	return out
}

func encodeAttributes(attributes []Attribute) []*common.KeyValue {
	out := make([]*common.KeyValue, len(attributes))
	for i := range attributes {
		a := &attributes[i]
		value := &common.AnyValue{}
		switch a.kind {
		case isText:
			value.Value = &common.AnyValue_StringValue{StringValue: a.text}
		case isNumber:
			value.Value = &common.AnyValue_IntValue{IntValue: a.number}
		case isFlag:
			value.Value = &common.AnyValue_BoolValue{BoolValue: a.number != 0}
		}
		out[i] = &common.KeyValue{Key: a.key, Value: value}
	}
	return out
}
