package usage

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
)

// stateUnknown is a Policy's before the operator has looked at it.
const stateUnknown = "Unknown"

func (s *Server) policies(ctx context.Context, q *asked) (any, error) {
	page, err := q.page("namespace", "series")
	if err != nil {
		return nil, err
	}
	query := q.URL.Query()
	if wanted := query.Get("series"); wanted != "" && wanted != "true" && wanted != "false" {
		return nil, problem(http.StatusBadRequest, "series is true or false.")
	}
	list := &v1alpha1.RateLimitPolicyList{}
	// Only read: a copy of all for each page would be most of its work.
	if err := s.options.Client.List(ctx, list, client.InNamespace(query.Get("namespace")), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	all := make([]*v1alpha1.RateLimitPolicy, 0, len(list.Items))
	for i := range list.Items {
		if policy := &list.Items[i]; nameOf(policy) > page.after {
			all = append(all, policy)
		}
	}
	slices.SortFunc(all, func(a, b *v1alpha1.RateLimitPolicy) int { return strings.Compare(nameOf(a), nameOf(b)) })
	found := Policies{Policies: []Policy{}}
	if len(all) > page.limit {
		all = all[:page.limit]
		found.Continue = tokenAfter(nameOf(all[len(all)-1]))
	}
	policies, missing := s.happening(ctx, all, query.Get("series") == "true")
	found.Policies, found.Missing = append(found.Policies, policies...), missing
	return found, nil
}

// Happening are policies with what happens at them, for somebody who may list
// them; missing says why there are no rates and series.
func (s *Server) Happening(ctx context.Context, policies []*v1alpha1.RateLimitPolicy) (found []Policy, missing string) {
	return s.happening(ctx, policies, true)
}

func (s *Server) happening(ctx context.Context, policies []*v1alpha1.RateLimitPolicy, hours bool) (found []Policy, missing string) {
	for _, policy := range policies {
		found = append(found, policyOf(policy))
	}
	lately, missing := s.addRates(ctx, found, hours)
	if missing == "" {
		missing = s.addMostUsed(ctx, policies, found, lately)
	}
	return found, missing
}

// addMostUsed says of which limit most is used, by one of those who asked most of
// each policy lately.
func (s *Server) addMostUsed(ctx context.Context, policies []*v1alpha1.RateLimitPolicy, found []Policy, lately [][]report.Caller) (missing string) {
	var takes []limiter.Take
	var of []*Policy // of each take
	now := time.Now()
	for i, callers := range lately {
		for _, caller := range callers {
			if limits, _ := limitsOf(policies[i], caller.Identity, now); len(limits) > 0 {
				takes, of = append(takes, takeOf(policies[i], caller.Identity, limits)), append(of, &found[i])
			}
		}
	}
	if err := s.useStore(); err != nil {
		return err.Error()
	}
	decisions, err := s.limiter.RemainingOfEach(ctx, takes)
	if err != nil {
		return s.unanswered(err).Error()
	}
	for i, decision := range decisions {
		for _, quota := range decision.Quotas {
			of[i].uses(Use{quota.Limit.Requests, metav1.Duration{Duration: quota.Limit.Window()}, max(quota.Limit.Requests-quota.Remaining, 0)})
		}
	}
	return ""
}

// uses notes what a caller uses, if it is the largest part of a limit.
func (p *Policy) uses(use Use) {
	if p.MostUsed == nil || float64(use.Used)/float64(use.Requests) > float64(p.MostUsed.Used)/float64(p.MostUsed.Requests) {
		p.MostUsed = &use
	}
}

// nameOf a policy, by which they are listed.
func nameOf(policy *v1alpha1.RateLimitPolicy) string { return policy.Namespace + "/" + policy.Name }

func (s *Server) policy(ctx context.Context, q *asked) (any, error) {
	found := policyOf(q.policy)
	for _, condition := range q.policy.Status.Conditions {
		found.Conditions = append(found.Conditions, Condition{
			condition.Type, string(condition.Status), condition.Reason, condition.Message, condition.LastTransitionTime,
		})
	}
	told := []Policy{found}
	if _, missing := s.addRates(ctx, told, false); missing != "" {
		found.Missing = missing
		return found, nil
	}
	found = told[0]
	happened, err := s.report(ctx, q.policy)
	if err != nil {
		found.Missing = err.Error()
		return found, nil
	}
	found.Recent, found.Hour = seriesOf(happened.Recent), seriesOf(happened.Hour)
	return found, nil
}

// policyOf is a policy as its status shows it.
func policyOf(policy *v1alpha1.RateLimitPolicy) Policy {
	found := Policy{
		Namespace: policy.Namespace, Policy: policy.Name, Service: policy.ServiceName(),
		Direction: string(policy.Spec.Direction), Mode: string(cmp.Or(policy.Spec.Mode, v1alpha1.ModeEnforce)),
		State: stateUnknown, Degraded: meta.IsStatusConditionTrue(policy.Status.Conditions, v1alpha1.ConditionDegraded),
	}
	for _, limit := range policy.Spec.Limits {
		found.Limits = append(found.Limits, Quota{int64(limit.Requests), metav1.Duration{Duration: limit.Window.Duration}})
	}
	if ready := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
		found.State, found.Message, found.Ready = ready.Reason, ready.Message, ready.Status == metav1.ConditionTrue
	}
	if pods := policy.Status.Pods; pods != nil {
		found.Pods = PodCounts{pods.Selected, pods.Enforcing, pods.Degraded}
	}
	return found
}

// addRates says what happens at policies now and, where wanted, did in the last
// hour; or why that is missing. It returns who asked most of each within its
// longest window.
func (s *Server) addRates(ctx context.Context, policies []Policy, hours bool) (lately [][]report.Caller, missing string) {
	if len(policies) == 0 {
		return nil, ""
	}
	connection, err := s.reports.in(s.options.Store())
	if err != nil {
		return nil, err.Error()
	}
	named := make([]report.Policy, len(policies))
	for i := range policies {
		named[i] = report.Policy{Namespace: policies[i].Namespace, Service: policies[i].Service}
		for _, limit := range policies[i].Limits {
			named[i].Lately = max(named[i].Lately, limit.Window.Duration)
		}
	}
	rates, err := report.Rates(ctx, connection.Client(), named)
	if err != nil {
		return nil, s.unread(connection, err).Error()
	}
	var series []report.Series
	if hours {
		if series, err = report.Hours(ctx, connection.Client(), named); err != nil {
			return nil, s.unread(connection, err).Error()
		}
	}
	for i := range policies {
		lately = append(lately, rates[i].Callers)
		policies[i].Rates = &Rates{rates[i].Admitted, rates[i].Limited, rates[i].WithoutRedis}
		if hours {
			policies[i].Hour = seriesOf(series[i])
		}
	}
	return lately, ""
}

func seriesOf(told report.Series) *Series {
	n := len(told.Buckets)
	series := &Series{
		Begin: told.Begin.UTC(), StepSeconds: int64(told.Step.Seconds()),
		Admitted: make([]int64, n), Limited: make([]int64, n), WithoutRedis: make([]int64, n),
	}
	for i, counts := range told.Buckets {
		series.Admitted[i], series.Limited[i], series.WithoutRedis[i] = counts.Admitted, counts.Limited, counts.WithoutRedis
	}
	return series
}
