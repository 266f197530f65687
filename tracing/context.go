package tracing

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
)

// Context is what of a span travels: the parent of the spans that follow. The
// zero value is none.
type Context struct {
	TraceID [16]byte
	SpanID  [8]byte
	// Flags of W3C Trace Context, level 2.
	Flags byte
	// State is the tracestate beside them, as it came; it may be a part of the
	// caller's buffer.
	State string
}

// Flags of a traceparent.
const (
	flagSampled = 1 << iota
	// flagRandom: the trace's id was chosen at random.
	flagRandom
)

const (
	// parentBytes is the length of a traceparent of version 00.
	parentBytes = 55
	// maxStateBytes of a tracestate are kept: the least that everybody passes on
	// (W3C Trace Context, section 3.3.1.5).
	maxStateBytes = 512
)

// Names of the fields, as HTTP/2 and messages have them.
const (
	ParentField = "traceparent"
	StateField  = "tracestate"
)

// Valid says whether there is a context.
func (c *Context) Valid() bool { return c.TraceID != [16]byte{} && c.SpanID != [8]byte{} }

// Sampled says whether its trace is recorded.
func (c *Context) Sampled() bool { return c.Flags&flagSampled != 0 }

// Parse reads a traceparent and the tracestate beside it. What is malformed is
// as good as absent, and its tracestate means nothing (W3C Trace Context,
// section 4.3): the zero Context. A state that is too long goes no further.
func Parse(parent, state string) Context {
	if len(state) > maxStateBytes {
		state = ""
	}
	c := Context{State: state}
	var version, flags [1]byte
	switch {
	case len(parent) < parentBytes, parent[2] != '-' || parent[35] != '-' || parent[52] != '-',
		!unhex(version[:], parent[:2]) || version[0] == 0xff,
		len(parent) > parentBytes && (version[0] == 0 || parent[parentBytes] != '-'),
		!unhex(c.TraceID[:], parent[3:35]), !unhex(c.SpanID[:], parent[36:52]), !unhex(flags[:], parent[53:55]),
		!c.Valid():
		return Context{}
	}
	c.Flags = flags[0] & (flagSampled | flagRandom)
	return c
}

// unhex decodes lower-case digits, which alone are allowed.
func unhex(into []byte, digits string) bool {
	for i := range into {
		high, ok := digit(digits[2*i])
		low, also := digit(digits[2*i+1])
		if !ok || !also {
			return false
		}
		into[i] = high<<4 | low
	}
	return true
}

func digit(c byte) (value byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// AppendParent writes the traceparent.
func (c *Context) AppendParent(b []byte) []byte {
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, c.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, c.SpanID[:])
	b = append(b, '-')
	return hex.AppendEncode(b, []byte{c.Flags})
}

// Parent is the traceparent; empty: none.
func (c *Context) Parent() string {
	if !c.Valid() {
		return ""
	}
	return string(c.AppendParent(make([]byte, 0, parentBytes)))
}

// newTraceID and newSpanID are random and not zero.
func newTraceID() (id [16]byte) {
	for id == [16]byte{} {
		putRandom(id[:8])
		putRandom(id[8:])
	}
	return id
}

func newSpanID() (id [8]byte) {
	for id == [8]byte{} {
		putRandom(id[:])
	}
	return id
}

func putRandom(into []byte) {
	random := rand.Uint64()
	for i := range into {
		into[i] = byte(random >> (8 * i))
	}
}

type contextKey struct{}

// NewContext carries c to what runs in ctx.
func NewContext(ctx context.Context, c Context) context.Context {
	if !c.Valid() {
		return ctx
	}
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext is what NewContext has carried; the zero Context without.
func FromContext(ctx context.Context) Context {
	c, _ := ctx.Value(contextKey{}).(Context)
	return c
}
