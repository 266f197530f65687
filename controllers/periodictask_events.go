package controllers

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/worker/celery"
)

// Reasons of events about a PeriodicTask that no condition has.
const (
	eventRunFailed     = "RunFailed"
	eventRunSkipped    = "RunSkipped"
	eventRunReplaced   = "RunReplaced"
	eventMissedRun     = "MissedRun"
	eventEnqueueFailed = "EnqueueFailed"
	eventMessagesLeft  = "MessagesLeft"
)

// news is something that has happened to a task.
type news struct {
	eventType, reason, note string
	// key names what happened, where the status does not remember that it was
	// told; at is when it happened.
	key string
	at  time.Time
}

// newsOf is what a status has to say that the one before had not.
func newsOf(o *taskObserved, after *v1alpha1.PeriodicTaskStatus) []news {
	var all []news
	if at, missed := o.missedRun(); missed {
		all = append(all, news{eventType: corev1.EventTypeWarning, reason: eventMissedRun,
			note: fmt.Sprintf("No Job was created for the run of %s. See kubectl describe cronjob %s.", at.UTC().Format(time.RFC3339), o.task.Name)})
	}
	for i := range o.jobs {
		if failed := jobFailure(&o.jobs[i]); failed != nil {
			all = append(all, news{eventType: corev1.EventTypeWarning, reason: eventEnqueueFailed,
				note: fmt.Sprintf("Job %s did not enqueue the task (%s: %s). See kubectl logs job/%s.", o.jobs[i].Name, failed.Reason, failed.Message, o.jobs[i].Name),
				key:  "job/" + string(o.jobs[i].UID), at: failed.LastTransitionTime.Time})
		}
	}
	if o.look != nil {
		if skipped := o.look.Skipped; skipped.ID != "" {
			all = append(all, news{eventType: corev1.EventTypeNormal, reason: eventRunSkipped,
				note: fmt.Sprintf("Job %s enqueued nothing: an earlier run is not finished, and concurrencyPolicy is Forbid.", skipped.Job),
				key:  "skipped/" + skipped.ID, at: skipped.At})
		}
		if replaced := o.look.Replaced; replaced.ID != "" {
			all = append(all, news{eventType: corev1.EventTypeNormal, reason: eventRunReplaced,
				note: fmt.Sprintf("Job %s revoked the earlier run %s, which was not finished: concurrencyPolicy is Replace.", replaced.Job, replaced.ID),
				key:  "replaced/" + replaced.ID, at: replaced.At})
		}
	}
	if run := after.LastTask; hasFailed(run) && !sameEnd(o.task.Status.LastTask, run) {
		note := fmt.Sprintf("Run %s of task %s ended as %s: %s", run.ID, o.task.Spec.Task.Name, run.State, run.Error)
		all = append(all, news{eventType: corev1.EventTypeWarning, reason: eventRunFailed, note: note})
	}
	return all
}

func hasFailed(run *v1alpha1.TaskRun) bool {
	return run != nil && (run.State == string(celery.Failure) || run.State == string(celery.Revoked))
}

func sameEnd(before, after *v1alpha1.TaskRun) bool {
	return before != nil && before.ID == after.ID && before.State == after.State
}

// jobFailure is a Job's condition Failed; nil: it has not failed.
func jobFailure(job *batchv1.Job) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if condition := &job.Status.Conditions[i]; condition.Type == batchv1.JobFailed && condition.Status == corev1.ConditionTrue {
			return condition
		}
	}
	return nil
}

// tell records what was not told yet. What happened before this operator led
// was told by the one before it.
func (r *PeriodicTaskReconciler) tell(task *v1alpha1.PeriodicTask, before []metav1.Condition, all []news) {
	reportChanges(r.Recorder, task, "Reconcile", taskConditions, before, task.Status.Conditions)
	for _, n := range all {
		if n.key != "" {
			if _, known := r.told.Get(n.key); known || n.at.Before(r.started.Add(-takeover)) {
				continue
			}
			r.told.Add(n.key, nil)
		}
		r.Recorder.Eventf(task, nil, n.eventType, n.reason, "Reconcile", "%.*s", maxNote, n.note)
	}
}
