package usage

import (
	"context"
	"net/http"
	"strings"

	"k8s.io/client-go/kubernetes"

	reviews "github.com/weir-dev/weir/controllers/access"
)

// attempt is what somebody wants to do. An empty namespace is all, an empty
// policy any.
type attempt struct{ namespace, policy, verb, subresource string }

func (a attempt) resource() string {
	if a.subresource == "" {
		return policiesResource
	}
	return policiesResource + "/" + a.subresource
}

const policiesResource = "ratelimitpolicies"

// access says who asks and whether they may.
type access struct {
	api *reviews.Reviewer
	// authorities of client certificates; nil: none is accepted.
	authorities *ClientAuthorities
}

func newAccess(api kubernetes.Interface, authorities *ClientAuthorities) *access {
	return &access{reviews.New(api, 0), authorities}
}

// who asks: whose bearer token it is or, without a token, whose client
// certificate. reviews.ErrUnauthenticated: nobody known. Another error: the API
// server did not say.
func (a *access) who(r *http.Request) (*reviews.User, error) {
	authorization := r.Header.Get("Authorization")
	if authorization == "" && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.authorities.user(r.TLS.PeerCertificates)
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return nil, reviews.ErrUnauthenticated
	}
	return a.api.Identify(r.Context(), strings.TrimSpace(token))
}

// may says whether somebody may do something. An error: the API server did not
// say.
func (a *access) may(ctx context.Context, who *reviews.User, wanted attempt) (bool, error) {
	return a.api.May(ctx, who, reviews.Attempt{
		Namespace: wanted.namespace, Resource: policiesResource, Subresource: wanted.subresource, Name: wanted.policy, Verb: wanted.verb,
	})
}
