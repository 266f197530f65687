package controllers

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/manifests"
)

// +kubebuilder:rbac:groups="",resources=secrets,verbs=create
// +kubebuilder:rbac:groups="",resources=secrets,resourceNames=weir-task-broker,verbs=get;patch

// secretInterval is how often a Secret is looked at again.
const secretInterval = time.Minute

// brokerSecrets keeps the broker's Secret of every namespace with tasks.
type brokerSecrets struct {
	// live reads without a cache: a cache would ask for every Secret.
	live    client.Reader
	applier *applier
	clock   clock.PassiveClock

	mu   sync.Mutex // one at a time: the tasks of a namespace share theirs
	seen *lru.Cache // namespace -> seenSecret
}

type seenSecret struct {
	desired *corev1.Secret
	at      time.Time
}

func newBrokerSecrets(live client.Reader, a *applier, c clock.PassiveClock) *brokerSecrets {
	return &brokerSecrets{live: live, applier: a, clock: c, seen: lru.New(maxRemembered)}
}

// ensure puts the namespace's Secret right, and returns the version of its
// content: another one only when the content is, so that no worker restarts
// because a task came or went.
func (s *brokerSecrets) ensure(ctx context.Context, namespace string, broker manifests.Broker, owners []v1alpha1.PeriodicTask) (version string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	if known, is := s.seen.Get(namespace); is {
		seen := known.(seenSecret)
		version = seen.desired.Annotations[manifests.AnnotationVersion]
		same := reflect.DeepEqual(seen.desired, manifests.Secret(namespace, broker, version, owners))
		if same && now.Sub(seen.at) < secretInterval {
			return version, nil
		}
	}
	stored := &corev1.Secret{}
	err = s.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: manifests.SecretName}, stored)
	if err != nil && !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("reading Secret %s/%s: %w", namespace, manifests.SecretName, err)
	}
	version = stored.Annotations[manifests.AnnotationVersion]
	if version == "" || !reflect.DeepEqual(stored.Data, manifests.SecretData(broker)) {
		version = now.UTC().Format("20060102T150405.000Z")
	}
	desired := manifests.Secret(namespace, broker, version, owners)
	if err := s.applier.apply(ctx, desired, nil); err != nil {
		return "", err
	}
	s.seen.Add(namespace, seenSecret{desired, now})
	return version, nil
}
