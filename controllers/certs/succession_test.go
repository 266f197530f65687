package certs

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

var testSuccession = succession{life: 2 * 365 * day, rotation: 365 * day, most: 8}

// succeeded looks at a lineage and fails the test on an error.
func succeeded(t *testing.T, now time.Time, l lineage, domains ...string) (lineage, []change) {
	t.Helper()
	next, changes, err := testSuccession.after(now, l, "shop", domains)
	if err != nil {
		t.Fatalf("after: %v", err)
	}
	return next, changes
}

func reasons(changes []change) string {
	var words []string
	for _, c := range changes {
		words = append(words, string(c.reason))
	}
	return strings.Join(words, " ")
}

func TestSuccession(t *testing.T) {
	t.Parallel()
	const year = 365 * day
	one := []string{"a.example"}
	two := []string{"a.example", "b.example"}
	for _, c := range []struct {
		reason string
		// began with an authority for these, at began.
		domains []string
		change  func(*lineage)
		after   time.Duration
		wants   []string
		// does are the reasons of its changes, in order; none: all is good.
		does  string
		holds int
	}{
		{reason: "the first policy that intercepts brings an authority", wants: one, does: "first", holds: 1},
		{reason: "without one there is none"},
		{reason: "nothing is due", domains: one, wants: one, holds: 1},
		{reason: "a moment before the next is due", domains: one, after: year - time.Second, wants: one, holds: 1},
		{reason: "the next is made after a year", domains: one, after: year, wants: one, does: "rotation", holds: 2},
		{reason: "nothing rotates that nobody wants", domains: one, after: year, holds: 1},
		{reason: "hosts grow", domains: one, wants: two, does: "hosts", holds: 2},
		{reason: "hosts below one that is permitted are no growth", domains: one, wants: []string{"www.a.example"}, holds: 1},
		{reason: "hosts that only end alike are", domains: one, wants: []string{"aa.example"}, does: "hosts", holds: 2},
		{reason: "a domain above one that is permitted is, too", domains: []string{"www.a.example"}, wants: one, does: "hosts", holds: 2},
		{reason: "hosts shrink", domains: two, wants: one, holds: 1},
		{reason: "they shrink to none", domains: two, holds: 1},
		{reason: "all expired while no operator ran", domains: one, after: 2 * year, wants: one, does: "expired first", holds: 1},
		{reason: "the last one expires and nobody wants another", domains: one, after: 2 * year, does: "expired"},
		{reason: "a replica whose clock is behind makes nothing anew", domains: one, after: -30 * day, wants: one, holds: 1},
		{reason: "the key is lost", domains: one, change: func(l *lineage) { l.key = nil }, wants: one, does: "lost", holds: 2},
		{reason: "a lost key is missed when it is wanted", domains: one, change: func(l *lineage) { l.key = nil }, holds: 1},
	} {
		var l lineage
		if c.domains != nil {
			l, _ = succeeded(t, began, l, c.domains...)
		}
		if c.change != nil {
			c.change(&l)
		}
		before := slices.Clone(l.authorities)
		now := began.Add(c.after)
		next, changes := succeeded(t, now, l, c.wants...)
		if got := reasons(changes); got != c.does || len(next.authorities) != c.holds {
			t.Errorf("%s: got changes %q and %d authorities, want %q and %d", c.reason, got, len(next.authorities), c.does, c.holds)
		}
		if len(c.wants) > 0 && (next.signer() == nil || !permits(next.newest(), c.wants)) {
			t.Errorf("%s: want a key that may sign for %q", c.reason, c.wants)
		}
		if again, changes := succeeded(t, now, next, c.wants...); len(changes) != 0 {
			t.Errorf("%s: want nothing left to do, got %q for %+v", c.reason, reasons(changes), again)
		}
		if !slices.Equal(l.authorities, before) {
			t.Errorf("%s: after changed the lineage that it was given", c.reason)
		}
	}
}

