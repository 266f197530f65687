package controllers

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldManager owns what the operator applies.
const fieldManager = client.FieldOwner("weir-operator")

const maxRemembered = 16384

// applier applies objects server-side: what is not in them any more goes away,
// and what others wrote stays. It leaves out what would change nothing.
type applier struct {
	client client.Client
	// applied remembers what became of an object's last application.
	applied *lru.Cache
}

type application struct {
	hash       [sha256.Size]byte
	uid        types.UID
	generation int64
}

func newApplier(c client.Client) *applier {
	return &applier{client: c, applied: lru.New(maxRemembered)}
}

// apply applies a typed object with its kind. current is what the cache has of
// it; nil: nothing.
func (a *applier) apply(ctx context.Context, desired, current client.Object) error {
	kind := desired.GetObjectKind().GroupVersionKind().Kind
	name := kind + " " + desired.GetNamespace() + "/" + desired.GetName()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(desired)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	delete(content, "status")
	object := &unstructured.Unstructured{Object: content}
	text, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", name, err)
	}
	hash := sha256.Sum256(text)
	if last, known := a.applied.Get(name); known && current != nil &&
		last == (application{hash, current.GetUID(), current.GetGeneration()}) {
		return nil
	}
	if err := a.client.Apply(ctx, client.ApplyConfigurationFromUnstructured(object), fieldManager, client.ForceOwnership); err != nil {
		return fmt.Errorf("applying %s: %w", name, err)
	}
	a.applied.Add(name, application{hash, object.GetUID(), object.GetGeneration()})
	return nil
}

// remove deletes an object that the cache has; its dependents follow.
func (a *applier) remove(ctx context.Context, object client.Object) error {
	if object.GetDeletionTimestamp() != nil {
		return nil
	}
	err := a.client.Delete(ctx, object, client.PropagationPolicy(metav1.DeletePropagationBackground),
		client.Preconditions{UID: new(object.GetUID())})
	if apierrors.IsConflict(err) {
		return nil // another of the same name took its place
	}
	if err := client.IgnoreNotFound(err); err != nil {
		return fmt.Errorf("deleting %T %s/%s: %w", object, object.GetNamespace(), object.GetName(), err)
	}
	return nil
}
