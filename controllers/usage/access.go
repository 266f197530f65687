package usage

import (
	"context"
	"net/http"
	"strings"

	"github.com/weir-dev/weir/controllers/access"
)

// attempt is what somebody wants to do. An empty namespace is all, an empty
// policy any.
type attempt struct{ namespace, policy, verb, subresource string }

func (a attempt) resource() string {
	if a.subresource == "" {
		return "ratelimitpolicies"
	}
	return "ratelimitpolicies/" + a.subresource
}

type asKey struct{}

// As is a context of requests that are asked in the name of somebody whom the
// caller, in this program, has identified.
func As(ctx context.Context, user *access.User) context.Context {
	return context.WithValue(ctx, asKey{}, user)
}

// who asks: whose bearer token it is or, without a token, whose client
// certificate. access.ErrUnauthenticated, or: the API server did not say.
func (s *Server) who(r *http.Request) (*access.User, error) {
	if user, ok := r.Context().Value(asKey{}).(*access.User); ok {
		return user, nil
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return s.options.Authorities.subject(r.TLS.PeerCertificates)
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, access.ErrUnauthenticated
	}
	return s.access.Identify(r.Context(), strings.TrimSpace(token))
}

// may says whether somebody may do something. An error: the API server did not
// say.
func (s *Server) may(ctx context.Context, who *access.User, wanted attempt) (bool, error) {
	return s.access.May(ctx, who, access.Attempt{
		Namespace: wanted.namespace, Resource: "ratelimitpolicies", Subresource: wanted.subresource, Name: wanted.policy, Verb: wanted.verb,
	})
}
