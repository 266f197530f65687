package controllers

import (
	"errors"
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/worker/celery"
)

const (
	// missedGrace is how late the CronJob controller may be.
	missedGrace = time.Minute
	// maxError is an error's longest text in a status, in characters.
	maxError = 500
)

// taskObserved is what the cluster and the broker show of one PeriodicTask.
type taskObserved struct {
	task    *v1alpha1.PeriodicTask
	verdict programming.Verdict
	// cronJob and deployment are the task's own; nil: none yet.
	cronJob    *batchv1.CronJob
	deployment *appsv1.Deployment
	jobs       []batchv1.Job
	workers    []*corev1.Pod // by name
	// look is nil while the broker does not answer; silence says why.
	look    *celery.Look
	silence error
	now     time.Time
}

// decideTask is a task's status. What has not changed keeps its transition
// time; what only the broker knows stays while it does not answer.
func decideTask(o *taskObserved) v1alpha1.PeriodicTaskStatus {
	status := *o.task.Status.DeepCopy()
	status.ObservedGeneration = o.task.Generation
	if o.cronJob != nil && o.cronJob.Status.LastScheduleTime != nil {
		status.LastScheduleTime = o.cronJob.Status.LastScheduleTime
	}
	status.NextScheduleTime = o.nextRun()
	status.LastTask = o.lastTask()
	if o.look != nil {
		status.QueueDepth = new(o.look.Waiting + o.look.Delayed)
		if o.look.Result.State == celery.Success {
			status.LastSuccessfulTime = seconds(o.look.Result.DoneAt)
		}
	}
	status.ReadyWorkers, status.Workers = nil, ""
	if ready, wanted, ours := o.countWorkers(); ours {
		status.ReadyWorkers, status.Workers = new(ready), fmt.Sprintf("%d/%d", ready, wanted)
	}
	accepted, workers := o.accepted(), o.workersAvailable()
	for _, condition := range []metav1.Condition{accepted, workers, o.ready(accepted, workers)} {
		condition.ObservedGeneration = o.task.Generation
		condition.LastTransitionTime = metav1.NewTime(o.now)
		meta.SetStatusCondition(&status.Conditions, condition)
	}
	return status
}

// lastTask is the run that was enqueued last. A result that the backend has
// forgotten stays as it was seen.
func (o *taskObserved) lastTask() *v1alpha1.TaskRun {
	before := o.task.Status.LastTask
	if o.look == nil || o.look.Last.ID == "" {
		return before
	}
	last, result := o.look.Last, o.look.Result
	switch {
	case result.State != "":
		run := &v1alpha1.TaskRun{ID: last.ID, Job: last.Job, EnqueuedAt: seconds(last.At), State: string(result.State), Error: clip(result.Error)}
		if result.State.Done() {
			run.FinishedAt = seconds(result.DoneAt)
		}
		return run
	case before != nil && before.ID == last.ID:
		return before
	default:
		return &v1alpha1.TaskRun{ID: last.ID, Job: last.Job, EnqueuedAt: seconds(last.At), State: string(celery.Pending)}
	}
}

// isUnfinished says whether the last run may still change.
func isUnfinished(run *v1alpha1.TaskRun) bool {
	return run != nil && !celery.State(run.State).Done()
}

func (o *taskObserved) accepted() metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionTrue,
		Reason: o.verdict.Reason, Message: o.verdict.Message,
	}
	if !o.verdict.Accepted {
		condition.Status = metav1.ConditionFalse
		if o.cronJob != nil {
			condition.Message += " Until then what was accepted before goes on."
		}
	}
	return condition
}

// ready sums the others up, and says whether the broker answers: without it
// workers are not ready either.
func (o *taskObserved) ready(accepted, workers metav1.Condition) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonReady, Message: "The schedule is in force. " + workers.Message,
	}
	if o.task.Suspended() {
		condition.Message = "The schedule is suspended. " + workers.Message
	}
	for _, obstacle := range []metav1.Condition{accepted, o.broker(), workers} {
		if obstacle.Status != metav1.ConditionTrue {
			condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, obstacle.Reason, obstacle.Message
			break
		}
	}
	return condition
}

// broker says whether it answers. While it does not, the first error stays: the
// same trouble has many texts.
func (o *taskObserved) broker() metav1.Condition {
	before := meta.FindStatusCondition(o.task.Status.Conditions, v1alpha1.ConditionReady)
	switch {
	case o.silence == nil:
		return metav1.Condition{Status: metav1.ConditionTrue}
	case errors.Is(o.silence, errProtected):
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNoBroker,
			Message: "The limiter's Redis has a password, which goes into no namespace: create the Secret weir-broker in the operator's namespace, with a key url (and ca.crt for an authority of your own) of a Redis, or a user of it, that is for tasks."}
	case errors.Is(o.silence, errNoBroker):
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNoBroker,
			Message: "The operator has no broker: create the Secret weir-broker in its namespace, with a key url like redis://host:6379/0 (and ca.crt for an authority of your own)."}
	case celery.IsRefusal(o.silence):
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonInvalidQueue,
			Message: fmt.Sprintf("Redis refuses to use queue %s (%s). If a key of that name has another type, delete the key, or give the task another queue.",
				o.task.Spec.Task.Queue, strings.TrimRight(clip(o.silence.Error()), ". \n"))}
	case before != nil && before.Reason == v1alpha1.ReasonBrokerUnavailable:
		return *before
	default:
		return metav1.Condition{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonBrokerUnavailable,
			Message: fmt.Sprintf("The broker does not answer (%s). Until it does, nothing is enqueued or run: check Redis, and the Secret weir-broker in the operator's namespace.",
				strings.TrimRight(clip(o.silence.Error()), ". \n"))}
	}
}

// seconds is a time as Kubernetes stores it.
func seconds(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	return new(metav1.NewTime(t.UTC().Truncate(time.Second)))
}

// clip shortens a text to what a status shows, and makes it one that Kubernetes
// stores.
func clip(text string) string {
	characters := []rune(strings.ToValidUTF8(text, "\uFFFD"))
	if len(characters) > maxError {
		return string(characters[:maxError]) + "…"
	}
	return string(characters)
}
