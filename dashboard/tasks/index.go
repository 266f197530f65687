package tasks

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// DefaultLimit of tasks that an index holds.
const DefaultLimit = 200_000

// Index of tasks. Its methods may be called at the same time.
type Index struct {
	limit int

	mu   sync.RWMutex
	byID map[string]*Task
	// order has all tasks by Seen, oldest first; added those that came since it
	// was last put in order.
	order, added []*Task
	children     map[string]map[*Task]bool // id -> those of it
	scopes       []Scope
	scopeOf      map[Scope]int
	// counts of each scope's tasks by state.
	counts []map[State]int
	texts  map[string]string // names, queues, workers: each once
	// argumentBytes are those of all tasks' arguments.
	argumentBytes int
	version       uint64
}

// NewIndex returns one that holds at most so many tasks.
func NewIndex(limit int) *Index {
	return &Index{
		limit: limit, byID: map[string]*Task{}, children: map[string]map[*Task]bool{}, scopeOf: map[Scope]int{}, texts: map[string]string{},
	}
}

// Version is another one when something has changed.
func (x *Index) Version() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.version
}

// Len is how many tasks it holds.
func (x *Index) Len() int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return len(x.byID)
}

// change lets f change the task of this id, which is made when it is not there.
func (x *Index) change(id string, now time.Time, f func(*Task)) {
	if len(id) > maxIDBytes {
		return // no message has such a one
	}
	t := x.byID[id]
	fresh := t == nil
	if fresh {
		t = &Task{ID: strings.Clone(id)}
	}
	before, parent, scope := t.State, t.ParentID, t.Scope
	x.argumentBytes -= t.argumentBytes()
	f(t)
	if t.State == "" {
		t.State = Waiting
	}
	t.shorten()
	if x.argumentBytes+t.argumentBytes() > maxArgumentBytes {
		shorten(maxEnded, &t.Args, &t.Kwargs)
	}
	x.argumentBytes += t.argumentBytes()
	t.Name, t.Worker, t.Queue, t.PeriodicTask = x.once(t.Name), x.once(t.Worker), x.once(t.Queue), x.once(t.PeriodicTask)
	if t.ParentID != parent {
		x.leave(parent, t)
		if t.ParentID != "" && x.children[t.ParentID] == nil {
			x.children[t.ParentID] = map[*Task]bool{}
		}
		if t.ParentID != "" {
			x.children[t.ParentID][t] = true
		}
	}
	if fresh {
		t.Seen = firstOf(t.EnqueuedAt, t.StartedAt, t.EndedAt, now)
		x.byID[t.ID] = t
		x.added = append(x.added, t)
	} else if before != t.State || scope != t.Scope {
		x.counts[t.scope][before]--
	}
	if fresh || scope != t.Scope {
		t.scope = x.scopeIndex(t.Scope)
	}
	if fresh || before != t.State || scope != t.Scope {
		x.counts[t.scope][t.State]++
	}
	x.version++
}

