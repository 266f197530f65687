package dashboard

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/usage"
)

// shownPods are those on a policy's own page; podsPage on theirs.
const (
	shownPods = 10
	podsPage  = 100
)

// podsData are pods that a policy selects.
type podsData struct {
	usage.Pods
	Namespace, Name, Service string
	Search                   string
	// Next is the address of the next page, or of the view of all; empty: none.
	Next string
	// Missing says why they are not known.
	Missing string
}

// podsOf asks for a page of a policy's pods.
func (s *Server) podsOf(ctx context.Context, v *visitor, r *http.Request, query url.Values) (found podsData) {
	found.Namespace, found.Name = r.PathValue("namespace"), r.PathValue("name")
	if err := s.askUsage(ctx, v, http.MethodGet, policyPath(r)+"/pods?"+query.Encode(), nil, &found.Pods); err != nil {
		found.Missing = err.Error()
	}
	return found
}

// pods is the view of all of a policy's pods.
func (s *Server) pods(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	policy, err := s.policyOf(ctx, v, r)
	if err != nil {
		return nil, err
	}
	asked, query := r.URL.Query(), url.Values{"limit": {strconv.Itoa(podsPage)}}
	if search := asked.Get("q"); search != "" {
		query.Set("search", search)
	}
	if from := asked.Get("from"); from != "" {
		query.Set("continue", from)
	}
	data := s.podsOf(ctx, v, r, query)
	data.Service, data.Search = policy.ServiceName(), asked.Get("q")
	if data.Continue != "" {
		next := with(asked, "from", "")
		if next != "?" {
			next += "&"
		}
		data.Next = next + "from=" + url.QueryEscape(data.Continue)
	}
	return &view{template: "pods", data: data, title: "Pods of " + data.Service, section: "limits", every: ratesInterval}, nil
}

// policyOf is the policy that a request's path names, if the visitor may see it.
func (s *Server) policyOf(ctx context.Context, v *visitor, r *http.Request) (*v1alpha1.RateLimitPolicy, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	if !v.may(ctx, namespace, "ratelimitpolicies", "", "list") {
		return nil, problem(http.StatusForbidden, "User %s may not list ratelimitpolicies in namespace %s: a Role there has to allow it.", v.user.Username, namespace)
	}
	policy := &v1alpha1.RateLimitPolicy{}
	if err := s.o.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, policy); err != nil {
		return nil, problem(http.StatusNotFound, "There is no RateLimitPolicy %s in namespace %s.", name, namespace)
	}
	return policy, nil
}
