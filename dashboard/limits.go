package dashboard

import (
	"context"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/usage"
)

// ratesInterval is how often sidecars say what happens.
const ratesInterval = 2 * time.Second

// limitRow is a policy.
type limitRow struct {
	Namespace, Name, Service, Direction, Limits, Mode string
	Selected, Enforcing                               int32
	Ready, Degraded                                   bool
	Why                                               string
	Conditions                                        []condition
	Hosts                                             []string
	// Rates of now in requests a second; nil: not known.
	Rates *usage.Rates
	// Most is what the caller with the most has used of a limit; nil: nobody asked.
	Most *usage.Use
	// Hour draws the last hour.
	Hour template.HTML
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

func (row *limitRow) happens(p *usage.Policy) {
	row.Rates, row.Most = p.Rates, p.MostUsed
	if p.Hour != nil {
		row.Hour = ratesPlot("Last hour", p.Hour.Admitted, p.Hour.Limited)
	}
}

type limitsData struct {
	Rows    []limitRow
	Search  string
	Total   int
	Matches int
	Missing string // why there are no rates
	Older   string
}

func (s *Server) limits(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	all, err := s.visiblePolicies(ctx, v)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	data := limitsData{Search: q.Get("q"), Total: len(all)}
	all = slices.DeleteFunc(all, func(p *v1alpha1.RateLimitPolicy) bool {
		return !matches(data.Search, p.Namespace, p.Name, p.ServiceName())
	})
	data.Matches = len(all)
	from, _ := strconv.Atoi(q.Get("from"))
	all = all[min(max(from, 0), len(all)):]
	if len(all) > pageSize {
		all = all[:pageSize]
		older := with(q, "from", "")
		data.Older = older + strings.Repeat("&", min(len(older)-1, 1)) + "from=" + url.QueryEscape(strconv.Itoa(from+pageSize))
	}
	var happening []usage.Policy
	happening, data.Missing = s.o.Usage.Happening(ctx, all)
	for i, p := range all {
		row := limitOf(p)
		row.happens(&happening[i])
		data.Rows = append(data.Rows, row)
	}
	return &view{template: "limits", data: data, title: "Limits", section: "limits", every: ratesInterval}, nil
}

// visiblePolicies are the cache's own, by namespace and name.
func (s *Server) visiblePolicies(ctx context.Context, v *visitor) ([]*v1alpha1.RateLimitPolicy, error) {
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
	var visible []*v1alpha1.RateLimitPolicy
	for i := range list.Items {
		if p := &list.Items[i]; every || allowed[p.Namespace] {
			visible = append(visible, p)
		}
	}
	slices.SortFunc(visible, func(a, b *v1alpha1.RateLimitPolicy) int { return compareKeys(a.Namespace, a.Name, b.Namespace, b.Name) })
	return visible, nil
}

// grantRow is more quota for one caller, for a time.
type grantRow struct {
	Who, Page, By, Reason string
	Requests              int32
	Until                 time.Time
}

// callerRow is one of those that asked most.
type callerRow struct {
	usage.TopCaller
	// Who: the caller's name or pseudonym; Page its view, empty: the visitor may not
	// ask for it.
	Who, Page string
	Actions   *callerActions // nil: none
	Limit     *usage.Limit   // the one with least left; nil: unlimited
	Frees     time.Time
}

type refusalRow struct {
	usage.Refusal
	Who, Page string
	Frees     time.Time
}

func refusalRowOf(refusal usage.Refusal) refusalRow {
	row := refusalRow{Refusal: refusal, Who: whoIs(refusal.Name)}
	if refusal.Frees != nil {
		row.Frees = *refusal.Frees
	}
	return row
}

type limitData struct {
	limitRow
	// Named: the visitor may see who callers are; MayAsk: of one by its name.
	Named, MayAsk      bool
	Page               string // the view's address
	MayReset, MayGrant bool
	Grants             []grantRow
	Callers            []callerRow
	Refusals           []refusalRow
	Pods               podsData
	// Missing says why there are no rates, Silent why no callers and refusals.
	Missing, Silent string
	Recent          template.HTML
}

// listed are the callers and refusals that are shown of a policy.
const listed = "?limit=50"

func (s *Server) limit(ctx context.Context, v *visitor, r *http.Request) (*view, error) {
	policy, err := s.policyOf(ctx, v, r)
	if err != nil {
		return nil, err
	}
	namespace, name := policy.Namespace, policy.Name
	data := limitData{
		limitRow: limitOf(policy), Named: !s.o.HideCallers && v.may(ctx, namespace, "ratelimitpolicies", "status", "get"),
		MayReset: v.may(ctx, namespace, "ratelimitpolicies", "resets", "create"), MayGrant: v.may(ctx, namespace, "ratelimitpolicies", "grants", "create"),
	}
	data.MayAsk, data.Page = !s.o.HideCallers && v.may(ctx, namespace, "ratelimitpolicies", "usage", "get"), policyPage(r)
	for _, g := range policy.Status.Grants {
		if data.Named && time.Now().Before(g.Until.Time) {
			name := usage.Name{Identity: &g.Identity}
			data.Grants = append(data.Grants, grantRow{whoIs(name), callerPage(data.Page, name, data.MayAsk), g.By, g.Reason, g.Requests, g.Until.Time})
		}
	}
	var happens usage.Policy
	if err := s.askUsage(ctx, v, http.MethodGet, policyPath(r), nil, &happens); err != nil {
		data.Missing = err.Error()
	} else {
		data.happens(&happens)
		data.Missing = happens.Missing
		if recent := happens.Recent; recent != nil {
			data.Recent = ratesPlot("Last two minutes", recent.Admitted, recent.Limited)
		}
	}
	data.Pods = s.podsOf(ctx, v, r, url.Values{"limit": {strconv.Itoa(shownPods)}})
	if data.Pods.Continue != "" {
		data.Pods.Next = data.Page + "/pods"
	}
	data.fill(ctx, s, v, policyPath(r))
	return &view{template: "limit", data: data, title: name, section: "limits", every: ratesInterval}, nil
}

// fill adds callers and refusals.
func (d *limitData) fill(ctx context.Context, s *Server, v *visitor, path string) {
	var callers usage.Callers
	var refusals usage.Refusals
	if err := s.askUsage(ctx, v, http.MethodGet, path+"/callers"+listed, nil, &callers); err != nil {
		d.Silent = err.Error()
		return
	}
	if err := s.askUsage(ctx, v, http.MethodGet, path+"/refusals"+listed, nil, &refusals); err != nil {
		d.Silent = err.Error()
		return
	}
	now := time.Now()
	for _, c := range callers.Callers {
		row := callerRow{TopCaller: c, Who: whoIs(c.Name), Page: callerPage(d.Page, c.Name, d.MayAsk)}
		if c.Identity != nil && (d.MayReset || d.MayGrant) {
			row.Actions = &callerActions{row.Who, encodeIdentity(*c.Identity), d.Page, d.Page, v.csrf, d.MayReset, d.MayGrant}
		}
		for i := range c.Limits {
			if limit := &c.Limits[i]; row.Limit == nil || limit.Remaining < row.Limit.Remaining {
				row.Limit = limit
			}
		}
		if row.Limit != nil && row.Limit.FreesAfterSeconds > 0 {
			row.Frees = now.Add(seconds(row.Limit.FreesAfterSeconds))
		}
		d.Callers = append(d.Callers, row)
	}
	for _, refusal := range refusals.Refusals {
		row := refusalRowOf(refusal)
		row.Page = callerPage(d.Page, refusal.Name, d.MayAsk)
		d.Refusals = append(d.Refusals, row)
	}
}

// whoIs is a caller's name, or pseudonym.
func whoIs(name usage.Name) string {
	switch {
	case name.Identity == nil:
		return name.Pseudonym
	case *name.Identity == "":
		return "all unnamed callers"
	}
	return *name.Identity
}
