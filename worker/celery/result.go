package celery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// State of a call, in Celery's words.
type State string

// The states that are written and read here.
const (
	Pending State = "PENDING"
	Started State = "STARTED"
	Retry   State = "RETRY"
	Success State = "SUCCESS"
	Failure State = "FAILURE"
	Revoked State = "REVOKED"
)

// Done says whether a call with this state will not change any more.
func (s State) Done() bool { return s == Success || s == Failure || s == Revoked }

// DefaultResultTTL is how long a result is kept, as in Celery.
const DefaultResultTTL = 24 * time.Hour

// Outcome is a state with what belongs to it.
type Outcome struct {
	State State
	// Value is a successful call's result, or what STARTED says; as JSON.
	Value json.RawMessage
	// Err is why a call failed, is retried or was revoked.
	Err error
	// ErrType is the name of the exception that Python sees; Exception when
	// empty. A name of Python's own is raised as such.
	ErrType string
	// ErrModule is that exception's module; builtins when empty.
	ErrModule string
}

// exception is how Celery writes an error as JSON.
type exception struct {
	Type    string `json:"exc_type"`
	Message []any  `json:"exc_message"`
	Module  string `json:"exc_module"`
}

// meta is Celery's record of a result, with what its result_extended adds.
type meta struct {
	Status    State           `json:"status"`
	Result    json.RawMessage `json:"result"`
	Traceback *string         `json:"traceback"`
	Children  [][2]any        `json:"children"`
	DateDone  *string         `json:"date_done"`
	TaskID    string          `json:"task_id"`
	ParentID  string          `json:"parent_id,omitempty"`

	Name    string          `json:"name,omitempty"`
	Args    json.RawMessage `json:"args,omitempty"`
	Kwargs  json.RawMessage `json:"kwargs,omitempty"`
	Worker  string          `json:"worker,omitempty"`
	Retries int             `json:"retries,omitempty"`
	Queue   string          `json:"queue,omitempty"`
	Weir    *resultExtra    `json:"weir,omitempty"`
}

// resultExtra is of our own, which Celery passes over. Times are Unix seconds.
type resultExtra struct {
	PeriodicTask string  `json:"periodic_task,omitempty"`
	EnqueuedAt   float64 `json:"enqueued_at,omitempty"`
	StartedAt    float64 `json:"started_at,omitempty"`
}

const dateDoneFormat = "2006-01-02T15:04:05.000000"

// maxArguments of a call, in bytes, that its result repeats: of longer ones the
// result says nothing.
const maxArguments = 2048

// of is what a result says of its call, beside the outcome.
type of struct {
	call *Message
	// queue, worker and began are empty where they are not known.
	queue, worker string
	began         time.Time
	children      []string
}

// encode is the record of an outcome. As in Celery only what is done has a
// date_done, in UTC without saying so.
func (o Outcome) encode(about of, now time.Time) []byte {
	call := about.call
	m := meta{
		Status: o.State, Result: o.Value, TaskID: call.ID, ParentID: call.ParentID, Children: [][2]any{},
		Name: call.Task, Worker: about.worker, Retries: call.Retries, Queue: about.queue,
	}
	if call.Task != "" {
		m.Args, m.Kwargs = call.Arguments(maxArguments)
		m.Weir = &resultExtra{PeriodicTask: call.PeriodicTask, EnqueuedAt: unixSeconds(call.EnqueuedAt), StartedAt: unixSeconds(about.began)}
	}
	for _, child := range about.children {
		m.Children = append(m.Children, [2]any{[2]any{child, nil}, nil})
	}
	if o.State.Done() {
		done := now.UTC().Format(dateDoneFormat)
		m.DateDone = &done
	}
	if o.Err != nil {
		text := shortenError(o.Err)
		e := exception{Type: o.ErrType, Message: []any{text}, Module: o.ErrModule}
		if e.Type == "" {
			e.Type = "Exception"
		}
		if e.Module == "" {
			e.Module = "builtins"
		}
		m.Result = encoded(e)
		traceback := e.Type + ": " + text + "\n"
		m.Traceback = &traceback
	}
	if m.Result == nil {
		m.Result = json.RawMessage("null")
	}
	return encoded(m)
}

// maxErrorBytes of an error that is kept.
const maxErrorBytes = 4096

// maxReadErrorBytes of an error, beyond which its parts are left out.
const maxReadErrorBytes = 16 << 10

