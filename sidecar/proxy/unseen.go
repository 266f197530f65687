package proxy

import (
	"github.com/weir-dev/weir/sidecar/intercept"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// named are the policies that name a host of the connection.
func (s *session) named(n names) []*policy {
	if n == (names{}) {
		return nil
	}
	return s.server.proxy.table.Load().of(s.server.direction).byHost(nil, "", n)
}

// denies reports whether the policy would rather have a connection ended than
// its requests uncounted.
func (p *policy) denies() bool {
	return p.Intercept && !p.Observe && p.OnStoreFailure == ruleset.OnStoreFailureDeny
}

// denied reports whether any of the policies denies what it cannot count, and
// counts that.
func denied(policies []*policy) bool {
	found := false
	for _, p := range policies {
		if p.denies() {
			p.count(unavailable)
			found = true
		}
	}
	return found
}

// passes notes a connection whose requests cannot be seen at the policies that
// name its host. It is false where one of them denies that.
func passes(policies []*policy) bool {
	if denied(policies) {
		return false
	}
	for _, p := range policies {
		p.unseen.Inc()
		if p.Intercept {
			p.count(uncounted)
		}
	}
	return true
}

// passUnseen relays a connection over TLS that no policy intercepts.
func (s *session) passUnseen(hello intercept.Hello, policies []*policy) {
	if i := s.server.proxy.interceptor; i != nil {
		switch {
		case hello.ECH && len(policies) == 0:
			i.Count(intercept.ECH)
		case hello.ServerName == "":
			i.Count(intercept.NoSNI)
		default:
			i.Count(intercept.Passthrough)
		}
	}
	s.pass(speaksTLS, policies)
}

// passUnread relays what began as TLS and cannot be read further. It may be for
// the host of any policy, so that one which denies what it cannot count ends it.
func (s *session) passUnread() {
	p := s.server.proxy
	if p.interceptor != nil {
		p.interceptor.Count(intercept.Unreadable)
	}
	if denied(p.table.Load().policies) {
		s.leave()
		return
	}
	s.pass(speaksTLS, s.named(s.names))
}

// pass relays a connection whose requests cannot be seen, where the policies
// that name its host allow that, and ends it otherwise.
func (s *session) pass(kind protocol, policies []*policy) {
	if err := s.connected(); err != nil {
		s.leave()
		return
	}
	label := kindOpaque
	if kind == speaksTLS {
		label = kindTLS
	}
	if s.become(modeUndecided, modeOpaque) {
		if !passes(policies) {
			s.leave()
			return
		}
		s.server.proxy.metrics.passed.WithLabelValues(string(s.server.direction), label).Inc()
	}
	s.opaque()
}
