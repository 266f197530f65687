package certs

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"
)

const day = 24 * time.Hour

var (
	began     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	testRules = rules{
		dnsNames:      ServiceNames("weir-system", "weir-webhook", "weir-link"),
		authorityLife: 365 * day,
		servingLife:   90 * day,
		propagation:   day,
	}
)

// renewed renews and fails the test on an error.
func renewed(t *testing.T, now time.Time, current material) (material, []string) {
	t.Helper()
	next, changes, err := renew(now, current, testRules)
	if err != nil {
		t.Fatalf("renew: %v", err)
	}
	return next, changes
}

// made is what renew makes of nothing at began.
func made(t *testing.T) material {
	t.Helper()
	m, _ := renewed(t, began, material{})
	return m
}

// trusts says whether a client with a bundle accepts the serving certificate.
func trusts(bundle []*x509.Certificate, m material, now time.Time) error {
	roots := x509.NewCertPool()
	for _, cert := range bundle {
		roots.AddCert(cert)
	}
	for _, name := range testRules.dnsNames {
		_, err := m.serving.cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, DNSName: name, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return err
		}
	}
	return nil
}

func TestRenewMakesWhatIsMissing(t *testing.T) {
	t.Parallel()
	m, changes := renewed(t, began, material{})
	if len(changes) != 2 || len(m.bundle) != 1 || m.next != nil {
		t.Errorf("want an authority and a serving certificate, got changes %q, bundle of %d", changes, len(m.bundle))
	}
	if err := trusts(m.bundle, m, began.Add(-backdate/2)); err != nil {
		t.Errorf("want a client whose clock is half an hour behind to accept: %v", err)
	}
	if got := m.serving.cert.NotAfter.Sub(began); got != 90*day {
		t.Errorf("want the serving certificate to live 90 days, got %v", got)
	}
	if got := m.signer.cert.NotAfter.Sub(began); got != 365*day {
		t.Errorf("want the authority to live a year, got %v", got)
	}
}

func TestRenew(t *testing.T) {
	t.Parallel()
	other, _ := renewed(t, began, material{})
	for _, c := range []struct {
		reason string
		after  time.Duration
		change func(*material)
		// says are words of each change, in order; none: all is good.
		says []string
	}{
		{reason: "nothing is due"},
		{reason: "a replica whose clock is behind makes nothing anew", after: -30 * day},
		{reason: "a moment before two thirds of the serving certificate's life", after: 60*day - time.Second},
		{reason: "two thirds of its life", after: 60 * day, says: []string{"two thirds"}},
		{reason: "the serving certificate expired while no operator ran", after: 100 * day, says: []string{"two thirds"}},
		{reason: "the serving certificate is lost", change: func(m *material) { m.serving = nil }, says: []string{"unreadable"}},
		{
			reason: "it is somebody else's",
			change: func(m *material) { m.serving = other.serving }, says: []string{"no authority of the bundle"},
		},
		{
			reason: "the authority's key is lost: the serving certificate is good until it is due",
			change: func(m *material) { m.signer = nil }, says: []string{"made an authority"},
		},
		{
			reason: "the bundle is lost, and the authority with it",
			change: func(m *material) { m.bundle, m.signer = nil, nil }, says: []string{"made an authority", "no authority of the bundle"},
		},
		{
			reason: "two thirds of the authority's life", after: 365 * day / 3 * 2,
			says: []string{"made the next authority", "two thirds"},
		},
		{
			reason: "the authority expired while no operator ran", after: 400 * day,
			says: []string{"removed an expired authority", "made an authority", "two thirds"},
		},
	} {
		m := made(t)
		if c.change != nil {
			c.change(&m)
		}
		bundle := slices.Clone(m.bundle)
		now := began.Add(c.after)
		next, changes := renewed(t, now, m)
		if len(changes) != len(c.says) {
			t.Errorf("%s: want changes %q, got %q", c.reason, c.says, changes)
			continue
		}
		for i, words := range c.says {
			if !strings.Contains(changes[i], words) {
				t.Errorf("%s: want a change with %q, got %q", c.reason, words, changes[i])
			}
		}
		if err := trusts(next.bundle, next, later(now, began)); err != nil {
			t.Errorf("%s: want a good serving certificate, got %v", c.reason, err)
		}
		if !slices.Equal(m.bundle, bundle) {
			t.Errorf("%s: renew changed the material that it was given", c.reason)
		}
		if again, changes := renewed(t, now, next); len(changes) != 0 {
			t.Errorf("%s: want nothing left to do, got %q for %+v", c.reason, changes, again)
		}
	}
}

func TestRenewForOtherNames(t *testing.T) {
	t.Parallel()
	m := made(t)
	rules := testRules
	rules.dnsNames = append(slices.Clone(rules.dnsNames), "weir-link.elsewhere.svc")
	next, changes, err := renew(began, m, rules)
	if err != nil || len(changes) != 1 || !strings.Contains(changes[0], "weir-link.elsewhere.svc") {
		t.Fatalf("want a serving certificate for the new name, got %q, error %v", changes, err)
	}
	if err := next.serving.cert.VerifyHostname("weir-link.elsewhere.svc"); err != nil {
		t.Error(err)
	}
}

