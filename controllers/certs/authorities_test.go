package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// secrets is an API server that holds Secrets, as far as Authorities ask it.
type secrets struct {
	client.Client
	mu      sync.Mutex
	held    map[string]*corev1.Secret
	version int
	calls   atomic.Int32
	err     error
	// seen is told of every write, nil for a deletion; a watch.
	seen func(written *corev1.Secret, deleted *corev1.Secret)
}

var secretResource = schema.GroupResource{Resource: "secrets"}

func newSecrets() *secrets {
	return &secrets{held: map[string]*corev1.Secret{}, seen: func(_, _ *corev1.Secret) {}}
}

func (s *secrets) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	s.calls.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	held, ok := s.held[key.Name]
	if !ok {
		return apierrors.NewNotFound(secretResource, key.Name)
	}
	held.DeepCopyInto(object.(*corev1.Secret))
	return nil
}

func (s *secrets) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.held[object.GetName()]; ok {
		return apierrors.NewAlreadyExists(secretResource, object.GetName())
	}
	s.version++
	object.SetUID(types.UID("uid-" + strconv.Itoa(s.version)))
	s.put(object.(*corev1.Secret))
	return nil
}

func (s *secrets) Update(_ context.Context, object client.Object, _ ...client.UpdateOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.held[object.GetName()]; !ok || held.ResourceVersion != object.GetResourceVersion() {
		return apierrors.NewConflict(secretResource, object.GetName(), errors.New("another version"))
	}
	s.version++
	s.put(object.(*corev1.Secret))
	return nil
}

func (s *secrets) Delete(_ context.Context, object client.Object, _ ...client.DeleteOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	deleted, ok := s.held[object.GetName()]
	if !ok {
		return apierrors.NewNotFound(secretResource, object.GetName())
	}
	delete(s.held, object.GetName())
	s.seen(nil, deleted)
	return nil
}

func (s *secrets) put(secret *corev1.Secret) {
	secret.ResourceVersion = strconv.Itoa(s.version)
	s.held[secret.Name] = secret.DeepCopy()
	s.seen(secret.DeepCopy(), nil)
}

// newTestAuthorities makes a replica's Authorities whose watch is as fast as can be.
func newTestAuthorities(t *testing.T, s *secrets, now func() time.Time) *Authorities {
	t.Helper()
	a := NewAuthorities(AuthoritiesOptions{Client: s, Namespace: "weir-system", Now: now})
	before := s.seen
	s.seen = func(written, deleted *corev1.Secret) {
		before(written, deleted)
		if written != nil {
			a.saw(written)
		} else {
			a.missed(deleted)
		}
	}
	return a
}

func TestReplicasAgreeOnOneAuthority(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	const replicas = 4
	bundles := make(chan string, 2*replicas)
	var all []*Authorities
	for range replicas {
		all = append(all, newTestAuthorities(t, s, nil))
	}
	for _, a := range all {
		for range 2 {
			go func() {
				bundle, err := a.For(t.Context(), "shop", []string{"api.example.com"})
				if err != nil {
					t.Error(err)
				}
				bundles <- bundle
			}()
		}
	}
	for range 2 * replicas {
		if got := len(decodeCertificates([]byte(<-bundles))); got != 1 {
			t.Errorf("a replica knows %d authorities, want 1", got)
		}
	}
	want := string(s.held["weir-authority-shop"].Data[keyAuthorities])
	for i, a := range all {
		if a.Bundle("shop") != want {
			t.Errorf("replica %d has another bundle than the Secret", i)
		}
	}
}

func TestWhatIsKnownCostsNoRequest(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	a := newTestAuthorities(t, s, nil)
	for range 3 {
		if _, err := a.For(t.Context(), "shop", []string{"api.example.com"}); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Keep(t.Context(), "shop", []string{"api.example.com"}); err != nil {
			t.Fatal(err)
		}
	}
	if bundle, err := a.For(t.Context(), "shop", nil); err != nil || bundle != a.Bundle("shop") {
		t.Errorf("without domains: %v", err)
	}
	if err := a.Forget(t.Context(), "elsewhere"); err != nil {
		t.Error(err)
	}
	if got := s.calls.Load(); got != 1 {
		t.Errorf("asked the API server %d times, want once", got)
	}
}

