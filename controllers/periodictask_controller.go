package controllers

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/manifests"
)

// +kubebuilder:rbac:groups=weir.dev,resources=periodictasks,verbs=list;watch;patch
// +kubebuilder:rbac:groups=weir.dev,resources=periodictasks/status,verbs=patch
// +kubebuilder:rbac:groups=weir.dev,resources=periodictasks/finalizers,verbs=update
// +kubebuilder:rbac:groups=batch,resources=cronjobs,verbs=list;watch;create;patch;delete
// +kubebuilder:rbac:groups=apps,resources=deployments,verbs=list;watch;create;patch;delete
// +kubebuilder:rbac:groups=batch,resources=jobs,verbs=list;watch

const (
	// busyInterval and idleInterval are how often the broker is asked: while a
	// run or the queue changes, and otherwise.
	busyInterval = 2 * time.Second
	idleInterval = 15 * time.Second
	// takeover is how long it may take until another operator leads.
	takeover = time.Minute
)

// PeriodicTaskReconciler makes of each PeriodicTask a CronJob and a Deployment,
// and writes into its status what became of its runs.
type PeriodicTaskReconciler struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads without a cache.
	Live     client.Reader
	Recorder Recorder
	Broker   *Broker
	Config   manifests.Config
	Clock    clock.PassiveClock

	applier *applier
	secrets *brokerSecrets
	started time.Time
	told    *lru.Cache // what events spoke of, where no status remembers it
}

// SetupWithManager registers the controller. Its requests name a PeriodicTask.
func (r *PeriodicTaskReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.applier = newApplier(r.Client)
	r.secrets = newBrokerSecrets(r.Live, r.applier, r.Clock)
	r.told = lru.New(maxTold)
	owned := handler.EnqueueRequestsFromMapFunc(taskOf)
	err := ctrl.NewControllerManagedBy(mgr).
		Named("periodictask").
		WithOptions(controller.Options{MaxConcurrentReconciles: 8}).
		For(&v1alpha1.PeriodicTask{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&batchv1.CronJob{}, owned).
		Watches(&appsv1.Deployment{}, owned).
		Watches(&batchv1.Job{}, owned).
		Watches(&corev1.Pod{}, owned).
		WatchesRawSource(source.Func(r.lead)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting the PeriodicTask controller up: %w", err)
	}
	return nil
}

// lead notes when this operator began to lead: sources start then.
func (r *PeriodicTaskReconciler) lead(context.Context, workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.started = r.Clock.Now()
	return nil
}

// taskOf is the task that an object's label names.
func taskOf(_ context.Context, object client.Object) []reconcile.Request {
	name := object.GetLabels()[v1alpha1.LabelPeriodicTask]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: object.GetNamespace(), Name: name}}}
}

// ofTask selects what a task's label is on.
func ofTask(task *v1alpha1.PeriodicTask) client.MatchingLabels {
	return client.MatchingLabels{v1alpha1.LabelPeriodicTask: task.Name}
}

// Reconcile reads, makes the objects, decides, and writes a changed status once.
func (r *PeriodicTaskReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	task := &v1alpha1.PeriodicTask{}
	if err := r.Client.Get(ctx, request.NamespacedName, task); err != nil {
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	o, err := r.observe(ctx, task)
	if err != nil {
		return reconcile.Result{}, err
	}
	if task.DeletionTimestamp != nil {
		return r.finish(ctx, o)
	}
	o.look, o.silence = r.Broker.Look(ctx, task)
	if o.verdict = acceptTask(task); o.verdict.Accepted {
		if o.verdict, err = r.realize(ctx, o); err != nil {
			return later(err)
		}
	}
	return r.write(ctx, o)
}

// later tries again what others hinder: a change that came between, or a
// namespace that goes, and the task with it.
func later(err error) (reconcile.Result, error) {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return reconcile.Result{RequeueAfter: busyInterval}, nil
	}
	return reconcile.Result{}, err
}

// observe reads the objects of a task from the cache.
func (r *PeriodicTaskReconciler) observe(ctx context.Context, task *v1alpha1.PeriodicTask) (*taskObserved, error) {
	o := &taskObserved{task: task, now: r.Clock.Now()}
	key := client.ObjectKeyFromObject(task)
	cronJob, deployment := &batchv1.CronJob{}, &appsv1.Deployment{}
	for _, object := range []client.Object{cronJob, deployment} {
		if err := client.IgnoreNotFound(r.Client.Get(ctx, key, object)); err != nil {
			return nil, fmt.Errorf("reading the %T of PeriodicTask %s: %w", object, key, err)
		}
	}
	if metav1.IsControlledBy(cronJob, task) {
		o.cronJob = cronJob
	}
	if metav1.IsControlledBy(deployment, task) {
		o.deployment = deployment
	}
	jobs, pods := &batchv1.JobList{}, &corev1.PodList{}
	for _, list := range []client.ObjectList{jobs, pods} {
		if err := r.Client.List(ctx, list, client.InNamespace(task.Namespace), ofTask(task)); err != nil {
			return nil, fmt.Errorf("listing the %T of PeriodicTask %s: %w", list, key, err)
		}
	}
	o.jobs = jobs.Items
	for i := range pods.Items {
		if manifests.IsWorker(&pods.Items[i]) {
			o.workers = append(o.workers, &pods.Items[i])
		}
	}
	slices.SortFunc(o.workers, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return o, nil
}

// write puts the status right when it is not, then tells what is new.
func (r *PeriodicTaskReconciler) write(ctx context.Context, o *taskObserved) (reconcile.Result, error) {
	before := o.task.DeepCopy()
	status := decideTask(o)
	all := newsOf(o, &status)
	o.task.Status = status
	if !equality.Semantic.DeepEqual(before.Status, status) {
		// What was decided from an older status must not be written over a newer.
		err := r.Client.Status().Patch(ctx, o.task, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		if err != nil {
			return later(err)
		}
	}
	r.tell(o.task, before.Status.Conditions, all)
	return reconcile.Result{RequeueAfter: o.interval(&status)}, nil
}

// interval is when to look again, since the broker rings no bell.
func (o *taskObserved) interval(status *v1alpha1.PeriodicTaskStatus) time.Duration {
	if o.look == nil || isUnfinished(status.LastTask) || o.look.Waiting+o.look.Delayed+o.look.Running > 0 {
		return busyInterval
	}
	if status.NextScheduleTime != nil && status.NextScheduleTime.Sub(o.now) > 0 {
		return min(idleInterval, status.NextScheduleTime.Sub(o.now)+busyInterval)
	}
	return idleInterval
}
