package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// SecretName of the Secret, in the operator's namespace, with the key that
	// the users' passwords are made of.
	SecretName = "weir-store-users"
	keyKey     = "key"
	keyBytes   = 32
	// keyGranted says in which store users were made, as an HMAC of its URL: a
	// replica that starts while Redis is away must not take that for a Redis
	// that has no users.
	keyGranted = "granted"
)

// +kubebuilder:rbac:groups="",resources=namespaces,verbs=get

// secret is what the Secret holds.
type secret struct {
	key     []byte
	granted string
}

// vault reads and writes the Secret, without a cache.
type vault struct {
	client    client.Client
	namespace string
}

// cluster is a short name of this Kubernetes cluster, from the UID of its first
// namespace.
func (v vault) cluster(ctx context.Context) (string, error) {
	namespace := &corev1.Namespace{}
	if err := v.client.Get(ctx, client.ObjectKey{Name: metav1.NamespaceSystem}, namespace); err != nil {
		return "", fmt.Errorf("reading namespace %s, whose UID names the cluster: %w", metav1.NamespaceSystem, err)
	}
	first, _, _ := strings.Cut(string(namespace.UID), "-")
	if first == "" {
		return "", errors.New("namespace " + metav1.NamespaceSystem + " has no UID to name the cluster by")
	}
	return first, nil
}

// read returns what the Secret holds, and makes a key when there is none.
// Another replica may do so at the same time: then its key is taken.
func (v vault) read(ctx context.Context) (secret, error) {
	const attempts = 3
	var err error
	for range attempts {
		var held secret
		if held, err = v.tryToRead(ctx); err == nil {
			return held, nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			break
		}
	}
	return secret{}, fmt.Errorf("keeping the key of the store's users in Secret %s/%s: %w", v.namespace, SecretName, err)
}

func (v vault) tryToRead(ctx context.Context) (secret, error) {
	found := &corev1.Secret{}
	err := v.client.Get(ctx, client.ObjectKey{Namespace: v.namespace, Name: SecretName}, found)
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return secret{}, err
	}
	if key := found.Data[keyKey]; len(key) == keyBytes {
		return secret{key: key, granted: string(found.Data[keyGranted])}, nil
	}
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails, see its documentation
	found.Data = map[string][]byte{keyKey: key}
	if missing {
		found.ObjectMeta = metav1.ObjectMeta{Namespace: v.namespace, Name: SecretName}
		found.Type = corev1.SecretTypeOpaque
		err = v.client.Create(ctx, found)
	} else {
		err = v.client.Update(ctx, found)
	}
	return secret{key: key}, err
}

// CallersKey is a key for the pseudonyms of callers, the same at every replica; it
// is another when the Secret is made anew.
func CallersKey(ctx context.Context, direct client.Client, namespace string) ([]byte, error) {
	held, err := vault{client: direct, namespace: namespace}.read(ctx)
	if err != nil {
		return nil, err
	}
	return []byte(namer{key: held.key}.derive("callers", "")), nil
}

// remember notes in which store users are made; "" for none.
func (v vault) remember(ctx context.Context, granted string) error {
	found := &corev1.Secret{}
	if err := v.client.Get(ctx, client.ObjectKey{Namespace: v.namespace, Name: SecretName}, found); err != nil {
		return err
	}
	if string(found.Data[keyGranted]) == granted {
		return nil // by another replica
	}
	if found.Data == nil {
		found.Data = map[string][]byte{}
	}
	if found.Data[keyGranted] = []byte(granted); granted == "" {
		delete(found.Data, keyGranted)
	}
	return v.client.Update(ctx, found)
}
