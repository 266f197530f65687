package intercept

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"sync/atomic"
	"testing"
	"time"
)

// authority signs leaves, as the operator does, and the certificates of hosts.
type authority struct {
	t     testing.TB
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	above []*x509.Certificate // sent along: this one as signed by those before it
	life  time.Duration
	// permitted are its name constraints, none for any name.
	permitted []string
	asked     atomic.Int32
}

func newAuthority(t testing.TB, name string, permitted ...string) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t), life: time.Hour, permitted: permitted}
	a.cert = a.signedBy(name, a.key, nil)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signedBy is a's certificate as signed by an older authority's key; by its own when parent is nil.
func (a *authority) signedBy(name string, key crypto.Signer, parent *x509.Certificate) *x509.Certificate {
	a.t.Helper()
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, SerialNumber: serial(),
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		PermittedDNSDomains: a.permitted, PermittedDNSDomainsCritical: len(a.permitted) > 0,
	}
	if parent == nil {
		parent = template
	}
	return certificate(a.t, template, parent, a.key.Public(), key)
}

// succeed makes the next authority, which those who know only a trust through a.
// Its name must be another: to OpenSSL a certificate of one name that signs
// another of that name is signed by itself.
func (a *authority) succeed(name string) *authority {
	a.t.Helper()
	next := newAuthority(a.t, name, a.permitted...)
	next.above = append([]*x509.Certificate{next.signedBy(name, a.key, a.cert)}, a.above...)
	return next
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	return n
}

func certificate(t testing.TB, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// issue is Config.Issue.
func (a *authority) issue(_ context.Context, request []byte) ([]byte, error) {
	a.asked.Add(1)
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	leaf := a.leaf(csr.PublicKey, csr.DNSNames...)
	return encode(append([]*x509.Certificate{leaf}, a.above...)), nil
}

func (a *authority) leaf(public crypto.PublicKey, names ...string) *x509.Certificate {
	return certificate(a.t, &x509.Certificate{
		SerialNumber: serial(), DNSNames: names,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(a.life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.cert, public, a.key)
}

// served is a certificate of a server.
func (a *authority) served(names ...string) tls.Certificate {
	key := newKey(a.t)
	return tls.Certificate{Certificate: [][]byte{a.leaf(key.Public(), names...).Raw}, PrivateKey: key}
}

func (a *authority) pem() string { return string(encode([]*x509.Certificate{a.cert})) }

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}
