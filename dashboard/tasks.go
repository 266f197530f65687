package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/worker/celery"
)

// pageSize of lists of tasks.
const pageSize = 100

// stateTab is a state to choose, with how many there are.
type stateTab struct {
	State   tasks.State // empty: all
	Count   int
	Current bool
	Link    string
}

type tasksData struct {
	Page    tasks.Page
	Filter  tasks.Filter
	Tabs    []stateTab
	Names   []string
	Queues  []string
	Filters bool // something is chosen
	First   string
	Older   string
	Now     time.Time
	Limit   int
}

func (s *Server) tasks(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	mine, err := v.holdings(ctx, "runs", "get")
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	f := tasks.Filter{
		State: tasks.State(q.Get("state")), Name: q.Get("name"), Queue: q.Get("queue"), Worker: q.Get("worker"),
		PeriodicTask: q.Get("schedule"), Text: q.Get("q"),
	}
	data := tasksData{Filter: f, Page: s.o.Tasks.List(f, mine.has, q.Get("from"), pageSize), Names: s.o.Tasks.Names(mine.has, 200), Now: time.Now(), Limit: tasks.DefaultLimit}
	for _, queue := range s.o.Tasks.Queues() {
		if mine.queue(queue.Name) {
			data.Queues = append(data.Queues, queue.Name)
		}
	}
	sum := 0
	for _, n := range data.Page.ByState {
		sum += n
	}
	data.Tabs = append(data.Tabs, stateTab{"", sum, f.State == "", with(q, "state", "")})
	for _, state := range tasks.States {
		data.Tabs = append(data.Tabs, stateTab{state, data.Page.ByState[state], f.State == state, with(q, "state", string(state))})
	}
	f.State = ""
	data.Filters = f != tasks.Filter{}
	if q.Get("from") != "" {
		data.First = with(q, "from", "")
	}
	if data.Page.Next != "" {
		older := with(q, "from", "")
		data.Older = older + strings.Repeat("&", min(len(older)-1, 1)) + "from=" + url.QueryEscape(data.Page.Next)
	}
	return &view{template: "tasks", data: data, title: "Tasks", section: "tasks"}, nil
}

// childrenListed are shown of a task.
const childrenListed = 50

type taskData struct {
	tasks.Task
	// Known: it is in the index, or the backend knows it.
	Known             bool
	Now               time.Time
	Args, Kwargs      string
	Value, Traceback  string
	Kept              bool // the backend has a result
	MayRetry, MayStop bool
	Schedule, Job     string // Schedule is namespace/name
	Parent            *tasks.Task
	Children          []tasks.Task
	Counts            []stateTab
	ChildrenTotal     int
	Unlisted          int // children that only the result names
}

func (s *Server) task(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	id := r.PathValue("id")
	task, known := s.o.Tasks.Get(id)
	mine, err := v.holdings(ctx, "runs", "get")
	if err != nil {
		return nil, err
	}
	if known && !mine.has(task.Scope) || !known && !mine.all && len(mine.namespaces) == 0 {
		return nil, problem(http.StatusForbidden, "User %s may not get periodictasks/runs where this task belongs: a Role there has to allow it (apiGroups [weir.dev], resources [periodictasks/runs], verbs [get]).", v.user.Username)
	}
	data := taskData{Task: task, Known: known, Now: time.Now(), Args: task.Args, Kwargs: task.Kwargs, Value: task.Result}
	if !known {
		// One that was enqueued a moment ago is not heard of yet.
		data.ID = id
		return &view{template: "task", data: data, title: "Task", section: "tasks"}, nil
	}
	var children []string
	if broker, err := s.o.Broker(); err == nil {
		if result, err := broker.ReadResult(ctx, id); err == nil && result.State != "" {
			data.read(&result)
			children = result.Children
		}
	}
	var counts map[tasks.State]int
	data.Children, counts = s.o.Tasks.Children(id, mine.has, childrenListed)
	for _, state := range tasks.States {
		if counts[state] > 0 {
			data.Counts = append(data.Counts, stateTab{State: state, Count: counts[state]})
			data.ChildrenTotal += counts[state]
		}
	}
	data.Unlisted = max(0, len(children)-data.ChildrenTotal)
	if parent, is := s.o.Tasks.Get(task.ParentID); is && mine.has(parent.Scope) {
		data.Parent = &parent
	}
	if err := s.origin(ctx, &data); err != nil {
		return nil, err
	}
	owners, err := s.owners(ctx, task.Scope)
	if err != nil {
		return nil, err
	}
	may := func(verb string) bool {
		return slices.ContainsFunc(owners, func(namespace string) bool { return v.may(ctx, namespace, "periodictasks", "runs", verb) })
	}
	data.MayRetry, data.MayStop = task.State.Ended() && may("create"), !task.State.Ended() && may("delete")
	return &view{template: "task", data: data, title: short(task.Name, 60), section: "tasks"}, nil
}

// maxShownBytes of a text on a page.
const maxShownBytes = 64 << 10

// read takes what the index does not keep whole.
func (d *taskData) read(r *celery.Result) {
	d.Kept = true
	if r.Args != nil {
		d.Args, d.Kwargs = string(r.Args), string(r.Kwargs)
	}
	if r.State == celery.Success {
		d.Value = string(r.Value)
	}
	if r.Error != "" {
		d.Error = r.Error
	}
	d.Traceback = r.Traceback
	for _, text := range []*string{&d.Args, &d.Kwargs, &d.Value, &d.Traceback, &d.Error} {
		if len(*text) > maxShownBytes {
			*text = strings.ToValidUTF8((*text)[:maxShownBytes], "") + "\n… (" + number(len(*text)) + " bytes)"
		}
	}
}

// origin finds the Job and the schedule that a run came from.
func (s *Server) origin(ctx context.Context, d *taskData) error {
	if d.PeriodicTask == "" {
		return nil
	}
	d.Schedule = d.PeriodicTask
	namespace, name, _ := strings.Cut(d.PeriodicTask, "/")
	task := &v1alpha1.PeriodicTask{}
	if err := s.o.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, task); err != nil {
		d.Schedule = "" // it is deleted
		return client.IgnoreNotFound(err)
	}
	jobs, err := s.jobsOf(ctx, task)
	if err != nil {
		return err
	}
	for i := range jobs {
		if jobs[i].RunID == d.ID {
			d.Job = jobs[i].Name
		}
	}
	if last := task.Status.LastTask; d.Job == "" && last != nil && last.ID == d.ID {
		d.Job = last.Job
	}
	return nil
}
