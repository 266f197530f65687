package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// Keys of the Secret of a namespace's authorities.
const (
	keyAuthorities  = "authorities.crt"
	keyCrossed      = "crossed.crt"
	keyAuthorityKey = "authority.key"
)

// decodeLineage reads a Secret's data. What is missing or cannot be read is
// absent from the result.
func decodeLineage(data map[string][]byte) lineage {
	var l lineage
	crossed := decodeCertificates(data[keyCrossed])
	for _, root := range decodeCertificates(data[keyAuthorities]) {
		if !isAuthority(root) || len(l.authorities) == maxBundle {
			continue
		}
		a := authority{root: root}
		if before := l.newest(); before != nil {
			a.crossed = crossedFor(root, before, crossed)
		}
		l.authorities = append(l.authorities, a)
	}
	if key := decodeKey(data[keyAuthorityKey]); key != nil && l.newest() != nil && key.PublicKey.Equal(l.newest().PublicKey) {
		l.key = key
	}
	return l
}

// crossedFor finds an authority among those that the one before has signed.
func crossedFor(root, before *x509.Certificate, crossed []*x509.Certificate) *x509.Certificate {
	for _, cert := range crossed {
		if bytes.Equal(cert.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) &&
			bytes.Equal(cert.RawSubject, root.RawSubject) && isAuthority(cert) && cert.CheckSignatureFrom(before) == nil {
			return cert
		}
	}
	return nil
}

// encodeLineage writes what decodeLineage reads.
func encodeLineage(l lineage) (map[string][]byte, error) {
	var crossed []*x509.Certificate
	for _, a := range l.authorities {
		if a.crossed != nil {
			crossed = append(crossed, a.crossed)
		}
	}
	data := map[string][]byte{
		keyAuthorities: encodeCertificates(l.roots()...),
		keyCrossed:     encodeCertificates(crossed...),
	}
	if l.key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(l.key)
		if err != nil {
			return nil, fmt.Errorf("encoding the authority's private key: %w", err)
		}
		data[keyAuthorityKey] = pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der})
	}
	return data, nil
}
