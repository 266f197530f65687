package tracing

import (
	"strings"
	"sync"
	"time"
)

// Kind of a span, as OTLP numbers them.
type Kind uint64

// The kinds.
const (
	Internal Kind = iota + 1
	Server
	Client
	Producer
	Consumer
)

const (
	// maxAttributes, maxEvents and maxTextBytes bound a span.
	maxAttributes = 32
	maxEvents     = 32
	maxTextBytes  = 256
)

// Attribute is a key and its value: see Text, Number and Flag.
type Attribute struct {
	key    string
	text   string
	number int64
	kind   valueKind
}

type valueKind byte

const (
	isText valueKind = iota
	isNumber
	isFlag
)

// Text is an attribute; of a long value the beginning. It keeps a copy.
func Text(key, value string) Attribute {
	if len(value) > maxTextBytes {
		value = value[:maxTextBytes]
	}
	return Attribute{key: key, text: strings.Clone(strings.ToValidUTF8(value, "?")), kind: isText}
}

// Number is an attribute.
func Number(key string, value int64) Attribute {
	return Attribute{key: key, number: value, kind: isNumber}
}

// Flag is an attribute.
func Flag(key string, value bool) Attribute {
	a := Attribute{key: key, kind: isFlag}
	if value {
		a.number = 1
	}
	return a
}

// Span is one that is recorded. Its methods may be called at the same time, and
// do nothing once it has ended; those of a nil Span, which is not recorded, do
// nothing at all.
type Span struct {
	tracer  *Tracer
	context Context
	parent  [8]byte
	remote  bool // the parent is another process'
	kind    Kind
	start   time.Time

	mu         sync.Mutex // guards the rest
	name       string
	attributes []Attribute
	events     []event
	failed     bool
	end        time.Time
}

type event struct {
	name       string
	at         time.Time
	attributes []Attribute
}

// Context to pass on.
func (s *Span) Context() Context {
	if s == nil {
		return Context{}
	}
	return s.context
}

// Root says whether the span begins its trace.
func (s *Span) Root() bool { return s != nil && s.parent == [8]byte{} }

// open locks a span that has not ended.
func (s *Span) open() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	if s.end.IsZero() {
		return true
	}
	s.mu.Unlock()
	return false
}

// Set adds attributes. One that is there already gets the new value.
func (s *Span) Set(attributes ...Attribute) {
	if !s.open() {
		return
	}
	defer s.mu.Unlock()
next:
	for _, a := range attributes {
		for i := range s.attributes {
			if s.attributes[i].key == a.key {
				s.attributes[i] = a
				continue next
			}
		}
		if len(s.attributes) < maxAttributes {
			s.attributes = append(s.attributes, a)
		}
	}
}

// Event notes what happened now.
func (s *Span) Event(name string, attributes ...Attribute) {
	if !s.open() {
		return
	}
	defer s.mu.Unlock()
	if len(s.events) < maxEvents {
		s.events = append(s.events, event{name, time.Now(), attributes})
	}
}

// Fail says that what the span is of has failed; the first reason holds.
// errorType is one of few words: never an error's text, which may hold what
// nobody else may read.
func (s *Span) Fail(errorType string) {
	if !s.open() {
		return
	}
	first := !s.failed
	s.failed = true
	s.mu.Unlock()
	if first {
		s.Set(Text("error.type", errorType))
	}
}

// Child records a part of what the span is of, which is over.
func (s *Span) Child(name string, start time.Time, attributes ...Attribute) {
	if s == nil {
		return
	}
	child := &Span{
		tracer: s.tracer, context: s.context, parent: s.context.SpanID, kind: Internal,
		start: start, name: name, attributes: attributes,
	}
	child.context.SpanID = newSpanID()
	child.End()
}

// End hands the span over to be sent.
func (s *Span) End() {
	if !s.open() {
		return
	}
	s.end = time.Now()
	s.mu.Unlock()
	s.tracer.take(s)
}

// Discard ends the span without sending it.
func (s *Span) Discard() {
	if s.open() {
		s.end = time.Now()
		s.mu.Unlock()
	}
}
