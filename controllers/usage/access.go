package usage

import (
	"errors"
	"net/http"
	"strings"

	"github.com/weir-dev/weir/controllers/access"
)

// attempt is what somebody wants to do.
type attempt struct{ namespace, policy, verb, subresource string }

// verdict of the API server.
type verdict struct {
	user   string
	status int // http.StatusOK, StatusUnauthorized or StatusForbidden
}

// allow says who it is and whether they may. An error: the API server did not say.
func (s *Server) allow(r *http.Request, wanted attempt) (verdict, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return verdict{status: http.StatusUnauthorized}, nil
	}
	user, err := s.access.Identify(r.Context(), strings.TrimSpace(token))
	if errors.Is(err, access.ErrUnauthenticated) {
		return verdict{status: http.StatusUnauthorized}, nil
	}
	if err != nil {
		return verdict{}, err
	}
	may, err := s.access.May(r.Context(), user, access.Attempt{
		Namespace: wanted.namespace, Resource: "ratelimitpolicies", Subresource: wanted.subresource, Name: wanted.policy, Verb: wanted.verb,
	})
	switch {
	case err != nil:
		return verdict{}, err
	case !may:
		return verdict{user.Name, http.StatusForbidden}, nil
	}
	return verdict{user.Name, http.StatusOK}, nil
}