// TestRotation walks through the years: no client that learned the bundle at
// any time in the last day is ever shown a certificate that it does not trust.
func TestRotation(t *testing.T) {
	t.Parallel()
	const step = 6 * time.Hour
	m := made(t)
	learned := [][]*x509.Certificate{m.bundle} // of the last day
	signers := map[string]bool{}
	for now := began; now.Before(began.Add(3 * 365 * day)); now = now.Add(step) {
		m, _ = renewed(t, now, m)
		for _, bundle := range learned {
			if err := trusts(bundle, m, now); err != nil {
				t.Fatalf("on day %d: %v", now.Sub(began)/day, err)
			}
		}
		if len(m.bundle) > 2 {
			t.Fatalf("on day %d: want expired authorities gone, got %d in the bundle", now.Sub(began)/day, len(m.bundle))
		}
		if m.serving.cert.NotAfter.After(m.signer.cert.NotAfter) && m.serving.cert.CheckSignatureFrom(m.signer.cert) == nil {
			t.Fatalf("on day %d: the serving certificate outlives its authority", now.Sub(began)/day)
		}
		learned = append(learned, m.bundle)
		learned = learned[max(0, len(learned)-int(day/step)):]
		signers[m.signer.cert.SerialNumber.String()] = true
	}
	if len(signers) != 5 {
		t.Errorf("want 5 authorities in three years, each for two thirds of one, got %d", len(signers))
	}
}

func TestNextAuthoritySignsWhenItIsKnown(t *testing.T) {
	t.Parallel()
	m := made(t)
	published := began.Add(365 * day / 3 * 2)
	m, _ = renewed(t, published, m)
	first, next := m.signer, m.next
	if next == nil || len(m.bundle) != 2 {
		t.Fatalf("want the next authority in the bundle, got %d", len(m.bundle))
	}

	early, changes := renewed(t, published.Add(day-time.Second), m)
	if len(changes) != 0 || early.signer != first {
		t.Errorf("want the old authority to sign until a day is over, got %q", changes)
	}
	onTime, changes := renewed(t, published.Add(day), m)
	if len(changes) != 1 || onTime.signer != next || onTime.next != nil || len(onTime.bundle) != 2 {
		t.Errorf("want the next authority to sign after a day, beside the old one in the bundle, got %q", changes)
	}
	if onTime.serving != m.serving {
		t.Error("want the serving certificate kept: clients know both authorities")
	}

	lost := m
	lost.signer = nil
	if got, _ := renewed(t, published.Add(time.Hour), lost); got.signer != next {
		t.Error("want the next authority to sign at once when the signing key is lost")
	}
}

func TestSecretData(t *testing.T) {
	t.Parallel()
	now := began.Add(365 * day / 3 * 2) // with a next authority
	m, _ := renewed(t, now, made(t))
	data, err := encode(m)
	if err != nil {
		t.Fatal(err)
	}
	back := decode(data)
	if !slices.EqualFunc(back.bundle, m.bundle, (*x509.Certificate).Equal) {
		t.Error("the bundle is not what was written")
	}
	for name, pair := range map[string][2]*keyPair{"signer": {m.signer, back.signer}, "next": {m.next, back.next}, "serving": {m.serving, back.serving}} {
		if pair[1] == nil || !pair[0].cert.Equal(pair[1].cert) || !pair[0].key.Equal(pair[1].key) {
			t.Errorf("%s is not what was written", name)
		}
	}

	for _, c := range []struct {
		reason string
		key    string
		value  []byte
		lost   func(material) bool
	}{
		{"no key", "ca.key", nil, func(m material) bool { return m.signer == nil }},
		{"no PEM", "ca.key", []byte("sesame"), func(m material) bool { return m.signer == nil }},
		{"another's key", "ca.key", data["tls.key"], func(m material) bool { return m.signer == nil }},
		{"a certificate for a key", "tls.key", data["tls.crt"], func(m material) bool { return m.serving == nil }},
		{"half a key", "tls.key", data["tls.key"][:60], func(m material) bool { return m.serving == nil }},
		{"half a certificate", "tls.crt", data["tls.crt"][:90], func(m material) bool { return m.serving == nil }},
		{"another's certificate", "tls.crt", data["ca.crt"], func(m material) bool { return m.serving == nil }},
		{"no next key", "next-ca.key", nil, func(m material) bool { return m.next == nil && m.signer != nil }},
		{"no bundle", "ca.crt", nil, func(m material) bool { return m.signer == nil && m.next == nil }},
		{"a bundle without authorities", "ca.crt", data["tls.crt"], func(m material) bool { return len(m.bundle) == 0 }},
		{"a bundle with no end", "ca.crt", bytes.Repeat(data["ca.crt"], 1000), func(m material) bool { return len(m.bundle) == 0 }},
	} {
		broken := map[string][]byte{}
		for key, value := range data {
			broken[key] = value
		}
		broken[c.key] = c.value
		if !c.lost(decode(broken)) {
			t.Errorf("%s: want it to count as lost", c.reason)
		}
		// Whatever is lost, renew makes it good.
		next, _ := renewed(t, now, decode(broken))
		if err := trusts(next.bundle, next, now); err != nil {
			t.Errorf("%s: %v", c.reason, err)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
