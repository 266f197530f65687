// Package certs makes, keeps and rotates the operator's certificates: an authority, and the serving certificate of the webhook and
// the link that it signs. Both live in one Secret of the operator's namespace,
// which every replica may write and all replicas serve from.
//
// The rules are in renew: a serving certificate lives 90 days and is replaced
// after two thirds of them. An authority lives a year; after two thirds the
// next one joins the bundle that clients verify with (the webhook
// configuration's caBundle, and ruleset.Link.CABundle in the sidecars), signs
// only when it has had the time to reach them all, and the old one leaves the
// bundle when it has expired. So no client ever meets a certificate that it
// does not know yet, as long as the operator runs at least once between.
//
// What is lost, unreadable or expired is made anew at once. Sidecars that know
// only a lost authority keep their last rules, and need a restart of their pod
// to speak to the operator again.
//
// With Options.External somebody else makes that Secret, such as cert-manager;
// the rules of what is published and served then are in adopt.
//
// The package also keeps what sidecars intercept HTTPS with: an authority for
// each namespace whose policies ask for it, in a Secret of its own beside, whose
// name constraints let it sign for the hosts of those policies and nothing
// else. Its rules are in succession: an authority lives two years, and the next
// is made after one, or at once when the hosts outgrow it. The newest signs all
// leaves. Programs learn authorities when they start, and not again: so each
// authority is signed by itself, for those that start later, and by the one
// before it, for those that started earlier; the chain of a leaf leads through
// all of them to the oldest that has not expired. A program that knows any of
// them accepts a leaf for every name that all the authorities between permit.
package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"time"
)

// backdate lets nodes whose clocks are behind accept a new certificate.
const backdate = time.Hour

// keyPair is a certificate and its private key.
type keyPair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newAuthority makes a self-signed authority that expires after life.
func newAuthority(now time.Time, life time.Duration) (*keyPair, error) {
	template, err := newTemplate(now, now.Add(life))
	if err != nil {
		return nil, err
	}
	// A name of its own, so that no two authorities of a bundle are confused.
	template.Subject = pkix.Name{Organization: []string{"Weir"}, CommonName: "weir-authority-" + hex.EncodeToString(template.SerialNumber.Bytes()[:4])}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	return sign(template, nil)
}

// newServing makes a serving certificate that expires after life, or with the
// authority that signs it.
func newServing(now time.Time, life time.Duration, dnsNames []string, authority *keyPair) (*keyPair, error) {
	notAfter := now.Add(life)
	if notAfter.After(authority.cert.NotAfter) {
		notAfter = authority.cert.NotAfter
	}
	template, err := newTemplate(now, notAfter)
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{Organization: []string{"Weir"}, CommonName: "weir-operator"}
	template.DNSNames = dnsNames
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.BasicConstraintsValid = true
	return sign(template, authority)
}

func newTemplate(now, notAfter time.Time) (*x509.Certificate, error) {
	serial := make([]byte, 16)
	if _, err := rand.Read(serial); err != nil {
		return nil, fmt.Errorf("drawing a serial number: %w", err)
	}
	serial[0] = serial[0]&0x7f | 0x40 // positive, and of full length
	return &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial),
		NotBefore:    now.Add(-backdate),
		NotAfter:     notAfter,
	}, nil
}

// sign makes a key for the template and has the authority sign it, or the key
// itself when there is none.
func sign(template *x509.Certificate, authority *keyPair) (*keyPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making the private key of %s: %w", template.Subject.CommonName, err)
	}
	if authority == nil {
		authority = &keyPair{cert: template, key: key}
	}
	cert, err := certify(template, &key.PublicKey, authority)
	if err != nil {
		return nil, err
	}
	return &keyPair{cert: cert, key: key}, nil
}

// certify has the issuer sign a public key.
func certify(template *x509.Certificate, public crypto.PublicKey, issuer *keyPair) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, issuer.cert, public, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("signing the certificate of %s: %w", template.Subject.CommonName, err)
	}
	// Parsed again, so that it equals what is read back from the Secret.
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of %s back: %w", template.Subject.CommonName, err)
	}
	return cert, nil
}

// issued is when a certificate was made.
func issued(cert *x509.Certificate) time.Time { return cert.NotBefore.Add(backdate) }

// due says whether two thirds of a certificate's life are over.
func due(cert *x509.Certificate, now time.Time) bool {
	return !now.Before(issued(cert).Add(cert.NotAfter.Sub(issued(cert)) / 3 * 2))
}

// expired says whether a certificate's life is over. One that begins in the
// future is not: the clock of the replica that made it is ahead, and making
// everything anew for that would set replicas against each other.
func expired(cert *x509.Certificate, now time.Time) bool { return !now.Before(cert.NotAfter) }
