package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"net"
	"slices"
	"strings"
	"time"
)

// An authority signs for DNS names only. Each other kind of name is forbidden by
// permitting it nowhere: at a domain that nobody can have (RFC 2606) and at the
// address of no host. To exclude everything instead, RFC 5280 has an empty
// domain, which Java cannot read, and two ranges of addresses, on which Java
// stumbles in every chain with more than one authority between.
const noDomain = "invalid"

var noAddress = &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(32, 32)}

// authority is one that signs what sidecars intercept with. Both certificates
// have the same subject, key and constraints.
type authority struct {
	// root is signed by itself.
	root *x509.Certificate
	// crossed is signed by the authority before; nil when there was none, or it
	// was lost or has left.
	crossed *x509.Certificate
}

// foundAuthority makes an authority that may sign for the domains and what is
// below them, and has the one before, if there is one, sign it too.
func foundAuthority(now time.Time, s succession, namespace string, domains []string, before *keyPair) (authority, *ecdsa.PrivateKey, error) {
	template, err := newTemplate(now, now.Add(s.life))
	if err != nil {
		return authority{}, nil, err
	}
	template.Subject = pkix.Name{
		Organization: []string{"Weir"}, OrganizationalUnit: []string{namespace},
		// A name of its own, so that no two authorities are confused, and with
		// blanks: Java would hold what could be a DNS name to the constraints.
		CommonName: "Weir interception " + hex.EncodeToString(template.SerialNumber.Bytes()[:4]),
	}
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.MaxPathLen = s.most
	template.KeyUsage = x509.KeyUsageCertSign
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.PermittedDNSDomainsCritical = true
	template.PermittedDNSDomains = domains
	template.PermittedIPRanges = []*net.IPNet{noAddress}
	template.PermittedEmailAddresses = []string{noDomain}
	template.PermittedURIDomains = []string{noDomain}

	pair, err := sign(template, nil)
	if err != nil {
		return authority{}, nil, err
	}
	if before == nil {
		return authority{root: pair.cert}, pair.key, nil
	}
	again, err := newTemplate(now, earlier(template.NotAfter, before.cert.NotAfter))
	if err != nil {
		return authority{}, nil, err
	}
	template.SerialNumber, template.NotAfter = again.SerialNumber, again.NotAfter
	template.SubjectKeyId = pair.cert.SubjectKeyId
	crossed, err := certify(template, &pair.key.PublicKey, before)
	return authority{root: pair.cert, crossed: crossed}, pair.key, err
}

// isAuthority says whether a certificate is one that foundAuthority may have
// made: above all that it is constrained.
func isAuthority(cert *x509.Certificate) bool {
	return cert.IsCA && cert.PermittedDNSDomainsCritical && len(cert.PermittedDNSDomains) > 0
}

// permits says whether an authority may sign for all of these domains.
func permits(cert *x509.Certificate, domains []string) bool {
	return !slices.ContainsFunc(domains, func(domain string) bool {
		return !slices.ContainsFunc(cert.PermittedDNSDomains, func(permitted string) bool {
			return domain == permitted || strings.HasSuffix(domain, "."+permitted)
		})
	})
}

// newLeaf makes a certificate for names, whose private key is somebody else's.
// It expires after life, or with the authority that signs it.
func newLeaf(now time.Time, life time.Duration, names []string, public crypto.PublicKey, signer *keyPair) (*x509.Certificate, error) {
	template, err := newTemplate(now, earlier(now.Add(life), signer.cert.NotAfter))
	if err != nil {
		return nil, err
	}
	template.Subject = pkix.Name{Organization: []string{"Weir"}}
	if len(names[0]) <= maxCommonName {
		template.Subject.CommonName = names[0]
	}
	template.DNSNames = names
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.BasicConstraintsValid = true
	return certify(template, public, signer)
}

// maxCommonName is X.520's bound, in characters.
const maxCommonName = 64

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
