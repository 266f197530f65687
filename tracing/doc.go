// Package tracing records spans of some requests and tasks, and sends them to
// an OpenTelemetry collector: W3C Trace Context for what travels between
// processes, OTLP over HTTP in protobuf for what is sent. It is what the
// sidecar and the worker need of an OpenTelemetry SDK, at a small part of its
// size.
//
// Nothing here ever waits for the collector but Shutdown: spans that find no
// place in the queue are not recorded, and counted.
//
// What a span may hold is bounded and decided by the caller: no identity, no
// credential, no query, no error's text.
package tracing
