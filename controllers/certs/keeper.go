package certs

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// The names that the manifests and the RBAC rules below know.
const (
	DefaultSecretName  = "weir-certificates"
	DefaultWebhookName = "weir"
)

// +kubebuilder:rbac:groups=admissionregistration.k8s.io,resources=mutatingwebhookconfigurations,resourceNames=weir,verbs=get;patch

// Options of a Keeper.
type Options struct {
	// Client reads and writes directly: a cache would hold the Secrets of a
	// whole namespace, and be behind.
	Client client.Client
	// Namespace of the Secret: the operator's.
	Namespace string
	// SecretName, default DefaultSecretName.
	SecretName string
	// WebhookName of the MutatingWebhookConfiguration whose caBundles are kept
	// up to date. Empty: none.
	WebhookName string
	// DNSNames that the serving certificate is for: see ServiceNames.
	DNSNames []string
	// Now is the clock, default time.Now.
	Now func() time.Time
	// Logger says what was renewed, never a key.
	Logger logr.Logger
	// External is a Secret in which somebody else, such as cert-manager, makes
	// and renews the certificate to serve: tls.crt, tls.key and ca.crt. The lives
	// below are theirs then. Empty: the certificates are our own.
	External string

	// Interval at which the Secret and the webhook configuration are looked at,
	// default 10 seconds.
	Interval time.Duration
	// AuthorityLife, default 365 days.
	AuthorityLife time.Duration
	// ServingLife, default 90 days.
	ServingLife time.Duration
	// Propagation is how long a new authority is published before it signs,
	// default 24 hours; of External ones, before what it signed is served,
	// default 5 minutes.
	Propagation time.Duration
}

// ServiceNames are the DNS names by which pods and the API server reach
// Services of a namespace.
func ServiceNames(namespace string, services ...string) []string {
	var names []string
	for _, service := range services {
		names = append(names, service+"."+namespace+".svc", service+"."+namespace+".svc.cluster.local")
	}
	return names
}

// Keeper holds the current certificates of one replica of the operator.
type Keeper struct {
	options Options
	rules   rules
	// ensuring is held for one round at a time.
	ensuring sync.Mutex
	held     atomic.Pointer[held]
	// handover is that of an External certificate.
	handover handover

	subscribersMutex sync.Mutex
	subscribers      []func()
}

// held is what is served.
type held struct {
	certificate *tls.Certificate
	bundle      []byte
}

// same says whether nothing changes.
func (h *held) same(other *held) bool {
	return h.certificate.Leaf.Equal(other.certificate.Leaf) && bytes.Equal(h.bundle, other.bundle)
}

// New returns a Keeper that holds nothing until Ensure.
func New(options Options) *Keeper {
	options.SecretName = cmp.Or(options.SecretName, DefaultSecretName)
	options.Interval = cmp.Or(options.Interval, 10*time.Second)
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.External != "" {
		options.Propagation = cmp.Or(options.Propagation, externalPropagation)
	}
	return &Keeper{options: options, rules: rules{
		dnsNames:      options.DNSNames,
		authorityLife: cmp.Or(options.AuthorityLife, 365*24*time.Hour),
		servingLife:   cmp.Or(options.ServingLife, 90*24*time.Hour),
		propagation:   cmp.Or(options.Propagation, 24*time.Hour),
	}}
}

// Ensure makes the Secret good, unless that is somebody else's, takes the
// certificates over from it, and writes the bundle into the webhook
// configuration. It is called once before
// anything is served, and by Start from then on. After an error the Keeper
// serves what it served before.
func (k *Keeper) Ensure(ctx context.Context) error {
	k.ensuring.Lock()
	defer k.ensuring.Unlock()

	if k.options.External != "" {
		return k.adopt(ctx)
	}
	current, err := k.settle(ctx)
	if err != nil {
		return err
	}
	recordExpiry(current.serving.cert, current.signer.cert)
	next := &held{
		certificate: &tls.Certificate{
			Certificate: [][]byte{current.serving.cert.Raw},
			PrivateKey:  current.serving.key,
			Leaf:        current.serving.cert,
		},
		bundle: encodeCertificates(current.bundle...),
	}
	k.take(next)
	return k.publish(ctx, next.bundle)
}

