package celery

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/weir-dev/weir/tracing"
)

// Signature is a call that is to be enqueued.
type Signature struct {
	// ID of the message; random when empty.
	ID string
	// Task is the name under which workers know it.
	Task string
	// Args and Kwargs must encode as JSON.
	Args   []any
	Kwargs map[string]any
	// Queue is the list's name.
	Queue string
	// Priority is 0 (first) to 9.
	Priority int
	// ETA: not before. Zero: at once.
	ETA time.Time
	// Expires: not after. Zero: never.
	Expires time.Time
	// SoftTimeLimit and TimeLimit of one run; zero: the worker's.
	SoftTimeLimit, TimeLimit time.Duration
	// Retry replaces the worker's retry policy.
	Retry *RetryPolicy
	// ResultTTL replaces the worker's.
	ResultTTL time.Duration
	// RootID and ParentID of the tree that the call is part of.
	RootID, ParentID string
	// PeriodicTask is "namespace/name" of the resource that the call goes back
	// to; empty: none.
	PeriodicTask string
	// Trace is what the call's run follows from; the zero Context: nothing.
	Trace tracing.Context
}

// message is what a result can say of the call before it is taken.
// Its arguments encode.
func (s *Signature) message(now time.Time) *Message {
	m := &Message{ID: s.ID, Task: s.Task, PeriodicTask: s.PeriodicTask, EnqueuedAt: now, Kwargs: map[string]json.RawMessage{}}
	for _, value := range s.Args {
		m.Args = append(m.Args, encoded(value))
	}
	for name, value := range s.Kwargs {
		m.Kwargs[name] = encoded(value)
	}
	return m
}

// RetryPolicy says how often and when a failed call runs again: after
// InitialBackoff, doubled each time up to MaxBackoff, less up to half of it at
// random.
type RetryPolicy struct {
	MaxRetries     int
	InitialBackoff time.Duration
	MaxBackoff     time.Duration
}

// DeriveID makes an id (a UUID of version 5, RFC 9562) that is always the same
// for the same parent and key.
func DeriveID(parent, key string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://weir.dev/task/"+parent+"/"+key)).String()
}