func shortenError(err error) string {
	text := strings.ToValidUTF8(err.Error(), "\uFFFD")
	if len(text) > maxErrorBytes {
		text = strings.ToValidUTF8(text[:maxErrorBytes], "") + "..."
	}
	return text
}

// Arguments of a call as a JSON array and a JSON object; nil when they have more
// bytes.
func (m *Message) Arguments(most int) (args, kwargs json.RawMessage) {
	size := 0
	for _, value := range m.Args {
		size += len(value)
	}
	for name, value := range m.Kwargs {
		size += len(name) + len(value)
	}
	if size > most {
		return nil, nil
	}
	args, kwargs = json.RawMessage("[]"), json.RawMessage("{}")
	if len(m.Args) > 0 {
		args = encoded(m.Args)
	}
	if len(m.Kwargs) > 0 {
		kwargs = encoded(m.Kwargs)
	}
	return args, kwargs
}

// unixSeconds of a time; 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMicro()) / 1e6
}

// unixTime is the zero time for 0.
func unixTime(seconds float64) time.Time {
	if !(seconds > 0) || seconds > 1e11 {
		return time.Time{}
	}
	return time.UnixMicro(int64(seconds * 1e6))
}

// Result is what the backend knows of a call.
type Result struct {
	ID string
	// State is empty when the backend knows nothing, or has forgotten it.
	State State
	// Value is the result of a success, as JSON.
	Value json.RawMessage
	// Error is why it failed, is retried or was revoked.
	Error string
	// DoneAt is when it ended; zero while it has not.
	DoneAt time.Time

	// Traceback of an error, ParentID and Children of the tree of calls.
	Traceback string
	ParentID  string
	Children  []string
	// What our workers say of the call, and Celery's with result_extended; empty
	// where they do not. Args is a JSON array, Kwargs a JSON object.
	Task, Queue, Worker   string
	Args, Kwargs          json.RawMessage
	Retries               int
	PeriodicTask          string
	EnqueuedAt, StartedAt time.Time
}

// ReadResult asks the backend about a call.
func (b *Broker) ReadResult(ctx context.Context, id string) (Result, error) {
	text, err := b.client.Get(ctx, b.keys.result(id)).Result()
	if errors.Is(err, redis.Nil) {
		return Result{ID: id}, nil
	}
	if err != nil {
		return Result{}, b.explain("reading the result of "+id, err)
	}
	return decodeResult(id, text)
}

func decodeResult(id, text string) (Result, error) {
	var m meta
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return Result{ID: id}, fmt.Errorf("reading the result of %s: %w", id, err)
	}
	r := Result{
		ID: id, State: m.Status, Value: m.Result, ParentID: m.ParentID, Children: childrenOf(m.Children),
		Task: m.Name, Queue: m.Queue, Worker: m.Worker, Args: m.Args, Kwargs: m.Kwargs, Retries: m.Retries,
	}
	if m.Traceback != nil {
		r.Traceback = *m.Traceback
	}
	if m.Weir != nil {
		r.PeriodicTask, r.EnqueuedAt, r.StartedAt = m.Weir.PeriodicTask, unixTime(m.Weir.EnqueuedAt), unixTime(m.Weir.StartedAt)
	}
	if m.DateDone != nil {
		r.DoneAt, _ = readTime("date_done", m.DateDone)
	}
	if r.State == Failure || r.State == Retry || r.State == Revoked {
		r.Value = nil
		var e exception
		if json.Unmarshal(m.Result, &e) == nil && e.Type != "" {
			r.Error = e.text()
		}
	}
	return r, nil
}

// text of an exception, as Python's traceback ends with.
func (e *exception) text() string {
	var text strings.Builder
	text.WriteString(e.Type)
	for i, part := range e.Message {
		if text.Len() > maxReadErrorBytes {
			text.WriteString(", …")
			break
		}
		text.WriteString([...]string{": ", ", "}[min(i, 1)])
		fmt.Fprint(&text, part)
	}
	return text.String()
}

// childrenOf are the ids in Celery's nested lists: each [[id, parent], …].
func childrenOf(lists [][2]any) (ids []string) {
	for _, list := range lists {
		if pair, is := list[0].([]any); is && len(pair) > 0 {
			if id, is := pair[0].(string); is {
				ids = append(ids, id)
			}
		}
	}
	return ids
}