// Await is Ensure, but waits for what somebody else has to make, until a time
// that bounds it.
func (k *Keeper) Await(ctx context.Context, timeout time.Duration) error {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for told := false; ; told = true {
		err := k.Ensure(ctx)
		if err == nil || !errors.Is(err, ErrNoCertificate) {
			return err
		}
		if !told {
			k.options.Logger.Info("waiting for the certificate", "for", timeout.String(), "reason", err.Error())
		}
		select {
		case <-waiting.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// Start ensures the certificates until ctx ends. It makes Keeper a
// manager.Runnable.
func (k *Keeper) Start(ctx context.Context) error {
	ticker := time.NewTicker(k.options.Interval)
	defer ticker.Stop()
	for {
		if err := k.Ensure(ctx); err != nil && ctx.Err() == nil {
			k.options.Logger.Error(err, "keeping the certificates; the last ones are served until it succeeds")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// NeedLeaderElection is false: every replica serves, so every replica keeps.
func (*Keeper) NeedLeaderElection() bool { return false }

// GetCertificate is the serving certificate, for tls.Config.
func (k *Keeper) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if held := k.held.Load(); held != nil {
		return held.certificate, nil
	}
	return nil, errors.New("the operator has no serving certificate yet")
}

// CABundle is the PEM to verify the operator's servers with; nil before Ensure.
func (k *Keeper) CABundle() []byte {
	if held := k.held.Load(); held != nil {
		return bytes.Clone(held.bundle)
	}
	return nil
}

// OnChange has f called after the certificate or the bundle has changed.
func (k *Keeper) OnChange(f func()) {
	k.subscribersMutex.Lock()
	defer k.subscribersMutex.Unlock()
	k.subscribers = append(k.subscribers, f)
}

// settle brings the Secret into the state that renew wants.
func (k *Keeper) settle(ctx context.Context) (current material, err error) {
	err = k.retry(func() error {
		current, err = k.tryToSettle(ctx)
		return err
	})
	return current, err
}

// retry does again what reads the Secret and writes it. Another replica may do
// the same at the same time: then its write is found and taken.
func (k *Keeper) retry(do func() error) error {
	// Whoever conflicts lost to a write that leaves nothing to do, but for
	// somebody else's write of the Secret's metadata.
	const attempts = 5
	var err error
	for range attempts {
		if err = do(); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return err
		}
	}
	return err
}

func (k *Keeper) tryToSettle(ctx context.Context) (material, error) {
	secret, missing, err := k.secret(ctx)
	if err != nil {
		return material{}, err
	}
	next, changes, err := renew(k.options.Now(), decode(secret.Data), k.rules)
	if err != nil || len(changes) == 0 {
		return next, err
	}
	if secret.Data, err = encode(next); err != nil {
		return material{}, err
	}
	if err := k.write(ctx, secret, missing); err != nil {
		return material{}, err
	}
	k.options.Logger.Info("renewed certificates", "secret", secret.Namespace+"/"+secret.Name, "changes", changes)
	return next, nil
}

// secret is our own, or an empty one when it is missing.
func (k *Keeper) secret(ctx context.Context) (_ *corev1.Secret, missing bool, err error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: k.options.Namespace, Name: k.options.SecretName}
	err = k.options.Client.Get(ctx, key, secret)
	if apierrors.IsNotFound(err) {
		return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Type: corev1.SecretTypeTLS}, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("reading the certificates in Secret %s: %w", key, err)
	}
	return secret, false, nil
}

func (k *Keeper) write(ctx context.Context, secret *corev1.Secret, missing bool) error {
	write := func() error { return k.options.Client.Update(ctx, secret) }
	if missing {
		write = func() error { return k.options.Client.Create(ctx, secret) }
	}
	if err := write(); err != nil {
		return fmt.Errorf("writing the certificates to Secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}

// take serves what is held next from now on.
func (k *Keeper) take(next *held) {
	if before := k.held.Load(); before != nil && before.same(next) {
		return
	}
	k.held.Store(next)

	k.subscribersMutex.Lock()
	subscribers := k.subscribers[:len(k.subscribers):len(k.subscribers)]
	k.subscribersMutex.Unlock()
	for _, subscriber := range subscribers {
		subscriber()
	}
}
