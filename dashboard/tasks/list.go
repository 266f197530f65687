package tasks

import (
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// May says whether a viewer may see the tasks of a scope.
type May func(Scope) bool

// Filter chooses tasks; empty fields choose all.
type Filter struct {
	State                             State
	Name, Queue, Worker, PeriodicTask string
	// Text is looked for in ids, names, arguments, errors and workers, without
	// regard to case.
	Text string
}

// Page of a list, newest first.
type Page struct {
	Tasks []Task
	// Total that match, beyond the page too; ByState counts them, and those of
	// other states that would.
	Total   int
	ByState map[State]int
	// Next is the cursor of the next page; empty: there is none.
	Next string
}

// List is a page of the tasks that match and may be seen, from a cursor on; the
// first page's is empty.
func (x *Index) List(f Filter, may May, cursor string, limit int) Page {
	x.mu.RLock()
	defer x.mu.RUnlock()
	page := Page{ByState: map[State]int{}}
	seen := x.permitted(may)
	before, from := parseCursor(cursor)
	f.Text = strings.ToLower(f.Text)
	for i := len(x.order) - 1; i >= 0; i-- {
		t := x.order[i]
		if !seen[t.scope] || !f.matches(t) {
			continue
		}
		page.ByState[t.State]++
		if f.State != "" && t.State != f.State {
			continue
		}
		page.Total++
		if from && (t.Seen.UnixMicro() > before.micros || t.Seen.UnixMicro() == before.micros && t.ID >= before.id) {
			continue
		}
		switch {
		case len(page.Tasks) < limit:
			page.Tasks = append(page.Tasks, *t)
		case page.Next == "":
			last := page.Tasks[limit-1]
			page.Next = strconv.FormatInt(last.Seen.UnixMicro(), 36) + "." + last.ID
		}
	}
	return page
}

// permitted says of each scope whether it may be seen.
func (x *Index) permitted(may May) []bool {
	seen := make([]bool, len(x.scopes))
	for i, s := range x.scopes {
		seen[i] = may(s)
	}
	return seen
}

type position struct {
	micros int64
	id     string
}

func parseCursor(cursor string) (position, bool) {
	micros, id, is := strings.Cut(cursor, ".")
	n, err := strconv.ParseInt(micros, 36, 64)
	return position{n, id}, is && err == nil
}

// matches looks at all but the state.
func (f *Filter) matches(t *Task) bool {
	return (f.Name == "" || t.Name == f.Name) &&
		(f.Queue == "" || t.Queue == f.Queue) &&
		(f.Worker == "" || t.Worker == f.Worker) &&
		(f.PeriodicTask == "" || t.PeriodicTask == f.PeriodicTask) &&
		(f.Text == "" || contains(t.ID, f.Text) || contains(t.Name, f.Text) || contains(t.Kwargs, f.Text) ||
			contains(t.Args, f.Text) || contains(t.Error, f.Text) || contains(t.Worker, f.Text))
}

// contains looks for a text in lower case.
func contains(text, lower string) bool {
	if ascii(text) && ascii(lower) {
		for i := 0; i+len(lower) <= len(text); i++ {
			if equalFold(text[i:i+len(lower)], lower) {
				return true
			}
		}
		return false
	}
	return strings.Contains(strings.ToLower(text), lower)
}

func ascii(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func equalFold(text, lower string) bool {
	for i := range len(lower) {
		c := text[i]
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// Get is one task.
func (x *Index) Get(id string) (Task, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if t := x.byID[id]; t != nil {
		return *t, true
	}
	return Task{}, false
}

// Children of a task that may be seen, oldest first; at most limit, and how many
// there are by state.
func (x *Index) Children(id string, may May, limit int) (children []Task, byState map[State]int) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	byState = map[State]int{}
	seen := x.permitted(may)
	var all []*Task
	for t := range x.children[id] {
		if seen[t.scope] {
			byState[t.State]++
			all = append(all, t)
		}
	}
	slices.SortFunc(all, bySeen)
	for _, t := range all[:min(limit, len(all))] {
		children = append(children, *t)
	}
	return children, byState
}

// Names of the tasks that may be seen, in order; at most limit.
func (x *Index) Names(may May, limit int) []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	seen := x.permitted(may)
	found := map[string]bool{}
	for _, t := range x.order {
		if t.Name != "" && seen[t.scope] && len(found) < limit {
			found[t.Name] = true
		}
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}

// Running are the tasks that run and may be seen, by worker, the oldest first; at
// most limit of each.
func (x *Index) Running(may May, limit int) map[string][]Task {
	x.mu.RLock()
	defer x.mu.RUnlock()
	seen := x.permitted(may)
	running := map[string][]Task{}
	for _, t := range x.order {
		if t.State == Running && seen[t.scope] && len(running[t.Worker]) < limit {
			running[t.Worker] = append(running[t.Worker], *t)
		}
	}
	return running
}

// Count is how many tasks of each state a scope has.
func (x *Index) Count(may May) map[State]int {
	x.mu.RLock()
	defer x.mu.RUnlock()
	total := map[State]int{}
	for i, s := range x.scopes {
		if may(s) {
			for state, n := range x.counts[i] {
				total[state] += n
			}
		}
	}
	return total
}

// queueNames are those that tasks are of, or were.
func (x *Index) queueNames() []string {
	x.mu.RLock()
	defer x.mu.RUnlock()
	names := make([]string, 0, len(x.scopes))
	for _, s := range x.scopes {
		names = append(names, s.Queue)
	}
	return names
}

// firstSeen is when a task was first heard of; zero: never.
func (x *Index) firstSeen(id string) time.Time {
	x.mu.RLock()
	defer x.mu.RUnlock()
	if t := x.byID[id]; t != nil {
		return t.Seen
	}
	return time.Time{}
}
