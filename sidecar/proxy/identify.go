package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxIdentityBytes bounds what a caller can put into a Redis key.
const maxIdentityBytes = 256

// source is a compiled ruleset.Source.
type source struct {
	header    string // canonical name; empty: another kind, as with the others
	spelled   string // the header as the policy spells it
	strip     bool
	bearer    bool
	claim     string
	cookie    string
	parameter string
	address   *ruleset.ClientIPSource
}

func compileSource(s ruleset.Source) (source, error) {
	kinds := 0
	for _, set := range []bool{s.Header != nil, s.BearerToken, s.JWTClaim != "", s.Cookie != "", s.QueryParameter != "", s.ClientIP != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 {
		return source{}, errors.New("identity source: exactly one kind that this sidecar knows must be set")
	}
	compiled := source{bearer: s.BearerToken, claim: s.JWTClaim, cookie: s.Cookie, parameter: s.QueryParameter, address: s.ClientIP}
	if s.Header != nil {
		compiled.header = textproto.CanonicalMIMEHeaderKey(s.Header.Name)
		compiled.spelled, compiled.strip = s.Header.Name, s.Header.Strip
		if compiled.header == "" {
			return source{}, errors.New("identity source: the header has no name")
		}
	}
	if a := s.ClientIP; a != nil && (a.TrustedHops < 0 || a.IPv6PrefixLength < 1 || a.IPv6PrefixLength > 128) {
		return source{}, fmt.Errorf("identity source: no client's address has %d trusted hops and a prefix of %d bits", a.TrustedHops, a.IPv6PrefixLength)
	}
	return compiled, nil
}

// caller is who a request is to one policy; identity is empty when no source
// named anybody.
type caller struct {
	policy   *policy
	identity string
}

// identify appends who the request is to each policy.
func identify(callers []caller, policies []*policy, r *request) []caller {
	for _, p := range policies {
		callers = append(callers, caller{policy: p, identity: p.identify(r)})
	}
	return callers
}

// strips reports whether any of the policies takes the field out of requests.
// All of them have read it before: two may name their callers by the same.
func strips(policies []*policy, name string) bool {
	for _, p := range policies {
		for _, stripped := range p.stripped {
			if sameName(stripped, name) {
				return true
			}
		}
	}
	return false
}

// framing are fields without which a request is another one; they are read, and
// never stripped.
func framing(name string) bool {
	switch name {
	case "Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Expect", "Trailer", "Te":
		return true
	}
	return false
}

func (p *policy) identify(r *request) string {
	for i := range p.sources {
		if value := p.sources[i].value(r); value != "" {
			return boundedIdentity(value)
		}
	}
	return ""
}

func (s *source) value(r *request) string {
	switch {
	case s.header == "Host":
		return r.host
	case s.header != "":
		return r.first(s.header)
	case s.bearer:
		if token := bearerToken(r); token != "" {
			return hashed(token)
		}
	case s.claim != "":
		return claimOf(bearerToken(r), s.claim)
	case s.cookie != "":
		return cookieOf(r.fields, s.cookie)
	case s.parameter != "":
		return parameterOf(r.query, s.parameter)
	case s.address != nil:
		return addressOf(s.address, r)
	}
	return ""
}

// bearerToken is the token of the field Authorization (RFC 6750; the scheme
// has no case, RFC 9110 section 11.1), empty when there is none.
func bearerToken(r *request) string {
	scheme, token, _ := strings.Cut(r.first("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return trimSpace(token)
}

// boundedIdentity keeps an identity, or the hash of one that is too long.
func boundedIdentity(identity string) string {
	if len(identity) > maxIdentityBytes {
		return hashed(identity)
	}
	return identity
}

func hashed(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "sha256:" + hex.EncodeToString(sum[:])
}
