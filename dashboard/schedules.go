package dashboard

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/worker/celery"
)

// scheduleRow is a PeriodicTask.
type scheduleRow struct {
	Namespace, Name, Schedule, TimeZone, Task, Queue, Policy string
	Suspended                                                bool
	// Last run, next run; zero: none.
	Last, Next   time.Time
	LastID       string
	LastState    tasks.State
	LastError    string
	Waiting      int64
	Workers      string
	Ready        bool
	Why          string
	Conditions   []condition
	Kwargs, Args string
}

// condition of an object.
type condition struct {
	Type, Reason, Message string
	Good                  bool
	Since                 time.Time
}

func conditionsOf(all []metav1.Condition, badIfTrue ...string) []condition {
	var shown []condition
	for _, c := range all {
		good := (c.Status == metav1.ConditionTrue) != slices.Contains(badIfTrue, c.Type)
		shown = append(shown, condition{c.Type, c.Reason, c.Message, good, c.LastTransitionTime.Time})
	}
	return shown
}

func scheduleOf(t *v1alpha1.PeriodicTask, depth map[string]int64) scheduleRow {
	row := scheduleRow{
		Namespace: t.Namespace, Name: t.Name, Schedule: t.Spec.Schedule, TimeZone: t.Spec.TimeZone, Task: t.Spec.Task.Name, Queue: t.Spec.Task.Queue,
		Policy: string(t.Spec.ConcurrencyPolicy), Suspended: t.Suspended(), Workers: t.Status.Workers, Conditions: conditionsOf(t.Status.Conditions),
	}
	if t.Status.NextScheduleTime != nil {
		row.Next = t.Status.NextScheduleTime.Time
	}
	if last := t.Status.LastTask; last != nil {
		row.LastID, row.LastState, row.LastError = last.ID, tasks.StateOf(celery.State(last.State)), last.Error
		if last.EnqueuedAt != nil {
			row.Last = last.EnqueuedAt.Time
		}
	}
	if n, known := depth[row.Queue]; known {
		row.Waiting = n
	} else if t.Status.QueueDepth != nil {
		row.Waiting = *t.Status.QueueDepth
	}
	if ready := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		row.Ready, row.Why = ready.Status == metav1.ConditionTrue, ready.Message
	} else {
		row.Why = "The operator has not looked at it yet."
	}
	return row
}

// schedulesData is the list.
type schedulesData struct {
	Rows   []scheduleRow
	Search string
	Total  int
}

func (s *Server) schedules(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	found, err := v.schedules(ctx)
	if err != nil {
		return nil, err
	}
	data := schedulesData{Search: r.URL.Query().Get("q"), Total: len(found)}
	depth := map[string]int64{}
	for _, queue := range s.o.Tasks.Queues() {
		depth[queue.Name] = queue.Waiting
	}
	for i := range found {
		row := scheduleOf(&found[i], depth)
		if matches(data.Search, row.Namespace, row.Name, row.Task, row.Queue) {
			data.Rows = append(data.Rows, row)
		}
	}
	return &view{template: "schedules", data: data, title: "Schedules", section: "schedules"}, nil
}

// matches says whether one of some texts has the one that is searched.
func matches(search string, texts ...string) bool {
	search = strings.ToLower(search)
	return slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(strings.ToLower(text), search) })
}

// jobRow is a Job that enqueued, or tried to.
type jobRow struct {
	Name, RunID string
	Created     time.Time
	Failed      string // why; empty: it has not
	Run         *tasks.Task
}

type scheduleData struct {
	scheduleRow
	MayRun, MaySee bool
	Jobs           []jobRow
	Runs           []tasks.Task
}

func (s *Server) schedule(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	task := &v1alpha1.PeriodicTask{}
	if !v.may(ctx, namespace, "periodictasks", "", "list") {
		return nil, problem(http.StatusForbidden, "User %s may not list periodictasks in namespace %s: a Role there has to allow it.", v.user.Username, namespace)
	}
	if err := s.o.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, task); err != nil {
		return nil, problem(http.StatusNotFound, "There is no PeriodicTask %s in namespace %s.", name, namespace)
	}
	data := scheduleData{scheduleRow: scheduleOf(task, nil), MayRun: v.may(ctx, namespace, "periodictasks", "runs", "create"), MaySee: v.may(ctx, namespace, "periodictasks", "runs", "get")}
	for _, queue := range s.o.Tasks.Queues() {
		if queue.Name == data.Queue {
			data.Waiting = queue.Waiting
		}
	}
	jobs, err := s.jobsOf(ctx, task)
	if err != nil {
		return nil, err
	}
	data.Jobs = jobs
	if data.MaySee {
		page := s.o.Tasks.List(tasks.Filter{PeriodicTask: namespace + "/" + name}, func(tasks.Scope) bool { return true }, "", 25)
		data.Runs = page.Tasks
	}
	return &view{template: "schedule", data: data, title: name, section: "schedules"}, nil
}

// jobsOf a PeriodicTask that the cluster still has, newest first.
func (s *Server) jobsOf(ctx context.Context, task *v1alpha1.PeriodicTask) ([]jobRow, error) {
	list := &batchv1.JobList{}
	err := s.o.Reader.List(ctx, list, client.InNamespace(task.Namespace), client.MatchingLabels{v1alpha1.LabelPeriodicTask: task.Name})
	if err != nil {
		return nil, err
	}
	rows := make([]jobRow, 0, len(list.Items))
	for i := range list.Items {
		job := &list.Items[i]
		row := jobRow{Name: job.Name, Created: job.CreationTimestamp.Time, RunID: celery.OccurrenceID(string(task.UID), job.Name, string(job.UID))}
		for _, c := range job.Status.Conditions {
			if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue {
				row.Failed = c.Reason + ": " + c.Message
			}
		}
		if run, known := s.o.Tasks.Get(row.RunID); known {
			row.Run = &run
		}
		rows = append(rows, row)
	}
	slices.SortFunc(rows, func(a, b jobRow) int { return b.Created.Compare(a.Created) })
	return rows, nil
}
