package certs

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// lineage is the authorities of a namespace, the oldest first. The newest signs.
type lineage struct {
	authorities []authority
	// key of the newest; nil when it is lost. Those of the others are not kept.
	key *ecdsa.PrivateKey
}

// succession says how one authority follows another.
type succession struct {
	// life of an authority.
	life time.Duration
	// rotation is the age at which the next one is made.
	rotation time.Duration
	// most authorities of a namespace: what clients bear to verify and sidecars
	// to be told.
	most int
}

// after returns what has to be there at now instead of current, so that leaves
// can be signed for domains, and says what it changed and why, for the log;
// nothing when current is good. Without domains no authority is made.
//
// An authority is made for exactly the domains of that moment: one that it may
// sign for and no policy names any more leaves with the next.
func (s succession) after(now time.Time, current lineage, namespace string, domains []string) (next lineage, changes []change, err error) {
	next = lineage{authorities: slices.Clone(current.authorities), key: current.key}
	if next.drop(func(i int) bool { return expired(next.authorities[i].root, now) }) {
		changes = append(changes, change{reasonExpired, "removed an expired authority"})
	}
	reason := next.fault(now, s, domains)
	if len(domains) == 0 || reason == "" {
		return next, changes, nil
	}
	founded, key, err := foundAuthority(now, s, namespace, domains, next.signer())
	if err != nil {
		return lineage{}, nil, err
	}
	next.authorities, next.key = append(next.authorities, founded), key
	changes = append(changes, change{reason, fmt.Sprintf("made an authority for %d domains: %s", len(domains), reason.sentence())})
	if next.drop(func(i int) bool { return len(next.authorities)-i > s.most }) {
		changes = append(changes, change{reasonTooMany, fmt.Sprintf("removed the oldest of more than %d authorities, although it has not expired: programs that know no other pass unseen until they are restarted", s.most)})
	}
	return next, changes, nil
}

// change of a lineage and its words for the log.
type change struct {
	reason reason
	words  string
}

// reason of a change, as the metric of made authorities names it.
type reason string

// The reasons.
const (
	reasonFirst    reason = "first"
	reasonLost     reason = "lost"
	reasonHosts    reason = "hosts"
	reasonRotation reason = "rotation"
	reasonExpired  reason = "expired"
	reasonTooMany  reason = "too_many"
)

func (r reason) sentence() string {
	switch r {
	case reasonFirst:
		return "the namespace had none"
	case reasonLost:
		return "the last one's key was lost or unreadable"
	case reasonHosts:
		return "the last one may not sign for all of them"
	default:
		return "the last one is old"
	}
}

// fault says why another authority has to be made; empty when none has to.
func (l *lineage) fault(now time.Time, s succession, domains []string) reason {
	newest := l.newest()
	switch {
	case newest == nil:
		return reasonFirst
	case l.key == nil:
		return reasonLost
	case !permits(newest, domains):
		return reasonHosts
	case !now.Before(issued(newest).Add(s.rotation)):
		return reasonRotation
	default:
		return ""
	}
}

// signs says whether leaves for domains can be signed now, however old the newest is.
func (l *lineage) signs(now time.Time, domains []string) bool {
	return l.signer() != nil && !expired(l.newest(), now) && permits(l.newest(), domains)
}

// drop removes authorities and says whether there were any. One whose
// predecessor has left is signed by nobody that anybody knows.
func (l *lineage) drop(leaves func(i int) bool) bool {
	var kept []authority
	left := false
	for i, a := range l.authorities {
		if leaves(i) {
			left = true
			continue
		}
		if i > 0 && leaves(i-1) {
			a.crossed = nil
		}
		kept = append(kept, a)
	}
	if newest := len(l.authorities) - 1; newest >= 0 && leaves(newest) {
		l.key = nil
	}
	l.authorities = kept
	return left
}

// newest is nil when there is none.
func (l *lineage) newest() *x509.Certificate {
	if len(l.authorities) == 0 {
		return nil
	}
	return l.authorities[len(l.authorities)-1].root
}

// signer is the newest with its key; nil when either is lost.
func (l *lineage) signer() *keyPair {
	if l.newest() == nil || l.key == nil {
		return nil
	}
	return &keyPair{cert: l.newest(), key: l.key}
}

// roots are all authorities as signed by themselves, the oldest first.
func (l *lineage) roots() []*x509.Certificate {
	var roots []*x509.Certificate
	for _, a := range l.authorities {
		roots = append(roots, a.root)
	}
	return roots
}

// crossed are the authorities as signed by the ones before, the newest first,
// down to the first that is signed by none that lives.
func (l *lineage) crossed(now time.Time) []*x509.Certificate {
	var certs []*x509.Certificate
	for _, a := range slices.Backward(l.authorities) {
		if a.crossed == nil || expired(a.crossed, now) {
			break
		}
		certs = append(certs, a.crossed)
	}
	return certs
}

// ages is when after has to look again: at the next rotation or expiry; zero
// when there is nothing to wait for.
func (s succession) ages(l lineage, wanted bool) time.Time {
	var next time.Time
	for i, a := range l.authorities {
		if i == 0 || a.root.NotAfter.Before(next) {
			next = a.root.NotAfter
		}
	}
	if newest := l.newest(); newest != nil && wanted {
		next = earlier(next, issued(newest).Add(s.rotation))
	}
	return next
}