func firstOf(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

// maxScopes that are told apart: queues have whatever names somebody gives them.
const maxScopes = 20_000

func (x *Index) scopeIndex(s Scope) int {
	if _, known := x.scopeOf[s]; !known && len(x.scopes) >= maxScopes {
		s = Scope{} // for those who may see all
	}
	i, known := x.scopeOf[s]
	if !known {
		i = len(x.scopes)
		x.scopes, x.scopeOf[s] = append(x.scopes, s), i
		x.counts = append(x.counts, map[State]int{})
	}
	return i
}

// maxTexts that are shared between tasks.
const maxTexts = 100_000

func (x *Index) once(text string) string {
	if text == "" {
		return ""
	}
	if known, is := x.texts[text]; is {
		return known
	}
	if len(x.texts) < maxTexts {
		text = strings.Clone(text)
		x.texts[text] = text
	}
	return text
}

func bySeen(a, b *Task) int {
	return cmp.Or(a.Seen.Compare(b.Seen), strings.Compare(a.ID, b.ID))
}

// settle puts what was added in order, and forgets what is too much.
func (x *Index) settle() {
	if len(x.added) > 0 {
		slices.SortFunc(x.added, bySeen)
		x.order = merge(x.order, x.added)
		clear(x.added)
		x.added = x.added[:0]
	}
	if excess := len(x.byID) - x.limit; excess > 0 {
		x.forget(excess + x.limit/50)
	}
}

// merge two lists that are in order into the first; cheap where most of the
// second comes last.
func merge(order, added []*Task) []*Task {
	i, j := len(order)-1, len(added)-1
	order = append(order, added...)
	for at := len(order) - 1; j >= 0; at-- {
		if i >= 0 && bySeen(order[i], added[j]) > 0 {
			order[at] = order[i]
			i--
		} else {
			order[at] = added[j]
			j--
		}
	}
	return order
}

// forget the oldest that have ended; where too few have, others.
func (x *Index) forget(n int) {
	for _, ended := range []bool{true, false} {
		x.order = slices.DeleteFunc(x.order, func(t *Task) bool {
			if n <= 0 || ended && !t.State.Ended() {
				return false
			}
			n--
			x.drop(t)
			return true
		})
	}
}

// drop a task, except from order.
func (x *Index) drop(t *Task) {
	delete(x.byID, t.ID)
	x.argumentBytes -= t.argumentBytes()
	x.counts[t.scope][t.State]--
	x.leave(t.ParentID, t)
	x.version++
}

// leave takes a task from the children of another.
func (x *Index) leave(parent string, t *Task) {
	if siblings := x.children[parent]; siblings != nil {
		if delete(siblings, t); len(siblings) == 0 {
			delete(x.children, parent)
		}
	}
}

// messages takes what a queue holds.
func (x *Index) messages(queue string, messages []*celery.Message, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, m := range messages {
		x.change(m.ID, now, func(t *Task) { t.message(m, queue, inQueue, now) })
	}
	x.settle()
}

// heldMessages takes what is not acknowledged.
func (x *Index) heldMessages(all []celery.Held, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, h := range all {
		where := reserved
		switch {
		case h.Parked:
			where = parked
		case h.Running:
			where = taken
		}
		x.change(h.ID, now, func(t *Task) { t.message(h.Message, h.Queue, where, now) })
	}
	x.settle()
}

// Results takes what the backend says.
func (x *Index) Results(results []celery.Result, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range results {
		x.change(results[i].ID, now, func(t *Task) { t.result(&results[i], now) })
	}
	x.settle()
}

// events takes what workers said of tasks.
func (x *Index) events(heard []celery.Heard, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for i := range heard {
		if h := &heard[i]; h.UUID != "" && strings.HasPrefix(h.Type, "task-") {
			x.change(h.UUID, now, func(t *Task) { t.event(h, now) })
		}
	}
	x.settle()
}

// unconfirmed are the ids of unfinished tasks that were not seen since a time,
// which depends on the task.
func (x *Index) unconfirmed(since func(*Task) time.Time) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var ids []string
	for _, t := range x.order {
		if !t.State.Ended() && t.confirmed.Before(since(t)) {
			ids = append(ids, t.ID)
		}
	}
	return ids
}

// gone forgets tasks that nothing is known of any more, unless they were seen
// after a time.
func (x *Index) gone(ids []string, unless time.Time) {
	if len(ids) == 0 {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	lost := map[*Task]bool{}
	for _, id := range ids {
		if t := x.byID[id]; t != nil && !t.State.Ended() && t.confirmed.Before(unless) {
			lost[t] = true
			x.drop(t)
		}
	}
	if len(lost) > 0 {
		x.order = slices.DeleteFunc(x.order, func(t *Task) bool { return lost[t] })
	}
}

// confirm says that a task was seen as it is known.
func (x *Index) confirm(id string, now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.byID[id]; t != nil {
		t.confirmed = now
	}
}
