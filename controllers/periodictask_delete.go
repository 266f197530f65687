package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/weir-dev/weir/api/v1alpha1"
)

const (
	// patience is how long a deletion waits for the broker, and for others to
	// begin to delete the pods: a namespace must not hang on Redis.
	patience = 2 * time.Minute
	// overtime is how long after its grace period a pod may still be there.
	overtime = 30 * time.Second
)

// finish deletes what a task consists of, lets its workers give back what they
// hold, and takes its messages out of the broker; then the task may go.
func (r *PeriodicTaskReconciler) finish(ctx context.Context, o *taskObserved) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(o.task, v1alpha1.FinalizerPeriodicTask) {
		return reconcile.Result{}, nil
	}
	if o.cronJob != nil {
		if err := r.applier.remove(ctx, o.cronJob); err != nil {
			return reconcile.Result{}, err
		}
	}
	if o.deployment != nil {
		if err := r.applier.remove(ctx, o.deployment); err != nil {
			return reconcile.Result{}, err
		}
	}
	pods := &corev1.PodList{}
	if err := r.Client.List(ctx, pods, client.InNamespace(o.task.Namespace), ofTask(o.task)); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the pods of PeriodicTask %s/%s: %w", o.task.Namespace, o.task.Name, err)
	}
	patient := o.now.Before(o.task.DeletionTimestamp.Add(patience))
	if isBusy(o.jobs, pods.Items, patient, o.now) {
		return reconcile.Result{RequeueAfter: busyInterval}, nil
	}
	removed, err := r.Broker.Purge(ctx, o.task)
	if errors.Is(err, errNoBroker) && o.task.Status.LastTask == nil && o.task.Status.LastScheduleTime == nil {
		err = nil // there is nothing that anything was put into
	}
	if err != nil && patient {
		return reconcile.Result{RequeueAfter: busyInterval}, nil
	}
	if err := r.release(ctx, o.task); err != nil {
		return reconcile.Result{}, err
	}
	if err != nil {
		r.Recorder.Eventf(o.task, nil, corev1.EventTypeWarning, eventMessagesLeft, "Delete",
			"The broker did not answer for %v, so messages of the task may be left in queue %s: %s", patience, o.task.Spec.Task.Queue, clip(err.Error()))
	}
	log.FromContext(ctx).Info("deleted a PeriodicTask", "messagesRemoved", removed)
	return reconcile.Result{}, nil
}

// isBusy says whether pods of the task may still enqueue, or give back a
// message: until they are gone or over their grace period, and while others
// can be hoped to delete them.
func isBusy(jobs []batchv1.Job, pods []corev1.Pod, patient bool, now time.Time) bool {
	for i := range jobs {
		if patient && !hasEnded(&jobs[i]) {
			return true
		}
	}
	for i := range pods {
		pod := &pods[i]
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		if pod.DeletionTimestamp == nil && patient ||
			pod.DeletionTimestamp != nil && now.Before(pod.DeletionTimestamp.Add(overtime)) {
			return true
		}
	}
	return false
}

// release removes the finalizer.
func (r *PeriodicTaskReconciler) release(ctx context.Context, task *v1alpha1.PeriodicTask) error {
	before := task.DeepCopy()
	controllerutil.RemoveFinalizer(task, v1alpha1.FinalizerPeriodicTask)
	err := r.Client.Patch(ctx, task, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
	if err := client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("removing the finalizer of PeriodicTask %s/%s: %w", task.Namespace, task.Name, err)
	}
	return nil
}

func hasEnded(job *batchv1.Job) bool {
	for _, condition := range job.Status.Conditions {
		if (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
