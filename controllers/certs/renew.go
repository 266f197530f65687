package certs

import (
	"crypto/x509"
	"slices"
	"time"
)

// rules say what certificates have to be like.
type rules struct {
	dnsNames      []string
	authorityLife time.Duration
	servingLife   time.Duration
	// propagation is how long a new authority is published before it signs.
	propagation time.Duration
}

// material is what the Secret holds. Absent parts are nil.
type material struct {
	// bundle is every authority to verify with, the oldest first.
	bundle []*x509.Certificate
	// signer signs serving certificates.
	signer *keyPair
	// next is published in the bundle and will sign.
	next *keyPair
	// serving is what the operator's servers show.
	serving *keyPair
}

// renew returns what has to be held at now instead of current, and says what it
// changed, for the log; nothing when current is good.
func renew(now time.Time, current material, rules rules) (next material, changes []string, err error) {
	next = current
	next.bundle = slices.DeleteFunc(slices.Clone(current.bundle), func(cert *x509.Certificate) bool { return expired(cert, now) })
	if len(next.bundle) < len(current.bundle) {
		changes = append(changes, "removed an expired authority from the bundle")
	}
	changed, err := next.renewAuthority(now, rules)
	if err != nil {
		return material{}, nil, err
	}
	changes = append(changes, changed...)

	if reason := next.servingFault(now, rules); reason != "" {
		if next.serving, err = newServing(now, rules.servingLife, rules.dnsNames, next.signer); err != nil {
			return material{}, nil, err
		}
		changes = append(changes, "made a serving certificate: "+reason)
	}
	return next, changes, nil
}

// renewAuthority leaves a signer, and a next one when it is time for that.
func (m *material) renewAuthority(now time.Time, rules rules) (changes []string, err error) {
	if m.signer != nil && expired(m.signer.cert, now) {
		m.signer = nil
	}
	if m.next != nil && expired(m.next.cert, now) {
		m.next = nil
	}
	switch {
	case m.signer == nil && m.next != nil:
		m.signer, m.next = m.next, nil
		changes = append(changes, "the next authority signs early: the one before is lost or expired")
	case m.signer == nil:
		if m.signer, err = m.publishAuthority(now, rules); err != nil {
			return nil, err
		}
		changes = append(changes, "made an authority: there was none, or it was lost or expired")
	case m.next != nil && !now.Before(issued(m.next.cert).Add(rules.propagation)):
		m.signer, m.next = m.next, nil
		changes = append(changes, "the next authority signs from now on")
	}
	if m.next == nil && due(m.signer.cert, now) {
		if m.next, err = m.publishAuthority(now, rules); err != nil {
			return nil, err
		}
		changes = append(changes, "made the next authority and added it to the bundle")
	}
	return changes, nil
}

func (m *material) publishAuthority(now time.Time, rules rules) (*keyPair, error) {
	authority, err := newAuthority(now, rules.authorityLife)
	if err != nil {
		return nil, err
	}
	m.bundle = append(m.bundle, authority.cert)
	return authority, nil
}

// servingFault says why the serving certificate has to be replaced; empty when
// it is good. A change of the signer is no reason: clients know both.
func (m *material) servingFault(now time.Time, rules rules) string {
	if m.serving == nil {
		return "there was none, or it was unreadable"
	}
	cert := m.serving.cert
	if due(cert, now) {
		return "two thirds of the last one's life are over"
	}
	for _, name := range rules.dnsNames {
		if cert.VerifyHostname(name) != nil {
			return "the last one was not for " + name
		}
	}
	if !slices.ContainsFunc(m.bundle, func(authority *x509.Certificate) bool { return cert.CheckSignatureFrom(authority) == nil }) {
		return "no authority of the bundle signed the last one"
	}
	return ""
}