func TestAnAuthorityIsForTheHostsOfItsTime(t *testing.T) {
	t.Parallel()
	l, _ := succeeded(t, began, lineage{}, "a.example", "b.example")
	l, _ = succeeded(t, began.Add(365*day), l, "b.example")
	if got := l.newest().PermittedDNSDomains; !slices.Equal(got, []string{"b.example"}) {
		t.Errorf("want the regular rotation to narrow to b.example, got %q", got)
	}
	for _, cert := range append(l.roots(), l.crossed(began.Add(365*day))...) {
		if !isAuthority(cert) || cert.NotAfter.Sub(issued(cert)) > 2*365*day {
			t.Errorf("got %v until %v, want a constrained authority of two years at most", cert.Subject, cert.NotAfter)
		}
	}
}

func TestTheOldestLeavesABoundedBundle(t *testing.T) {
	t.Parallel()
	var l lineage
	var domains []string
	for i := range testSuccession.most {
		domains = append(domains, fmt.Sprintf("%d.example", i))
		l, _ = succeeded(t, began.Add(time.Duration(i)*time.Minute), l, domains...)
	}
	oldest, second := l.authorities[0].root, l.authorities[1].root
	leaf := leafOf(t, began.Add(time.Hour), l, "0.example")
	if err := verify(leaf, []*x509.Certificate{oldest}, "0.example", began.Add(time.Hour)); err != nil {
		t.Errorf("want %d authorities in a chain to verify: %v", testSuccession.most, err)
	}
	l, changes := succeeded(t, began.Add(time.Hour), l, append(domains, "one.more.example")...)
	if got := reasons(changes); got != "hosts too_many" || len(l.authorities) != testSuccession.most {
		t.Fatalf("got changes %q and %d authorities, want the oldest to leave", got, len(l.authorities))
	}
	leaf = leafOf(t, began.Add(time.Hour), l, "0.example")
	if err := verify(leaf, []*x509.Certificate{second}, "0.example", began.Add(time.Hour)); err != nil {
		t.Errorf("want the chain to lead to what is now the oldest: %v", err)
	}
	if err := verify(leaf, []*x509.Certificate{oldest}, "0.example", began.Add(time.Hour)); err == nil {
		t.Error("want no way to the one that left")
	}
	if size := len(encodeCertificates(l.roots()...)); size > maxPEMLength {
		t.Errorf("the bundle has %d bytes, more than are read back", size)
	}
}

// Java reads a handshake's message of 32 KiB at most. The largest authority is
// for 100 domains of 2560 characters: see controllers/programming.
func TestTheLongestChainFitsAHandshake(t *testing.T) {
	t.Parallel()
	var l lineage
	for i := range testSuccession.most {
		var domains []string
		for j := range 100 {
			domains = append(domains, fmt.Sprintf("%d.%02d.%020d", i, j, 0)[:25]+"a")
		}
		l, _ = succeeded(t, began, l, domains...)
	}
	size := 0
	for _, der := range leafOf(t, began, l, "a.example").Certificate {
		size += len(der) + 5 // its length and extensions (RFC 8446 section 4.4.2)
	}
	if size > 32<<10 {
		t.Errorf("a chain of %d authorities has %d bytes", len(l.authorities), size)
	}
}

// TestSuccessionOverTheYears walks through the years: a program that started at
// any time in the last one, and knows what was current then, accepts a leaf.
func TestSuccessionOverTheYears(t *testing.T) {
	t.Parallel()
	const step = 15 * day
	type started struct {
		known []*x509.Certificate
		when  time.Time
	}
	var programs []started
	var l lineage
	signers := map[string]bool{}
	for now := began; now.Before(began.Add(7 * 365 * day)); now = now.Add(step) {
		l, _ = succeeded(t, now, l, "a.example")
		leaf := leafOf(t, now, l, "a.example")
		programs = append(programs, started{l.roots(), now})
		for _, p := range programs {
			if err := verify(leaf, p.known, "a.example", now); err != nil && now.Sub(p.when) < 365*day {
				t.Fatalf("on day %d, a program of day %d: %v", now.Sub(began)/day, p.when.Sub(began)/day, err)
			}
		}
		if len(l.authorities) > 2 {
			t.Fatalf("on day %d there are %d authorities, want expired ones gone", now.Sub(began)/day, len(l.authorities))
		}
		if next := testSuccession.ages(l, true); !next.After(now) || next.Sub(now) > 365*day {
			t.Fatalf("on day %d the next look is at %v", now.Sub(began)/day, next)
		}
		signers[l.newest().SerialNumber.String()] = true
	}
	if len(signers) != 7 {
		t.Errorf("want 7 authorities in seven years, got %d", len(signers))
	}
}

