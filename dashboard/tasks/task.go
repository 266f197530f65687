package tasks

import (
	"strings"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// State of a task, as people say it.
type State string

// The states. A waiting task is in its queue, a delayed one waits for its time
// or for its next try.
const (
	Waiting   State = "waiting"
	Delayed   State = "delayed"
	Running   State = "running"
	Succeeded State = "succeeded"
	Failed    State = "failed"
	Revoked   State = "revoked"
)

// States in the order of a task's life.
var States = []State{Waiting, Delayed, Running, Succeeded, Failed, Revoked}

// Ended says whether a task will not change any more.
func (s State) Ended() bool { return s == Succeeded || s == Failed || s == Revoked }

// Scope says whose a task is: who may see it is decided by this.
type Scope struct {
	// PeriodicTask is "namespace/name" of the resource that it goes back to.
	PeriodicTask string
	Queue        string
}

// Task is what is known of one.
type Task struct {
	ID, Name string
	Scope
	Worker string
	State  State
	// Args and Kwargs as JSON, or as Python shows them; shortened.
	Args, Kwargs string
	// Result is JSON, Error why it failed, is tried again or was revoked; both
	// shortened.
	Result, Error string
	Retries       int
	ParentID      string
	// Seen orders tasks: when it was enqueued, or was first heard of.
	Seen time.Time
	// Zero: not known, or not yet.
	EnqueuedAt, StartedAt, EndedAt, ETA time.Time

	// confirmed is when it was last seen to be so.
	confirmed time.Time
	scope     int // in Index.scopes
}

// Runtime is how long it ran, or has run; 0: not known.
func (t Task) Runtime(now time.Time) time.Duration {
	switch {
	case t.StartedAt.IsZero():
		return 0
	case t.State.Ended():
		if t.EndedAt.Before(t.StartedAt) {
			return 0
		}
		return t.EndedAt.Sub(t.StartedAt)
	case t.State == Running:
		return max(now.Sub(t.StartedAt), 0)
	}
	return 0
}

// What is kept of texts: of unfinished tasks their arguments are kept nowhere
// else in a form that can be looked up.
const (
	maxUnfinished = 4096
	maxEnded      = 256
	maxNameBytes  = 512
	maxIDBytes    = 255
	// maxArgumentBytes of all tasks; of the others maxEnded is kept.
	maxArgumentBytes = 64 << 20
)

func cut(text string, most int) string {
	if len(text) <= most {
		return strings.Clone(text) // not a part of something larger
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

func shorten(most int, texts ...*string) {
	for _, text := range texts {
		if len(*text) > most {
			*text = cut(*text, most-len("…"))
		}
	}
}

func (t *Task) shorten() {
	shorten(maxNameBytes, &t.Name, &t.Queue, &t.Worker, &t.PeriodicTask, &t.ParentID)
	most := maxUnfinished
	if t.State.Ended() {
		most = maxEnded
	}
	shorten(most, &t.Args, &t.Kwargs)
	shorten(maxEnded, &t.Result, &t.Error) // the backend has them whole
}

func (t *Task) argumentBytes() int { return len(t.Args) + len(t.Kwargs) }

// StateOf is Celery's word as ours.
func StateOf(s celery.State) State {
	switch s {
	case celery.Started:
		return Running
	case celery.Retry:
		return Delayed
	case celery.Success:
		return Succeeded
	case celery.Failure:
		return Failed
	case celery.Revoked:
		return Revoked
	}
	return Waiting
}

// Where a message is.
type place int

const (
	inQueue  place = iota
	parked         // until its time
	taken          // by one of our workers, which runs it
	reserved       // by one of Celery's, which may hold it back
)

// message takes what a message says, which is somewhere now.
func (t *Task) message(m *celery.Message, queue string, where place, now time.Time) {
	ended := t.State.Ended()
	if ended && !m.EnqueuedAt.After(t.EndedAt) && !t.EndedAt.IsZero() {
		// Read before it ended, unless it came back: that is enqueued anew.
		if m.EnqueuedAt.IsZero() || where != inQueue || now.Sub(t.EndedAt) < reread {
			return
		}
	}
	t.Name, t.Queue, t.ParentID, t.Retries = m.Task, queue, m.ParentID, m.Retries
	if m.PeriodicTask != "" {
		t.PeriodicTask = m.PeriodicTask
	}
	if !m.EnqueuedAt.IsZero() {
		t.EnqueuedAt = m.EnqueuedAt
	}
	t.ETA = m.ETA
	if args, kwargs := m.Arguments(maxUnfinished); args != nil {
		t.Args, t.Kwargs = string(args), string(kwargs)
	} else if t.Args == "" {
		t.Args = "(more than 4 KiB)"
	}
	t.confirmed = now
	switch {
	case where == parked, where == reserved && m.ETA.After(now) && t.State != Running:
		t.State = Delayed
	case where == taken && t.State != Running:
		t.State, t.EndedAt, t.StartedAt, t.Error, t.Result = Running, time.Time{}, time.Time{}, "", ""
	case where == reserved && t.State != Running:
		t.State = Waiting
	case where == inQueue && (t.State != Running || now.Sub(t.StartedAt) > reread):
		t.State, t.EndedAt, t.StartedAt, t.Worker = Waiting, time.Time{}, time.Time{}, ""
	}
}

// reread is how old what was read from a queue may be.
const reread = 5 * time.Second

// result takes what the backend says now.
func (t *Task) result(r *celery.Result, now time.Time) {
	set(&t.Name, r.Task)
	set(&t.Queue, r.Queue)
	set(&t.Worker, r.Worker)
	set(&t.PeriodicTask, r.PeriodicTask)
	set(&t.ParentID, r.ParentID)
	if r.Args != nil {
		t.Args, t.Kwargs = string(r.Args), string(r.Kwargs)
	}
	if r.Retries > 0 {
		t.Retries = r.Retries
	}
	if !r.EnqueuedAt.IsZero() {
		t.EnqueuedAt = r.EnqueuedAt
	}
	if !r.StartedAt.IsZero() {
		t.StartedAt = r.StartedAt
	}
	state := StateOf(r.State)
	if state != Waiting { // which is said also of a message that is nowhere any more
		t.confirmed = now
	}
	switch {
	case state.Ended():
		t.State, t.EndedAt, t.ETA = state, r.DoneAt, time.Time{}
		if t.EndedAt.IsZero() {
			t.EndedAt = now
		}
		t.Result, t.Error = "", r.Error
		if state == Succeeded {
			t.Result = cut(string(r.Value), maxEnded)
		}
	case state == Delayed:
		t.State, t.Error, t.EndedAt = Delayed, r.Error, time.Time{}
	case state == Running:
		t.State, t.EndedAt = Running, time.Time{}
	case t.State == "" || t.State.Ended():
		t.State, t.EndedAt, t.Error, t.Result = Waiting, time.Time{}, "", ""
	}
}

// event takes what a worker said.
func (t *Task) event(h *celery.Heard, now time.Time) {
	at := h.At()
	if at.IsZero() || at.After(now) {
		at = now
	}
	set(&t.Name, h.Name)
	set(&t.Queue, h.Queue)
	set(&t.PeriodicTask, h.PeriodicTask)
	set(&t.ParentID, h.ParentID)
	if t.Args == "" {
		t.Args, t.Kwargs = cut(string(h.Args), maxUnfinished), cut(string(h.Kwargs), maxUnfinished)
	}
	if t.State.Ended() && at.Before(t.EndedAt) {
		return
	}
	if h.Type != "task-sent" {
		set(&t.Worker, h.Hostname)
	}
	t.confirmed = now
	switch h.Type {
	case "task-sent":
		if t.State == "" {
			t.State, t.EnqueuedAt = Waiting, at
		}
	case "task-received":
		t.Retries = max(t.Retries, h.Retries)
		if t.State != Running {
			t.State = Waiting
		}
	case "task-started":
		t.State, t.StartedAt, t.EndedAt, t.ETA, t.Error, t.Result = Running, at, time.Time{}, time.Time{}, "", ""
	case "task-retried":
		t.State, t.Error, t.StartedAt = Delayed, exception(h), time.Time{}
	// What the backend said is JSON, and an event, as Python writes it, may come later.
	case "task-succeeded":
		if t.State != Succeeded || t.Result == "" {
			t.Result = cut(string(h.Result), maxEnded)
		}
		t.end(Succeeded, at, h.Runtime)
		t.Error = ""
	case "task-failed":
		if t.State != Failed || t.Error == "" {
			t.Error = exception(h)
		}
		t.end(Failed, at, 0)
	case "task-revoked":
		t.end(Revoked, at, 0)
	}
}

func (t *Task) end(state State, at time.Time, runtimeSeconds float64) {
	t.State, t.EndedAt, t.ETA = state, at, time.Time{}
	if t.StartedAt.IsZero() && runtimeSeconds > 0 && runtimeSeconds < 1e7 {
		t.StartedAt = at.Add(-time.Duration(runtimeSeconds * float64(time.Second)))
	}
}

func exception(h *celery.Heard) string {
	if h.Exception != "" {
		return cut(string(h.Exception), maxEnded)
	}
	return cut(string(h.Traceback), maxEnded)
}

// set keeps what was known where nothing new is said.
func set(field *string, value string) {
	if value != "" {
		*field = value
	}
}
