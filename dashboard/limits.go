package dashboard

import (
	"context"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
)

// limitRow is a policy.
type limitRow struct {
	Namespace, Name, Service, Direction, Limits, Mode, Action string
	Selected, Enforcing                                       int32
	Ready, Degraded                                           bool
	Why                                                       string
	Conditions                                                []condition
	Hosts                                                     []string
}

func limitOf(p *v1alpha1.RateLimitPolicy) limitRow {
	row := limitRow{
		Namespace: p.Namespace, Name: p.Name, Service: p.ServiceName(), Direction: string(p.Spec.Direction),
		Limits: programming.Summary(p.Spec.Limits), Mode: string(p.Spec.Mode), Hosts: p.Spec.Hosts,
		Conditions: conditionsOf(p.Status.Conditions, v1alpha1.ConditionDegraded),
	}
	if p.Status.Pods != nil {
		row.Selected, row.Enforcing = p.Status.Pods.Selected, p.Status.Pods.Enforcing
	}
	if ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		row.Ready, row.Why = ready.Status == metav1.ConditionTrue, ready.Message
	} else {
		row.Why = "The operator has not looked at it yet."
	}
	if degraded := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionDegraded); degraded != nil && degraded.Status == metav1.ConditionTrue {
		row.Degraded, row.Why = true, degraded.Message
	}
	return row
}

type limitsData struct {
	Rows   []limitRow
	Search string
	Total  int
}

func (s *Server) limits(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	list := &v1alpha1.RateLimitPolicyList{}
	if err := s.o.Reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	var namespaces []string
	for i := range list.Items {
		namespaces = append(namespaces, list.Items[i].Namespace)
	}
	slices.Sort(namespaces)
	allowed, every := v.among(ctx, slices.Compact(namespaces), "ratelimitpolicies", "", "list")
	data := limitsData{Search: r.URL.Query().Get("q")}
	for i := range list.Items {
		p := &list.Items[i]
		if !every && !allowed[p.Namespace] {
			continue
		}
		data.Total++
		if row := limitOf(p); matches(data.Search, row.Namespace, row.Name, row.Service) {
			data.Rows = append(data.Rows, row)
		}
	}
	slices.SortFunc(data.Rows, func(a, b limitRow) int { return compareKeys(a.Namespace, a.Name, b.Namespace, b.Name) })
	return &view{template: "limits", data: data, title: "Limits", section: "limits"}, nil
}

// grantRow is more quota for one caller, for a time.
type grantRow struct {
	Identity, By, Reason string
	Requests             int32
	Until                time.Time
}

type limitData struct {
	limitRow
	// Named: the visitor may see who callers are.
	Named  bool
	Grants []grantRow
	Spec   v1alpha1.RateLimitPolicySpec
}

func (s *Server) limit(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	namespace, name := r.PathValue("namespace"), r.PathValue("name")
	if !v.may(ctx, namespace, "ratelimitpolicies", "", "list") {
		return nil, problem(http.StatusForbidden, "User %s may not list ratelimitpolicies in namespace %s: a Role there has to allow it.", v.user.Username, namespace)
	}
	policy := &v1alpha1.RateLimitPolicy{}
	if err := s.o.Reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, policy); err != nil {
		return nil, problem(http.StatusNotFound, "There is no RateLimitPolicy %s in namespace %s.", name, namespace)
	}
	data := limitData{limitRow: limitOf(policy), Named: v.may(ctx, namespace, "ratelimitpolicies", "status", "get"), Spec: policy.Spec}
	for _, g := range policy.Status.Grants {
		if data.Named && time.Now().Before(g.Until.Time) {
			data.Grants = append(data.Grants, grantRow{g.Identity, g.By, g.Reason, g.Requests, g.Until.Time})
		}
	}
	return &view{template: "limit", data: data, title: name, section: "limits"}, nil
}
