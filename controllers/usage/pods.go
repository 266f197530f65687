package usage

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
)

// States of a pod that a policy selects.
const (
	PodEnforcing       = "Enforcing"
	PodPending         = "Pending"
	PodRejected        = "Rejected"
	PodNotIntercepting = "NotIntercepting"
	PodNotConnected    = "NotConnected"
	PodNoSidecar       = "NoSidecar"
)

// PodQuery is which page of a policy's pods is wanted, and of which pods.
type PodQuery struct {
	Limit int
	// After what the page before ended with; empty: this is the first.
	After string
	// Search is part of their names; empty: all.
	Search string
}

// Values are the parameters of GET …/pods.
func (q PodQuery) Values() map[string][]string {
	values := map[string][]string{"limit": {strconv.Itoa(q.Limit)}}
	if q.After != "" {
		values["continue"] = []string{tokenAfter(q.After)}
	}
	if q.Search != "" {
		values["search"] = []string{q.Search}
	}
	return values
}

func (s *Server) pods(ctx context.Context, q *asked) (any, error) {
	page, err := q.page("search")
	if err != nil {
		return nil, err
	}
	if s.options.Pods == nil {
		return nil, problem(http.StatusServiceUnavailable, "The operator cannot be asked about pods.")
	}
	return s.options.Pods(ctx, q.policy, PodQuery{page.limit, page.after, q.URL.Query().Get("search")})
}

// Unavailable is an error that people are told: ask again.
func Unavailable(sentence string) error {
	return &failure{http.StatusServiceUnavailable, sentence}
}

// PodsFrom are a policy's pods as a cache knows them, and what they have
// acknowledged.
func PodsFrom(reader client.Reader, acknowledgements *link.Acknowledgements) func(context.Context, *v1alpha1.RateLimitPolicy, PodQuery) (Pods, error) {
	return func(ctx context.Context, policy *v1alpha1.RateLimitPolicy, wanted PodQuery) (Pods, error) {
		pods, err := link.PodsIn(ctx, reader, policy.Namespace)
		if err != nil {
			return Pods{}, err
		}
		return podsOf(policy, link.Selected(policy, link.Candidates(pods)), acknowledgements, wanted), nil
	}
}

// podsOf is a page of a policy's pods, by name: those with some trouble first.
func podsOf(policy *v1alpha1.RateLimitPolicy, selected []*corev1.Pod, acknowledgements *link.Acknowledgements, wanted PodQuery) Pods {
	found := Pods{Generation: policy.Generation, Pods: []Pod{}}
	var troubled, fine []*corev1.Pod
	for _, pod := range selected {
		said, known := acknowledgements.Last(pod.Namespace, pod.UID)
		trouble := found.States.count(stateOf(policy, pod, &said, known), &said)
		switch {
		case !strings.Contains(pod.Name, wanted.Search):
		case trouble:
			troubled = append(troubled, pod)
		default:
			fine = append(fine, pod)
		}
	}
	// A pod may change sides between two pages, and be on both or on none.
	last := ""
	for i, pod := range slices.Concat(troubled, fine) {
		place := "0" + pod.Name
		if i >= len(troubled) {
			place = "1" + pod.Name
		}
		if place <= wanted.After {
			continue
		}
		if len(found.Pods) == wanted.Limit {
			found.Continue = tokenAfter(last)
			break
		}
		found.Pods, last = append(found.Pods, podOf(policy, pod, acknowledgements)), place
	}
	return found
}

// stateOf is how it is with a pod and a policy.
func stateOf(policy *v1alpha1.RateLimitPolicy, pod *corev1.Pod, said *link.Acknowledgement, known bool) string {
	switch generation := said.Generation(policy.UID); {
	case !link.HasSidecar(pod):
		return PodNoSidecar
	case !known:
		return PodNotConnected
	case generation == policy.Generation && policy.Spec.TLS == v1alpha1.TLSIntercept && !said.Intercepts(policy.Name):
		return PodNotIntercepting
	case generation == policy.Generation:
		return PodEnforcing
	case said.Rejected != nil:
		return PodRejected
	}
	return PodPending
}

func podOf(policy *v1alpha1.RateLimitPolicy, pod *corev1.Pod, acknowledgements *link.Acknowledgements) Pod {
	said, known := acknowledgements.Last(pod.Namespace, pod.UID)
	one := Pod{Pod: pod.Name, State: stateOf(policy, pod, &said, known), Generation: said.Generation(policy.UID)}
	if !known {
		return one
	}
	one.Since = utc(said.Since)
	if said.StoreAwaySince > 0 {
		one.WithoutRedisSince = utc(time.Unix(said.StoreAwaySince, 0))
	}
	if said.Silent {
		one.SilentSince = utc(said.Seen)
	}
	if one.State == PodRejected {
		one.Message = said.Rejected.Reason
	}
	return one
}

func utc(at time.Time) *time.Time {
	at = at.UTC()
	return &at
}

// count a pod, and say whether it is in some trouble: it does not enforce the policy
// as it is, or may not.
func (c *PodStates) count(state string, said *link.Acknowledgement) (trouble bool) {
	c.Selected++
	switch state {
	case PodEnforcing:
		c.Enforcing++
	case PodPending:
		c.Pending++
	case PodRejected:
		c.Rejected++
	case PodNotIntercepting:
		c.NotIntercepting++
	case PodNotConnected:
		c.NotConnected++
	case PodNoSidecar:
		c.NoSidecar++
	}
	if said.StoreAwaySince > 0 {
		c.WithoutRedis++
	}
	if said.Silent {
		c.Silent++
	}
	if trouble = state != PodEnforcing || said.StoreAwaySince > 0 || said.Silent; trouble {
		c.Troubled++
	}
	return trouble
}
