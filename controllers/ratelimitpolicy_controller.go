// Package controllers keeps the status of RateLimitPolicies true (what they
// select, and what the sidecars have said that they enforce), and makes the
// schedule and the workers of PeriodicTasks.
package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/programming"
)

// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies,verbs=list;watch
// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

const (
	// settle gathers what many pods say and become within it into one look:
	// rollouts change many.
	settle = 50 * time.Millisecond
	// returnTime is how long sidecars may take to find a restarted operator
	// again: their longest backoff, and a request held by a dead connection.
	returnTime = 90 * time.Second
	maxTold    = 4096
)

// RateLimitPolicyReconciler writes the status of all policies of a namespace at
// a time: they compete for services, and share the pods.
type RateLimitPolicyReconciler struct {
	// Client reads from the cache and writes status.
	Client           client.Client
	Recorder         Recorder
	Acknowledgements *link.Acknowledgements
	Authorities      *certs.Authorities
	Clock            clock.Clock

	cache   client.Reader
	started time.Time
	told    *lru.Cache // owners of pods without sidecar, of which an event spoke
}

// SetupWithManager registers the controller. Its requests name a namespace.
func (r *RateLimitPolicyReconciler) SetupWithManager(mgr ctrl.Manager) error {
	r.told, r.cache = lru.New(maxTold), mgr.GetCache()
	err := ctrl.NewControllerManagedBy(mgr).
		Named("ratelimitpolicy").
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Watches(&v1alpha1.RateLimitPolicy{}, policyChanges()).
		Watches(&corev1.Pod{}, delayed(settle), builder.WithPredicates(podChanged())).
		WatchesRawSource(source.Func(r.hear)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting the RateLimitPolicy controller up: %w", err)
	}
	return nil
}

func request(namespace string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Name: namespace}}
}

// hear starts to listen to acknowledgements and authorities; the source starts with leadership.
func (r *RateLimitPolicyReconciler) hear(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.started = r.Clock.Now()
	look := func(namespace string) { queue.AddAfter(request(namespace), settle) }
	r.Acknowledgements.Notify(look)
	r.Authorities.OnChange(look)
	return nil
}

// Reconcile reads, decides and writes each changed status once.
func (r *RateLimitPolicyReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	namespace := request.Name
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := r.Client.List(ctx, policies, client.InNamespace(namespace)); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the RateLimitPolicies of namespace %s: %w", namespace, err)
	}
	if len(policies.Items) == 0 {
		return reconcile.Result{}, nil
	}
	pods, err := link.PodsIn(ctx, r.cache, namespace)
	if err != nil {
		return reconcile.Result{}, err
	}

	now := r.Clock.Now()
	var trusted time.Time
	untilSettled := r.started.Add(returnTime).Sub(now)
	if untilSettled > 0 {
		trusted = r.started.Truncate(time.Second) // as the pods' times of creation are
	}
	verdicts := programming.Accept(policies.Items)
	said := r.Acknowledgements.Of(namespace)
	authority := r.Authorities.Bundle(namespace) != ""
	running := link.Candidates(pods)
	again := max(0, untilSettled)
	var failures []error
	for i := range policies.Items {
		policy := &policies.Items[i]
		verdict, judged := verdicts[policy.Name]
		if !judged {
			continue // being deleted
		}
		seen := observed{
			policy: policy, verdict: verdict, pods: link.Selected(policy, running), said: said, authority: authority, trusted: trusted, now: now,
		}
		if ending := seen.ending(); ending > 0 && (again == 0 || ending < again) {
			again = ending
		}
		failures = append(failures, r.write(ctx, seen))
	}
	if err := errors.Join(failures...); err != nil {
		return reconcile.Result{}, err
	}
	return reconcile.Result{RequeueAfter: again}, nil
}

// write puts a policy's status right when it is not. The watch on policies
// brings what was written back, and with it the next look.
func (r *RateLimitPolicyReconciler) write(ctx context.Context, o observed) error {
	status := decide(o)
	if o.verdict.Accepted {
		reportBare(r.Recorder, r.told, o.policy, o.pods)
	}
	if equality.Semantic.DeepEqual(o.policy.Status, status) {
		return nil
	}
	before := o.policy.DeepCopy()
	o.policy.Status = status
	// What was decided from an older status must not be written over a newer.
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	err := r.Client.Status().Patch(ctx, o.policy, patch)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // the change that came between brings another look
	}
	if err != nil {
		return fmt.Errorf("writing the status of RateLimitPolicy %s/%s: %w", o.policy.Namespace, o.policy.Name, err)
	}
	reportChanges(r.Recorder, o.policy, "Program", policyConditions, before.Status.Conditions, status.Conditions)
	return nil
}

// policyChanges queues the namespace of a policy at once, but for what this
// controller itself has written again about an edit: while many pods acknowledge
// it, the next look comes anyway.
func policyChanges() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	add := func(object client.Object, q queue) { q.Add(request(object.GetNamespace())) }
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			before, ok := e.ObjectOld.(*v1alpha1.RateLimitPolicy)
			after, also := e.ObjectNew.(*v1alpha1.RateLimitPolicy)
			if ok && also && before.UID == after.UID && before.Generation == after.Generation &&
				before.DeletionTimestamp.Equal(after.DeletionTimestamp) && before.Status.ObservedGeneration == after.Status.ObservedGeneration {
				q.AddAfter(request(after.Namespace), settle)
				return
			}
			add(e.ObjectNew, q)
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(e.Object, q) },
	}
}

// delayed queues an object's namespace so much later: what changes together is
// looked at once.
func delayed(delay time.Duration) handler.EventHandler {
	add := func(object client.Object, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
		queue.AddAfter(request(object.GetNamespace()), delay)
	}
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) { add(e.Object, q) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) { add(e.ObjectNew, q) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { add(e.Object, q) },
	}
}

// podChanged passes the updates of pods that a status could show.
func podChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok := e.ObjectOld.(*corev1.Pod)
		after, also := e.ObjectNew.(*corev1.Pod)
		return !ok || !also ||
			before.UID != after.UID || before.Status.Phase != after.Status.Phase ||
			(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
			!equality.Semantic.DeepEqual(before.Labels, after.Labels)
	}}
}
