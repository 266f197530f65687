package usage

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/access"
)

// issuer of certificates.
type issuer struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// issue a certificate; by nil: one that signs itself, and others.
func issue(t *testing.T, by *issuer, name string, change func(*x509.Certificate)) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name, Organization: []string{"desk", "night"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if by == nil {
		template.IsCA, template.BasicConstraintsValid, template.ExtKeyUsage = true, true, nil
	}
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.certificate, by.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, certificate, key}
}

func (i *issuer) text() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.certificate.Raw}))
}

// published is an API server that publishes authorities, or fails.
type published struct {
	client.Reader
	text string
	err  error
}

func (p *published) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.(*corev1.ConfigMap).Data = map[string]string{clientCAKey: p.text}
	return p.err
}

func TestClientCertificates(t *testing.T) {
	t.Parallel()
	root, other := issue(t, nil, "cluster", nil), issue(t, nil, "other", nil)
	between := issue(t, root, "between", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid, c.ExtKeyUsage = true, true, nil })
	authorities := NewClientAuthorities(&published{text: root.text()}, logr.Discard())
	authorities.Refresh(t.Context())
	for _, test := range []struct {
		reason string
		chain  []*issuer
		known  bool
	}{
		{"a user's", []*issuer{issue(t, root, "alice", nil)}, true},
		{"a user's with what is between", []*issuer{issue(t, between, "alice", nil), between}, true},
		{"without what is between", []*issuer{issue(t, between, "alice", nil)}, false},
		{"another authority's", []*issuer{issue(t, other, "alice", nil)}, false},
		{"signed by itself", []*issuer{other}, false},
		{"over", []*issuer{issue(t, root, "alice", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}, false},
		{"a server's", []*issuer{issue(t, root, "alice", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}, false},
	} {
		var raw [][]byte
		var chain []*x509.Certificate
		for _, i := range test.chain {
			raw, chain = append(raw, i.certificate.Raw), append(chain, i.certificate)
		}
		if err := authorities.VerifyPeer(raw, nil); (err == nil) != test.known {
			t.Errorf("%s: in the handshake %v, want accepted %v", test.reason, err, test.known)
		}
		found, err := authorities.subject(chain)
		if test.known != (err == nil) || err != nil && !errors.Is(err, access.ErrUnauthenticated) {
			t.Errorf("%s: as a user %v, want accepted %v", test.reason, err, test.known)
		}
		if test.known && (found.Username != "alice" || !slices.Equal(found.Groups, []string{"desk", "night", "system:authenticated"})) {
			t.Errorf("%s: is %+v", test.reason, *found)
		}
	}
	nameless := issue(t, root, "", nil)
	if _, err := authorities.subject([]*x509.Certificate{nameless.certificate}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("one without a name: %v, want it to prove nothing", err)
	}
	large := issue(t, root, "alice", func(c *x509.Certificate) {
		c.Subject.Organization = slices.Repeat([]string{"a-group-of-some-length"}, 1000)
	})
	if err := authorities.VerifyPeer([][]byte{large.certificate.Raw}, nil); err == nil {
		t.Error("a large certificate was accepted")
	}
	if err := authorities.VerifyPeer(nil, nil); err != nil {
		t.Errorf("without a certificate: %v", err)
	}
}

// What cannot be read, or is nothing, leaves what was known; and while nothing is
// known nobody is accepted by a certificate, nor refused for one.
func TestClientAuthoritiesAreKept(t *testing.T) {
	t.Parallel()
	first, second := issue(t, nil, "first", nil), issue(t, nil, "second", nil)
	store := &published{err: apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, authenticationConfigMap)}
	authorities := NewClientAuthorities(store, logr.Discard())
	accepts := func(by *issuer) bool {
		t.Helper()
		authorities.Refresh(t.Context())
		alice := issue(t, by, "alice", nil)
		_, err := authorities.subject([]*x509.Certificate{alice.certificate})
		return err == nil
	}
	if accepts(first) {
		t.Error("accepted while nothing is published")
	}
	if err := authorities.VerifyPeer([][]byte{issue(t, first, "alice", nil).certificate.Raw}, nil); err != nil {
		t.Errorf("refused while nothing is published: %v", err)
	}
	if _, err := (*ClientAuthorities)(nil).subject([]*x509.Certificate{first.certificate}); !errors.Is(err, access.ErrUnauthenticated) {
		t.Errorf("without authorities: %v", err)
	}
	store.text, store.err = first.text(), nil
	if !accepts(first) {
		t.Error("refused what is published")
	}
	store.err = errors.New("away")
	if !accepts(first) {
		t.Error("forgotten while it cannot be read")
	}
	store.err = nil
	for _, text := range []string{"", "nonsense"} {
		store.text = text
		if !accepts(first) {
			t.Errorf("forgotten when %q was published", text)
		}
	}
	store.text = second.text()
	if accepts(first) || !accepts(second) {
		t.Error("another authority is not in force")
	}
}
