package controllers

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get;list;watch

const (
	// gather is how long policies that are applied together may take: they get
	// one authority for the hosts of all, where each would widen the last. Pods
	// that are created meanwhile get theirs at once: see link.Rulesets.Stamped.
	gather = time.Second
	// longestLook bounds the time between two looks: clocks are set.
	longestLook = time.Hour
)

// AuthorityReconciler keeps the authority of every namespace good for what its
// policies intercept, and deletes it with the namespace.
type AuthorityReconciler struct {
	// Client reads from the cache, Live from the API server.
	Client      client.Reader
	Live        client.Reader
	Authorities *certs.Authorities
}

// SetupWithManager registers the controller. Its requests name a namespace.
func (r *AuthorityReconciler) SetupWithManager(mgr ctrl.Manager) error {
	deletions := predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("authority").
		Watches(&v1alpha1.RateLimitPolicy{}, delayed(gather), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, namespace client.Object) []reconcile.Request {
			return []reconcile.Request{request(namespace.GetName())}
		}), builder.WithPredicates(deletions)).
		WatchesRawSource(source.Func(r.hear)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting the authority controller up: %w", err)
	}
	return nil
}

// hear looks at what there is when leadership begins, and at every Secret that
// changes: another replica's, or somebody's who spoilt it.
func (r *AuthorityReconciler) hear(_ context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	r.Authorities.OnChange(func(namespace string) { queue.Add(request(namespace)) })
	for _, namespace := range r.Authorities.Namespaces() {
		queue.Add(request(namespace))
	}
	return nil
}

// Reconcile looks at one namespace.
func (r *AuthorityReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	namespace := request.Name
	gone, err := r.gone(ctx, namespace)
	if err != nil {
		return reconcile.Result{}, err
	}
	if gone {
		return reconcile.Result{}, r.Authorities.Forget(ctx, namespace)
	}
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := r.Client.List(ctx, policies, client.InNamespace(namespace)); err != nil {
		return reconcile.Result{}, fmt.Errorf("listing the RateLimitPolicies of namespace %s: %w", namespace, err)
	}
	again, err := r.Authorities.Keep(ctx, namespace, programming.Intercepted(policies.Items))
	return reconcile.Result{RequeueAfter: min(longestLook, again)}, err
}

// gone says whether a namespace is no more. The cache may not know of it yet,
// so that is for the API server to say.
func (r *AuthorityReconciler) gone(ctx context.Context, name string) (bool, error) {
	namespace := &corev1.Namespace{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: name}, namespace)
	if apierrors.IsNotFound(err) {
		err = r.Live.Get(ctx, client.ObjectKey{Name: name}, namespace)
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("reading namespace %s to see whether its authority is needed: %w", name, err)
	}
	return err != nil, nil
}
