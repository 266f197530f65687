package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	corev1 "k8s.io/api/core/v1"
)

// Keys of the Secret, beside those of its type kubernetes.io/tls. The
// certificate of a key is the one in the bundle with the same public key.
const (
	keyBundle    = "ca.crt"
	keySigner    = "ca.key"
	keyNext      = "next-ca.key"
	maxBundle    = 16
	pemCert      = "CERTIFICATE"
	pemKey       = "PRIVATE KEY"
	pemECKey     = "EC PRIVATE KEY"
	maxPEMLength = 64 << 10
)

// decode reads a Secret's data. What is missing or cannot be read is absent
// from the result, and made anew by renew.
func decode(data map[string][]byte) material {
	var m material
	for _, cert := range decodeCertificates(data[keyBundle]) {
		if cert.IsCA && len(m.bundle) < maxBundle {
			m.bundle = append(m.bundle, cert)
		}
	}
	m.signer = pair(m.bundle, data[keySigner])
	m.next = pair(m.bundle, data[keyNext])
	m.serving = pair(decodeCertificates(data[corev1.TLSCertKey]), data[corev1.TLSPrivateKeyKey])
	return m
}

// encode writes what decode reads.
func encode(m material) (map[string][]byte, error) {
	data := map[string][]byte{
		keyBundle:         encodeCertificates(m.bundle...),
		corev1.TLSCertKey: encodeCertificates(m.serving.cert),
	}
	for name, keys := range map[string]*keyPair{keySigner: m.signer, keyNext: m.next, corev1.TLSPrivateKeyKey: m.serving} {
		if keys == nil {
			continue
		}
		der, err := x509.MarshalPKCS8PrivateKey(keys.key)
		if err != nil {
			return nil, fmt.Errorf("encoding the private key %s: %w", name, err)
		}
		data[name] = pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	}
	return data, nil
}

// pair finds the certificate of a key; nil when there is none, or no key.
func pair(certs []*x509.Certificate, encodedKey []byte) *keyPair {
	key := decodeKey(encodedKey)
	if key == nil {
		return nil
	}
	for _, cert := range certs {
		if key.PublicKey.Equal(cert.PublicKey) {
			return &keyPair{cert: cert, key: key}
		}
	}
	return nil
}

func decodeKey(encoded []byte) *ecdsa.PrivateKey {
	if len(encoded) > maxPEMLength {
		return nil
	}
	block, _ := pem.Decode(encoded)
	if block == nil {
		return nil
	}
	if block.Type == pemECKey { // as an External certificate's may be
		key, _ := x509.ParseECPrivateKey(block.Bytes)
		return key
	}
	if block.Type != pemKey {
		return nil
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	ecdsaKey, _ := key.(*ecdsa.PrivateKey)
	return ecdsaKey
}

func decodeCertificates(encoded []byte) []*x509.Certificate {
	if len(encoded) > maxPEMLength {
		return nil
	}
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, encoded = pem.Decode(encoded); block == nil {
			return certs
		}
		if block.Type != pemCert {
			continue
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			certs = append(certs, cert)
		}
	}
}

func encodeCertificates(certs ...*x509.Certificate) []byte {
	var encoded bytes.Buffer
	for _, cert := range certs {
		encoded.Write(pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: cert.Raw}))
	}
	return encoded.Bytes()
}
