package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// Handler runs one call of a task. What it returns becomes the result, as JSON.
// An error is retried by the message's retry policy unless it is Permanent; a
// RetryAfter says when. It must end soon after ctx does, whose cause says why.
type Handler func(ctx context.Context, call *Call) (result any, err error)

// Registry holds the tasks that a worker knows, by name.
type Registry map[string]Handler

// Names of the tasks, in order.
func (r Registry) Names() []string {
	names := make([]string, 0, len(r))
	for name := range r {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Call is one run of a task.
type Call struct {
	// ID of the message; a retried or redelivered call has the same.
	ID string
	// Task is the name that the message calls.
	Task string
	// Queue that it was taken from.
	Queue string
	// Retries so far.
	Retries int

	args   []json.RawMessage
	kwargs map[string]json.RawMessage
	// enqueue sends children; see Enqueue.
	enqueue func(ctx context.Context, children []celery.Signature) error
}

// NewCall makes a call outside of a runner: for tests of tasks, and for whoever
// runs one directly. enqueue receives the children.
func NewCall(id, task string, args []any, kwargs map[string]any, enqueue func(context.Context, []celery.Signature) error) (*Call, error) {
	call := &Call{ID: id, Task: task, kwargs: map[string]json.RawMessage{}, enqueue: enqueue}
	for _, value := range args {
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("encoding an argument of %s: %w", task, err)
		}
		call.args = append(call.args, encoded)
	}
	for name, value := range kwargs {
		encoded, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("encoding argument %s of %s: %w", name, task, err)
		}
		call.kwargs[name] = encoded
	}
	return call, nil
}

// Bind reads the call's arguments into a struct: its fields, in order, are the
// parameters, by position or by the names of their json tags. A parameter
// without omitempty is required; one with it keeps its value when absent. As in
// Python, an argument too many or of an unknown name is an error; all errors
// are Permanent and name the parameter.
func (c *Call) Bind(into any) error {
	value := reflect.ValueOf(into).Elem()
	given := map[string]json.RawMessage{}
	var known []string
	for i := range value.NumField() {
		name, options, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		known = append(known, name)
		byName, named := c.kwargs[name]
		switch {
		case i < len(c.args) && named:
			return Permanent(fmt.Errorf("%s() got multiple values for argument %q", c.Task, name))
		case i < len(c.args):
			given[name] = c.args[i]
		case named:
			given[name] = byName
		case options != "omitempty":
			return Permanent(fmt.Errorf("%s() is missing the argument %q", c.Task, name))
		}
		raw, present := given[name]
		if !present || options == "omitempty" && bytes.Equal(raw, []byte("null")) {
			continue
		}
		if err := json.Unmarshal(raw, value.Field(i).Addr().Interface()); err != nil {
			return Permanent(fmt.Errorf("%s(): argument %q: %w", c.Task, name, err))
		}
	}
	if len(c.args) > len(known) {
		return Permanent(fmt.Errorf("%s() takes %d arguments but %d were given", c.Task, len(known), len(c.args)))
	}
	for name := range c.kwargs {
		if !slices.Contains(known, name) {
			return Permanent(fmt.Errorf("%s() got an unexpected argument %q: it has %s", c.Task, name, strings.Join(known, ", ")))
		}
	}
	return nil
}

// Arguments are the call's arguments as they came, for tasks that take any.
func (c *Call) Arguments() (args []json.RawMessage, kwargs map[string]json.RawMessage) {
	return c.args, c.kwargs
}

// Enqueue sends children: on the call's own queue where they name none, as parts
// of the same tree of calls, and each only once however often the call is
// retried, since their ids are derived from the call's and from key. It returns
// the children's ids.
func (c *Call) Enqueue(ctx context.Context, children ...Child) ([]string, error) {
	signatures := make([]celery.Signature, len(children))
	ids := make([]string, len(children))
	for i, child := range children {
		child.Signature.ID = celery.DeriveID(c.ID, child.Key)
		if child.Signature.Queue == "" {
			child.Signature.Queue = c.Queue
		}
		signatures[i], ids[i] = child.Signature, child.Signature.ID
	}
	if err := c.enqueue(ctx, signatures); err != nil {
		return nil, fmt.Errorf("enqueuing %d children of %s: %w", len(children), c.ID, err)
	}
	return ids, nil
}

// Child is a call that another makes.
type Child struct {
	// Key tells the child from its siblings: a user, say.
	Key string
	celery.Signature
}

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// Permanent marks an error that a retry would meet again.
func Permanent(err error) error { return permanentError{err} }

// IsPermanent says whether an error was marked so.
func IsPermanent(err error) bool {
	_, is := errors.AsType[permanentError](err)
	return is
}

// RetryAfter is an error that knows when a retry makes sense, as a provider's
// Retry-After says. It counts as a retry like any other.
type RetryAfter struct {
	Err   error
	Delay time.Duration
}

func (e *RetryAfter) Error() string { return e.Err.Error() }

// Unwrap is the error itself.
func (e *RetryAfter) Unwrap() error { return e.Err }

// Causes of the end of a call's context.
var (
	// ErrSoftTimeLimit: the call may still clean up until its hard limit.
	ErrSoftTimeLimit = errors.New("the soft time limit is exceeded")
	// ErrTimeLimit: the call has failed whatever it returns.
	ErrTimeLimit = errors.New("the time limit is exceeded")
	// ErrRevoked: somebody terminated the call.
	ErrRevoked = errors.New("the call was revoked")
	// ErrShutdown: the worker ends, and gives the message back.
	ErrShutdown = errors.New("the worker shuts down")
)
