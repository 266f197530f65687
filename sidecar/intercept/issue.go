package intercept

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

const (
	// maxChain bounds the operator's answer, in bytes.
	maxChain = 64 << 10
	// maxAuthorities bounds the certificates of one PEM text from the operator.
	maxAuthorities = 32
)

// leaf is a certificate for one name, with the key that never leaves the sidecar.
type leaf struct {
	certificate tls.Certificate
	expires     time.Time
	// trusted: it verifies with what the pod's processes know.
	trusted bool
}

// request makes a key and has the operator sign a leaf for it.
func (l *leaves) request(ctx context.Context, name string) (*leaf, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a leaf's key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return nil, fmt.Errorf("making a leaf's request: %w", err)
	}
	answer, err := l.issue(ctx, csr)
	if err != nil {
		return nil, fmt.Errorf("having the operator sign a leaf: %w", err)
	}
	if len(answer) > maxChain {
		return nil, fmt.Errorf("reading the operator's leaf: more than %d bytes", maxChain)
	}
	chain, err := parseCertificates(answer)
	if err == nil {
		err = fits(chain, name, key)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the operator's leaf: %w", err)
	}
	f := &leaf{
		certificate: tls.Certificate{PrivateKey: key, Leaf: chain[0]},
		expires:     chain[0].NotAfter,
		trusted:     verifies(chain, name, l.known),
	}
	for _, c := range chain {
		f.certificate.Certificate = append(f.certificate.Certificate, c.Raw)
	}
	return f, nil
}

// fits says whether a chain begins with what was asked for.
func fits(chain []*x509.Certificate, name string, key *ecdsa.PrivateKey) error {
	if len(chain) == 0 {
		return errors.New("it holds no certificate")
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return errors.New("its first certificate is for another key")
	}
	if err := chain[0].VerifyHostname(name); err != nil {
		return errors.New("its first certificate is for another name")
	}
	if !time.Now().Before(chain[0].NotAfter) {
		return errors.New("its first certificate has expired")
	}
	return nil
}

// verifies does what clients of the pod do.
func verifies(chain []*x509.Certificate, name string, known *x509.CertPool) bool {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: known, Intermediates: between})
	return err == nil
}

// parseAuthorities reads a Ruleset's Authorities.
func parseAuthorities(text string) ([]*x509.Certificate, error) {
	return parseCertificates([]byte(text))
}

// parseCertificates reads PEM of certificates and nothing else.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for text = bytes.TrimSpace(text); len(text) > 0; text = bytes.TrimSpace(text) {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("it is not PEM of certificates")
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		if len(certificates) == maxAuthorities {
			return nil, fmt.Errorf("it has more than %d certificates", maxAuthorities)
		}
		certificates = append(certificates, c)
	}
	return certificates, nil
}
