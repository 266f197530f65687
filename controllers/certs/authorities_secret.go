package certs

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// authorityPrefix of a Secret's name, before the namespace's. Together they
	// have at most 78 characters: a namespace's has at most 63.
	authorityPrefix = "weir-authority-"
	// labelAuthority on a Secret names the namespace whose authorities it holds.
	labelAuthority = "weir.dev/authority-of"
)

// Secrets of the operator's own namespace: the certificates, the key of the
// store's users, and one for every namespace that intercepts, so no names can be
// given.
// +kubebuilder:rbac:groups="",resources=secrets,verbs=get;list;watch;create;update;delete,namespace=weir-system

// settle brings a namespace's Secret into the state that succession wants.
// Another replica may do the same at the same time: then its write is found and
// taken.
func (a *Authorities) settle(ctx context.Context, namespace string, domains []string) (lineage, error) {
	const attempts = 5
	var err error
	for range attempts {
		var l lineage
		if l, err = a.tryToSettle(ctx, namespace, domains); err == nil {
			return l, nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	return lineage{}, err
}

func (a *Authorities) tryToSettle(ctx context.Context, namespace string, domains []string) (lineage, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: a.options.Namespace, Name: authorityPrefix + namespace}
	err := a.options.Client.Get(ctx, key, secret)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return lineage{}, fmt.Errorf("reading the authority of namespace %s in Secret %s: %w", namespace, key, err)
	}
	next, changes, err := a.rules.after(a.options.Now(), decodeLineage(secret.Data), namespace, domains)
	if err != nil {
		return lineage{}, err
	}
	unlabelled := !missing && secret.Labels[labelAuthority] != namespace
	switch {
	case len(changes) == 0 && !unlabelled:
		return next, nil
	case len(next.authorities) == 0:
		err = a.remove(ctx, secret)
	default:
		err = a.write(ctx, key, namespace, secret, missing, next)
	}
	if err != nil {
		return lineage{}, fmt.Errorf("writing the authority of namespace %s to Secret %s: %w", namespace, key, err)
	}
	a.report(namespace, changes)
	return next, nil
}

func (a *Authorities) write(ctx context.Context, key client.ObjectKey, namespace string, secret *corev1.Secret, missing bool, next lineage) error {
	var err error
	if secret.Data, err = encodeLineage(next); err != nil {
		return err
	}
	if secret.Labels == nil {
		secret.Labels = map[string]string{}
	}
	secret.Labels[labelAuthority] = namespace
	if !missing {
		return a.options.Client.Update(ctx, secret)
	}
	secret.ObjectMeta = metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name, Labels: secret.Labels}
	secret.Type = corev1.SecretTypeOpaque
	return a.options.Client.Create(ctx, secret)
}

// remove deletes a Secret as it was read, and no later one.
func (a *Authorities) remove(ctx context.Context, secret *corev1.Secret) error {
	if secret.UID == "" {
		return nil // there is none
	}
	return client.IgnoreNotFound(a.options.Client.Delete(ctx, secret, client.Preconditions{
		UID: &secret.UID, ResourceVersion: &secret.ResourceVersion,
	}))
}

// Forget deletes the authorities of a namespace that is gone. It asks the API
// server only when there are any.
func (a *Authorities) Forget(ctx context.Context, namespace string) error {
	a.mu.Lock()
	_, there := a.known[namespace]
	a.mu.Unlock()
	if !there {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: a.options.Namespace, Name: authorityPrefix + namespace}}
	if err := client.IgnoreNotFound(a.options.Client.Delete(ctx, secret)); err != nil {
		return fmt.Errorf("deleting the authority of namespace %s, which is gone: %w", namespace, err)
	}
	a.options.Logger.Info("deleted the authority of a namespace that is gone", "namespace", namespace)
	return nil
}

func (a *Authorities) report(namespace string, changes []change) {
	for _, c := range changes {
		authoritiesChanged.WithLabelValues(string(c.reason)).Inc()
		a.options.Logger.Info("changed the authorities to intercept with", "namespace", namespace, "change", c.words)
	}
}

// NeedLeaderElection is false: every replica signs.
func (*Authorities) NeedLeaderElection() bool { return false }

// Start follows the Secrets until ctx ends. It makes Authorities a
// manager.Runnable.
func (a *Authorities) Start(ctx context.Context) error {
	ofAuthorities, err := labels.NewRequirement(labelAuthority, selection.Exists, nil)
	if err != nil {
		return err
	}
	secrets, err := cache.New(a.options.Config, cache.Options{
		Scheme: a.options.Client.Scheme(),
		Mapper: a.options.Client.RESTMapper(),
		// Of a namespace's many Secrets only ours are read.
		DefaultNamespaces:    map[string]cache.Config{a.options.Namespace: {}},
		DefaultLabelSelector: labels.NewSelector().Add(*ofAuthorities),
		DefaultTransform:     cache.TransformStripManagedFields(),
	})
	if err != nil {
		return fmt.Errorf("watching the Secrets of authorities: %w", err)
	}
	informer, err := secrets.GetInformer(ctx, &corev1.Secret{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watching the Secrets of authorities: %w", err)
	}
	handled, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(added any) { a.saw(added.(*corev1.Secret)) },
		UpdateFunc: func(_, updated any) { a.saw(updated.(*corev1.Secret)) },
		DeleteFunc: a.missed,
	})
	if err != nil {
		return fmt.Errorf("watching the Secrets of authorities: %w", err)
	}
	go func() {
		if toolscache.WaitForCacheSync(ctx.Done(), handled.HasSynced) {
			close(a.synced)
		}
	}()
	return secrets.Start(ctx)
}

// WaitForSync waits until the authorities that there are are known; false when
// ctx ended before.
func (a *Authorities) WaitForSync(ctx context.Context) bool {
	select {
	case <-a.synced:
		return true
	case <-ctx.Done():
		return false
	}
}

// saw takes over what a Secret holds.
func (a *Authorities) saw(secret *corev1.Secret) {
	if namespace, ok := authorityOf(secret); ok {
		l := decodeLineage(secret.Data)
		a.learn(namespace, &known{lineage: l, bundle: string(encodeCertificates(l.roots()...))})
	}
}

// missed forgets what a Secret held that is deleted.
func (a *Authorities) missed(deleted any) {
	if unseen, ok := deleted.(toolscache.DeletedFinalStateUnknown); ok {
		deleted = unseen.Obj
	}
	if secret, ok := deleted.(*corev1.Secret); ok {
		if namespace, ok := authorityOf(secret); ok {
			a.learn(namespace, nil)
		}
	}
}

// authorityOf is the namespace whose authorities a Secret holds.
func authorityOf(secret *corev1.Secret) (namespace string, ok bool) {
	namespace, ok = strings.CutPrefix(secret.Name, authorityPrefix)
	return namespace, ok && secret.Labels[labelAuthority] == namespace
}

// learn keeps what is known of a namespace's Secret, nil for none, and tells of
// it when it is new.
func (a *Authorities) learn(namespace string, next *known) {
	a.mu.Lock()
	before := a.known[namespace]
	if next == nil {
		delete(a.known, namespace)
		next = &known{}
	} else {
		a.known[namespace] = *next
	}
	recordAuthorities(a.known)
	subscribers := a.subscribers[:len(a.subscribers):len(a.subscribers)]
	a.mu.Unlock()
	if before.bundle == next.bundle && (before.key == nil) == (next.key == nil) {
		return
	}
	for _, subscriber := range subscribers {
		subscriber(namespace)
	}
}
