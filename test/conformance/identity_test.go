package conformance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// upstreamName is the name that the upstream proves to have.
const upstreamName = "upstream.test"

// identity is a server's certificate, and the root that it verifies with. All
// are PEM.
type identity struct{ certificate, key, root []byte }

// upstreamIdentity is what upstreams speak TLS with.
var upstreamIdentity = sync.OnceValue(func() identity {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "conformance"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{upstreamName},
	}
	certificate := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	return identity{
		certificate: encoded, root: encoded,
		key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))}),
	}
})

// authority signs the leaves of interception, as the operator does.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	root        []byte // PEM
}

var operator = sync.OnceValue(func() *authority {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))
	return &authority{
		certificate: must(x509.ParseCertificate(der)), key: key,
		root: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
	}
})

// issue signs a request in DER for what it asks.
func (a *authority) issue(_ context.Context, request []byte) ([]byte, error) {
	asked, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), DNSNames: asked.DNSNames,
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, a.certificate, asked.PublicKey, a.key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), err
}

// must is for what cannot fail with the arguments that it has here.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// server is the configuration of an upstream that speaks one of protocols.
func (i identity) server(protocols ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{must(tls.X509KeyPair(i.certificate, i.key))}, NextProtos: protocols}
}

// client is the configuration of a client of the path.
func (p path) client(protocols ...string) *tls.Config {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.roots)
	return &tls.Config{RootCAs: roots, ServerName: upstreamName, NextProtos: protocols}
}

// file writes content where a program reads it.
func file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