func TestAReplicaLearnsWhatAnotherMakes(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	a, b := newTestAuthorities(t, s, nil), newTestAuthorities(t, s, nil)
	var told []string
	b.OnChange(func(namespace string) {
		told = append(told, namespace+":"+strconv.Itoa(strings.Count(b.Bundle(namespace), "BEGIN")))
	})
	for _, domains := range [][]string{{"a.example"}, {"a.example"}, {"a.example", "b.example"}} {
		if _, err := a.For(t.Context(), "shop", domains); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Forget(t.Context(), "shop"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"shop:1", "shop:2", "shop:0"}; !slices.Equal(told, want) {
		t.Errorf("got %q, want %q", told, want)
	}
}

func TestKeepFollowsTheClock(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	now := began
	a := newTestAuthorities(t, s, func() time.Time { return now })
	for _, step := range []struct {
		reason  string
		at      time.Duration
		domains []string
		again   time.Duration
		holds   int
	}{
		{"made, to be looked at when the next is due", 0, []string{"a.example"}, 365 * day, 1},
		{"in between nothing happens", 100 * day, []string{"a.example"}, 365 * day, 1},
		{"rotated, to be looked at when the first expires or the next is due", 365 * day, []string{"a.example"}, 730 * day, 2},
		{"nobody intercepts any more: the first has expired", 740 * day, nil, (365 + 730) * day, 1},
		{"the last has, and the Secret goes", 1100 * day, nil, 0, 0},
		{"nothing to wait for", 1101 * day, nil, 0, 0},
	} {
		now = began.Add(step.at)
		again, err := a.Keep(t.Context(), "shop", step.domains)
		if err != nil {
			t.Fatalf("%s: %v", step.reason, err)
		}
		want := max(0, step.again-step.at)
		if got := strings.Count(a.Bundle("shop"), "BEGIN"); got != step.holds || again != want {
			t.Errorf("%s: got %d authorities and the next look in %v, want %d and %v", step.reason, got, again, step.holds, want)
		}
	}
	if len(s.held) != 0 {
		t.Errorf("want no Secret left, got %d", len(s.held))
	}
}

func TestASecretThatLostItsLabelIsFoundAgain(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	a := newTestAuthorities(t, s, nil)
	first, err := a.For(t.Context(), "shop", []string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	a.missed(s.held["weir-authority-shop"]) // so a watch by label tells of it
	s.held["weir-authority-shop"].Labels = nil
	again, err := a.For(t.Context(), "shop", []string{"a.example"})
	if err != nil || again != first || a.Bundle("shop") != first {
		t.Errorf("want the same authority, known again; got error %v", err)
	}
}

func TestNobodyWaitsForAnAPIServerLongerThanAsked(t *testing.T) {
	t.Parallel()
	s := newSecrets()
	a := NewAuthorities(AuthoritiesOptions{Client: hung{s}, Namespace: "weir-system"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.For(ctx, "shop", []string{"a.example"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the caller's end", err)
	}
	s.err = errors.New("forbidden")
	if _, err := newTestAuthorities(t, s, nil).For(t.Context(), "shop", []string{"a.example"}); !errors.Is(err, s.err) {
		t.Errorf("got %v, want the API server's refusal", err)
	}
}

// hung answers when its caller has given up.
type hung struct{ client.Client }

func (hung) Get(ctx context.Context, _ client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestSign(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	s := newSecrets()
	a := newTestAuthorities(t, s, nil)
	a.options.Logger = funcr.New(func(_, line string) { log.WriteString(line) }, funcr.Options{})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	old, err := a.For(t.Context(), "shop", []string{"a.example"})
	if err != nil {
		t.Fatal(err)
	}
	domains := []string{"a.example", "b.example"}
	for _, names := range [][]string{{"c.example"}, {"a.example", "c.example"}, {"*.example"}} {
		if _, err := a.Sign(t.Context(), "shop", domains, names, key.Public()); err == nil {
			t.Errorf("signed a leaf for %q", names)
		}
	}
	chain, err := a.Sign(t.Context(), "shop", domains, []string{"a.example", "*.a.example"}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	certs := decodeCertificates(chain)
	if len(certs) != 2 || !key.PublicKey.Equal(certs[0].PublicKey) || certs[1].IsCA != true {
		t.Fatalf("got a chain of %d, want the leaf and the second authority as the first signed it", len(certs))
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(old))
	between.AddCert(certs[1])
	for _, name := range []string{"a.example", "www.a.example"} {
		if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name}); err != nil {
			t.Errorf("a program that knows the first authority refuses %s: %v", name, err)
		}
	}
	if strings.Contains(log.String(), "PRIVATE") || !strings.Contains(log.String(), "may not sign for all") {
		t.Errorf("want a log of what was made, and no key; got %s", log.String())
	}
}

func TestTheNextAuthorityIsMadeAfterHalfOfALife(t *testing.T) {
	t.Parallel()
	for life, want := range map[time.Duration]time.Duration{0: 365 * 24 * time.Hour, 4 * time.Hour: 2 * time.Hour} {
		if got := NewAuthorities(AuthoritiesOptions{Life: life}).rules.rotation; got != want {
			t.Errorf("a life of %v: the next authority comes at the age of %v, want %v", life, got, want)
		}
	}
}
