package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/textproto"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxIdentityBytes bounds what a caller can put into a Redis key.
const maxIdentityBytes = 256

// source is a compiled ruleset.Source.
type source struct {
	header   string // canonical name; empty: another kind
	spelled  string // the header as the policy spells it
	strip    bool
	bearer   bool
	clientIP bool
}

func compileSource(s ruleset.Source) (source, error) {
	compiled := source{bearer: s.BearerToken, clientIP: s.ClientIP != nil}
	kinds := 0
	if s.Header != nil {
		kinds++
		compiled.header = textproto.CanonicalMIMEHeaderKey(s.Header.Name)
		compiled.spelled, compiled.strip = s.Header.Name, s.Header.Strip
		if compiled.header == "" {
			return source{}, errors.New("identity source: the header has no name")
		}
	}
	if s.BearerToken {
		kinds++
	}
	if s.ClientIP != nil {
		kinds++
	}
	if kinds != 1 {
		return source{}, errors.New("identity source: exactly one of header, bearerToken and clientIP must be set")
	}
	return compiled, nil
}

// caller is who a request is to one policy; identity is empty when no source
// named anybody.
type caller struct {
	policy   *policy
	identity string
}

// identify names the caller to each policy and then removes the headers that
// any of them strips: two policies may read the same one.
func identify(policies []*policy, r *http.Request, remote netip.Addr) []caller {
	callers := make([]caller, len(policies))
	for i, p := range policies {
		callers[i] = caller{policy: p, identity: p.identify(r, remote)}
	}
	var names []string
	for _, p := range policies {
		for i := range p.sources {
			if p.sources[i].strip {
				names = append(names, p.sources[i].header)
			}
		}
	}
	strip(r, names)
	return callers
}

// strip removes headers, and trailers of their names.
func strip(r *http.Request, names []string) {
	for _, name := range names {
		delete(r.Header, name)
	}
	if len(names) > 0 && len(r.Trailer) > 0 {
		body := stripped{ReadCloser: r.Body, trailer: r.Trailer, names: names}
		body.strip() // what is announced
		r.Body = body
	}
}

// stripped is a body whose end brings trailers, which some are taken out of.
type stripped struct {
	io.ReadCloser
	trailer http.Header
	names   []string
}

func (b stripped) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.strip()
	}
	return n, err
}

func (b stripped) strip() {
	for _, name := range b.names {
		delete(b.trailer, name)
	}
}

func (p *policy) identify(r *http.Request, remote netip.Addr) string {
	for i := range p.sources {
		if value := p.sources[i].value(r, remote); value != "" {
			return boundedIdentity(value)
		}
	}
	return ""
}

func (s *source) value(r *http.Request, remote netip.Addr) string {
	switch {
	case s.header == "Host": // net/http keeps it out of Header
		return r.Host
	case s.header != "":
		return firstValue(r.Header[s.header])
	case s.bearer:
		return bearerIdentity(r.Header["Authorization"])
	case s.clientIP && remote.IsValid():
		return remote.Unmap().WithZone("").String()
	}
	return ""
}

// firstValue is the first line of a header that says anything, without the
// space around it. Later lines are ignored: a gateway that sets the header
// replaces it, and one that appends has not vouched for the lines before.
func firstValue(lines []string) string {
	for _, line := range lines {
		if line = textproto.TrimString(line); line != "" {
			return line
		}
	}
	return ""
}

// bearerIdentity is the hash of a bearer token (RFC 6750; the scheme has no
// case, RFC 9110 section 11.1).
func bearerIdentity(lines []string) string {
	scheme, token, _ := strings.Cut(firstValue(lines), " ")
	token = textproto.TrimString(token)
	if token == "" || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return hashed(token)
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
