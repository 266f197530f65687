package controllers

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/controllers/programming"
)

var (
	cronJobKind    = batchv1.SchemeGroupVersion.WithKind("CronJob")
	deploymentKind = appsv1.SchemeGroupVersion.WithKind("Deployment")
)

// realize makes the objects of an accepted task what its spec says. The verdict
// is another one when the API server or somebody else's object is against it.
func (r *PeriodicTaskReconciler) realize(ctx context.Context, o *taskObserved) (programming.Verdict, error) {
	wanted := []schema.GroupVersionKind{cronJobKind}
	if o.task.Spec.Worker != nil {
		wanted = append(wanted, deploymentKind)
	}
	for _, kind := range wanted {
		if free, err := r.nameIsFree(ctx, o, kind); err != nil || !free {
			return nameConflict(o.task, kind), err
		}
	}
	if err := r.finalize(ctx, o.task); err != nil {
		return o.verdict, err
	}
	// Workers before work: an invalid template leaves the schedule as it was.
	if err := r.realizeWorkers(ctx, o); err != nil {
		return refusedAs(o.verdict, v1alpha1.ReasonInvalidTemplate, "the workers' Deployment", err)
	}
	cronJob, err := manifests.CronJob(o.task, r.Config)
	if err != nil {
		return o.verdict, err
	}
	err = r.applier.apply(ctx, cronJob, orNil(o.cronJob))
	return refusedAs(o.verdict, v1alpha1.ReasonInvalidSchedule, "the CronJob", err)
}

// finalize keeps the task until its messages are out of the broker.
func (r *PeriodicTaskReconciler) finalize(ctx context.Context, task *v1alpha1.PeriodicTask) error {
	before := task.DeepCopy()
	if !controllerutil.AddFinalizer(task, v1alpha1.FinalizerPeriodicTask) {
		return nil
	}
	if err := r.Client.Patch(ctx, task, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})); err != nil {
		return fmt.Errorf("adding the finalizer to PeriodicTask %s/%s: %w", task.Namespace, task.Name, err)
	}
	return nil
}

// realizeWorkers applies the Secret and the Deployment, or deletes the latter.
func (r *PeriodicTaskReconciler) realizeWorkers(ctx context.Context, o *taskObserved) error {
	version, err := r.brokerVersion(ctx, o)
	if err != nil {
		return err
	}
	if o.task.Spec.Worker == nil {
		if o.deployment == nil {
			return nil
		}
		return r.applier.remove(ctx, o.deployment)
	}
	deployment, err := manifests.Deployment(o.task, r.Config, o.replicas(), version)
	if err != nil {
		return err
	}
	return r.applier.apply(ctx, deployment, orNil(o.deployment))
}

// brokerVersion is the version of the Secret's content. Without a broker
// nothing changes.
func (r *PeriodicTaskReconciler) brokerVersion(ctx context.Context, o *taskObserved) (string, error) {
	settings, err := r.Broker.Settings()
	if err != nil {
		if o.deployment == nil {
			return "", nil
		}
		return o.deployment.Spec.Template.Annotations[manifests.AnnotationVersion], nil
	}
	tasks := &v1alpha1.PeriodicTaskList{}
	if err := r.Client.List(ctx, tasks, client.InNamespace(o.task.Namespace)); err != nil {
		return "", fmt.Errorf("listing the PeriodicTasks of namespace %s: %w", o.task.Namespace, err)
	}
	// This task is always one, also when the cache has just learned that it goes:
	// a Secret without an owner would stay for ever.
	owners := slices.DeleteFunc(tasks.Items, func(t v1alpha1.PeriodicTask) bool { return t.DeletionTimestamp != nil || t.UID == o.task.UID })
	owners = append(owners, *o.task)
	return r.secrets.ensure(ctx, o.task.Namespace, settings, owners)
}

// replicas are the workers that the task should have now: a suspended task's
// until its queue is worked off, and then none until it goes on.
func (o *taskObserved) replicas() int32 {
	wanted := int32(1)
	if o.task.Spec.Worker.Replicas != nil {
		wanted = *o.task.Spec.Worker.Replicas
	}
	if !o.task.Suspended() || o.deployment == nil {
		return wanted
	}
	stopped := o.deployment.Spec.Replicas != nil && *o.deployment.Spec.Replicas == 0
	enqueuing := slices.ContainsFunc(o.jobs, func(job batchv1.Job) bool { return !hasEnded(&job) })
	idle := o.look != nil && o.look.Waiting+o.look.Delayed+o.look.Running == 0
	if stopped || idle && !enqueuing && o.isSuspended() {
		return 0
	}
	return wanted
}

// isSuspended says whether the CronJob has heard that it makes no more Jobs.
func (o *taskObserved) isSuspended() bool {
	return o.cronJob != nil && o.cronJob.Spec.Suspend != nil && *o.cronJob.Spec.Suspend
}

// nameIsFree says whether the task may have an object of the kind under its
// name. The cache holds only what has our label, so what it has not is asked for.
func (r *PeriodicTaskReconciler) nameIsFree(ctx context.Context, o *taskObserved, kind schema.GroupVersionKind) (bool, error) {
	if kind == cronJobKind && o.cronJob != nil || kind == deploymentKind && o.deployment != nil {
		return true, nil
	}
	holders := &metav1.PartialObjectMetadataList{}
	holders.SetGroupVersionKind(kind)
	err := r.Live.List(ctx, holders, client.InNamespace(o.task.Namespace), client.MatchingFields{"metadata.name": o.task.Name})
	if err != nil {
		return false, fmt.Errorf("looking for a %s %s/%s: %w", kind.Kind, o.task.Namespace, o.task.Name, err)
	}
	return len(holders.Items) == 0 || metav1.IsControlledBy(&holders.Items[0], o.task), nil
}

func nameConflict(task *v1alpha1.PeriodicTask, kind schema.GroupVersionKind) programming.Verdict {
	return programming.Verdict{
		Reason: v1alpha1.ReasonNameConflict,
		Message: fmt.Sprintf("A %s named %q exists that does not belong to this task, and is left as it is. Delete it, or create the task under another name.",
			kind.Kind, task.Name),
	}
}

// refusedAs turns the API server's refusal of an object into a verdict; other
// errors stay errors.
func refusedAs(verdict programming.Verdict, reason, object string, err error) (programming.Verdict, error) {
	if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		return verdict, err
	}
	return programming.Verdict{
		Reason:  reason,
		Message: fmt.Sprintf("Kubernetes refuses %s that the spec makes: %s. Correct it.", object, clip(err.Error())),
	}, nil
}

// orNil is a nil interface for a nil pointer.
func orNil[T any, P interface {
	*T
	client.Object
}](object P) client.Object {
	if object == nil {
		return nil
	}
	return object
}
