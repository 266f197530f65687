package certs

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/singleflight"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// settleTimeout bounds the reading and writing of one namespace's Secret.
const settleTimeout = 5 * time.Second

// AuthoritiesOptions of Authorities. The first three are required.
type AuthoritiesOptions struct {
	// Config reaches the API server, to watch the Secrets.
	Config *rest.Config
	// Client reads and writes directly.
	Client client.Client
	// Namespace of the Secrets: the operator's.
	Namespace string
	// Now is the clock, default time.Now.
	Now func() time.Time
	// Logger says what was made, never a key.
	Logger logr.Logger
	// Life of an authority, default two years; the next is made after half of it.
	Life time.Duration
	// LeafLife, default 6 hours.
	LeafLife time.Duration
}

// Authorities sign what sidecars intercept with. Every replica of the operator
// has one: all know the authorities of all namespaces from a watch on their
// Secrets, and any makes one that is missing. When two do so at once, the later
// write conflicts, and its replica takes the other's.
type Authorities struct {
	options AuthoritiesOptions
	rules   succession
	flights singleflight.Group
	synced  chan struct{}

	mu          sync.Mutex
	known       map[string]known // by namespace
	subscribers []func(namespace string)
}

// known is a namespace's Secret as it was seen last.
type known struct {
	lineage
	bundle string
}

// NewAuthorities returns Authorities that know none until Start.
func NewAuthorities(options AuthoritiesOptions) *Authorities {
	if options.Now == nil {
		options.Now = time.Now
	}
	options.LeafLife = cmp.Or(options.LeafLife, 6*time.Hour)
	options.Life = cmp.Or(options.Life, 2*365*24*time.Hour)
	return &Authorities{
		options: options,
		rules: succession{
			life:     options.Life,
			rotation: options.Life / 2,
			most:     8,
		},
		synced: make(chan struct{}),
		known:  map[string]known{},
	}
}

// OnChange has f called with every namespace whose authorities have changed,
// after Bundle says so.
func (a *Authorities) OnChange(f func(namespace string)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.subscribers = append(a.subscribers, f)
}

// Namespaces are those that have authorities, or a Secret for them.
func (a *Authorities) Namespaces() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Keys(a.known))
}

// Bundle is the PEM of all authorities of a namespace, the newest last; empty
// when it has none.
func (a *Authorities) Bundle(namespace string) string {
	return a.of(namespace).bundle
}

func (a *Authorities) of(namespace string) known {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.known[namespace]
}

// For is the Bundle of a namespace with an authority that may sign for domains
// and what is below them; it is made when there is none. It asks the API server
// only then, and waits for it until ctx ends.
func (a *Authorities) For(ctx context.Context, namespace string, domains []string) (string, error) {
	if len(domains) == 0 {
		return a.Bundle(namespace), nil
	}
	l, err := a.obtain(ctx, namespace, domains)
	if err != nil {
		return "", err
	}
	return string(encodeCertificates(l.roots()...)), nil
}

// Sign makes a leaf for names with somebody else's public key. domains are all
// that the namespace's authority has to be for. The result is PEM: the leaf,
// and the authorities as signed by the ones before, the newest first.
func (a *Authorities) Sign(ctx context.Context, namespace string, domains, names []string, public crypto.PublicKey) ([]byte, error) {
	l, err := a.obtain(ctx, namespace, domains)
	if err != nil {
		return nil, err
	}
	signer, now := l.signer(), a.options.Now()
	bare := make([]string, len(names))
	for i, name := range names {
		bare[i] = strings.TrimPrefix(name, "*.")
	}
	if !permits(signer.cert, bare) {
		return nil, errors.New("signing a leaf: a name is outside what the authority may sign for")
	}
	leaf, err := newLeaf(now, a.options.LeafLife, names, public, signer)
	if err != nil {
		return nil, err
	}
	return encodeCertificates(slices.Concat([]*x509.Certificate{leaf}, l.crossed(now))...), nil
}

// obtain is the namespace's authorities, the newest of which has its key and
// may sign for domains now.
func (a *Authorities) obtain(ctx context.Context, namespace string, domains []string) (lineage, error) {
	if held := a.of(namespace); held.signs(a.options.Now(), domains) {
		return held.lineage, nil
	}
	// The writing outlives a caller that goes away: others may wait for it.
	flight := a.flights.DoChan(namespace+" "+strings.Join(domains, " "), func() (any, error) {
		settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTimeout)
		defer cancel()
		return a.settle(settling, namespace, domains)
	})
	select {
	case <-ctx.Done():
		return lineage{}, fmt.Errorf("waiting for the authority of namespace %s: %w", namespace, ctx.Err())
	case answer := <-flight:
		if answer.Err != nil {
			return lineage{}, answer.Err
		}
		return answer.Val.(lineage), nil
	}
}

// Keep makes a namespace's authorities good for domains, rotation and expiry
// included, and returns how long it has to be called again after; zero when
// there is nothing to wait for. Without domains none is made.
func (a *Authorities) Keep(ctx context.Context, namespace string, domains []string) (again time.Duration, err error) {
	held := a.of(namespace)
	l, changes, err := a.rules.after(a.options.Now(), held.lineage, namespace, domains)
	if err != nil {
		return 0, err
	}
	if len(changes) > 0 {
		settling, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		if l, err = a.settle(settling, namespace, domains); err != nil {
			return 0, err
		}
	}
	next := a.rules.ages(l, len(domains) > 0)
	if next.IsZero() {
		return 0, nil
	}
	return max(time.Second, next.Sub(a.options.Now())), nil
}