func TestALostKeyEndsTheChain(t *testing.T) {
	t.Parallel()
	first, _ := succeeded(t, began, lineage{}, "a.example")
	lost := first
	lost.key = nil
	next, _ := succeeded(t, began, lost, "a.example")
	leaf := leafOf(t, began, next, "a.example")
	if len(leaf.Certificate) != 1 {
		t.Errorf("want no certificate above the leaf that nobody can sign, got %d", len(leaf.Certificate)-1)
	}
	if err := verify(leaf, next.roots(), "a.example", began); err != nil {
		t.Errorf("want programs that start now to accept the leaf: %v", err)
	}
	if err := verify(leaf, first.roots(), "a.example", began); err == nil {
		t.Error("want programs that know only the lost authority to refuse it")
	}
	older := leafOf(t, began, first, "a.example")
	if err := verify(older, next.roots(), "a.example", began); err != nil {
		t.Errorf("want leaves of the lost authority to be accepted until they expire: %v", err)
	}
}

func TestLineageSecret(t *testing.T) {
	t.Parallel()
	now := began.Add(400 * day)
	l := generations(t, now)
	other, _ := succeeded(t, began, lineage{}, "a.example")
	data, err := encodeLineage(l)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := encodeLineage(other)
	if err != nil {
		t.Fatal(err)
	}
	back := decodeLineage(data)
	if !slices.EqualFunc(back.authorities, l.authorities, func(a, b authority) bool {
		return a.root.Equal(b.root) && (a.crossed == nil) == (b.crossed == nil) && (a.crossed == nil || a.crossed.Equal(b.crossed))
	}) || !back.key.Equal(l.key) {
		t.Error("the lineage is not what was written")
	}
	material, err := encode(made(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		reason, key string
		value       []byte
		lost        func(lineage) bool
	}{
		{"no key", keyAuthorityKey, nil, func(l lineage) bool { return l.key == nil }},
		{"another's key", keyAuthorityKey, foreign[keyAuthorityKey], func(l lineage) bool { return l.key == nil }},
		{"no PEM", keyAuthorityKey, []byte("sesame"), func(l lineage) bool { return l.key == nil }},
		{"no authorities", keyAuthorities, nil, func(l lineage) bool { return len(l.authorities) == 0 && l.key == nil }},
		{"an authority that may sign for everything", keyAuthorities, material[keyBundle], func(l lineage) bool { return len(l.authorities) == 0 && l.key == nil }},
		{"authorities without end", keyAuthorities, slices.Repeat(data[keyAuthorities], 1000), func(l lineage) bool { return len(l.authorities) == 0 }},
		{"none that is crossed", keyCrossed, nil, func(l lineage) bool { return len(l.authorities) == 3 && len(l.crossed(now)) == 0 }},
		{"others that are crossed", keyCrossed, data[keyAuthorities], func(l lineage) bool { return len(l.crossed(now)) == 0 }},
	} {
		broken := map[string][]byte{}
		for key, value := range data {
			broken[key] = value
		}
		broken[c.key] = c.value
		if !c.lost(decodeLineage(broken)) {
			t.Errorf("%s: want it to count as lost", c.reason)
		}
		// Whatever is lost, succession makes it good.
		next, _ := succeeded(t, now, decodeLineage(broken), "api.example.com")
		if err := verify(leafOf(t, now, next, "api.example.com"), next.roots(), "api.example.com", now); err != nil {
			t.Errorf("%s: %v", c.reason, err)
		}
	}
}
