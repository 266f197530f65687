package programming

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// policyBuilder makes policies that read like sentences.
type policyBuilder struct{ v1alpha1.RateLimitPolicy }

func makePolicy(name string) *policyBuilder {
	p := &policyBuilder{}
	p.Name, p.Namespace = name, "shop"
	p.CreationTimestamp = metav1.NewTime(epoch)
	p.Spec.Direction = v1alpha1.DirectionOutbound
	return p
}

func (p *policyBuilder) service(name string) *policyBuilder { p.Spec.Service = name; return p }

func (p *policyBuilder) createdAfter(d time.Duration) *policyBuilder {
	p.CreationTimestamp = metav1.NewTime(epoch.Add(d))
	return p
}

func (p *policyBuilder) deleted() *policyBuilder {
	now := metav1.NewTime(epoch)
	p.DeletionTimestamp = &now
	return p
}

func (p *policyBuilder) selector(operator metav1.LabelSelectorOperator, values ...string) *policyBuilder {
	p.Spec.PodSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "app", Operator: operator, Values: values},
	}}
	return p
}

func (p *policyBuilder) path(kind v1alpha1.PathMatchType, value string) *policyBuilder {
	p.Spec.Match = append(p.Spec.Match, v1alpha1.RequestMatch{Path: &v1alpha1.PathMatch{Type: kind, Value: value}})
	return p
}

func (p *policyBuilder) headers(matches ...v1alpha1.HeaderMatch) *policyBuilder {
	p.Spec.Match = append(p.Spec.Match, v1alpha1.RequestMatch{Headers: matches})
	return p
}

func (p *policyBuilder) inbound() *policyBuilder {
	p.Spec.Direction = v1alpha1.DirectionInbound
	return p
}

func (p *policyBuilder) tls(mode v1alpha1.TLSMode) *policyBuilder { p.Spec.TLS = mode; return p }

func TestAccept(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, reason string
		policies     []*policyBuilder
		want         map[string]string // reason by policy
		sentences    map[string]string // part of the message by policy
	}{
		{
			name: "different services", reason: "policies of different services do not meet",
			policies: []*policyBuilder{makePolicy("a"), makePolicy("b")},
			want:     map[string]string{"a": v1alpha1.ReasonAccepted, "b": v1alpha1.ReasonAccepted},
		},
		{
			name: "the older wins", reason: "whoever comes later must not take a quota away",
			policies:  []*policyBuilder{makePolicy("a").service("x").createdAfter(time.Second), makePolicy("b").service("x")},
			want:      map[string]string{"a": v1alpha1.ReasonServiceConflict, "b": v1alpha1.ReasonAccepted},
			sentences: map[string]string{"a": `older policy "b" already limits service "x"`},
		},
		{
			name: "a service named by a policy's name", reason: "absent, the service is the policy's name",
			policies: []*policyBuilder{makePolicy("x"), makePolicy("b").service("x").createdAfter(time.Second)},
			want:     map[string]string{"x": v1alpha1.ReasonAccepted, "b": v1alpha1.ReasonServiceConflict},
		},
		{
			name: "the name decides within a second", reason: "creation times have whole seconds; every replica must choose the same",
			policies: []*policyBuilder{makePolicy("b").service("x"), makePolicy("a").service("x")},
			want:     map[string]string{"a": v1alpha1.ReasonAccepted, "b": v1alpha1.ReasonServiceConflict},
		},
		{
			name: "a deleted policy claims nothing", reason: "its successor takes over at once",
			policies: []*policyBuilder{makePolicy("a").service("x").deleted(), makePolicy("b").service("x").createdAfter(time.Second)},
			want:     map[string]string{"b": v1alpha1.ReasonAccepted},
		},
		{
			name: "an invalid policy claims nothing", reason: "what enforces nothing must not disturb what could",
			policies: []*policyBuilder{
				makePolicy("a").service("x").selector(metav1.LabelSelectorOpIn),
				makePolicy("b").service("x").createdAfter(time.Second),
			},
			want:      map[string]string{"a": v1alpha1.ReasonInvalidSelector, "b": v1alpha1.ReasonAccepted},
			sentences: map[string]string{"a": "spec.podSelector is not a valid selector"},
		},
		{
			name: "a bad expression", reason: "the message names the place and the fault",
			policies: []*policyBuilder{makePolicy("a").path(v1alpha1.PathMatchPrefix, "/(").path(v1alpha1.PathMatchRegularExpression, "/v1/(")},
			want:     map[string]string{"a": v1alpha1.ReasonInvalidMatch},
			sentences: map[string]string{
				"a": "spec.match[1].path.value is not a valid regular expression (RE2): error parsing regexp: missing closing ): `/v1/(`",
			},
		},
		{
			name: "look-ahead", reason: "RE2 has none, and a user of PCRE must learn that here",
			policies: []*policyBuilder{makePolicy("a").path(v1alpha1.PathMatchRegularExpression, "/(?!x)")},
			want:     map[string]string{"a": v1alpha1.ReasonInvalidMatch},
		},
		{
			name: "a bad expression of a header", reason: "the message names the place and the fault; what is compared exactly is none",
			policies: []*policyBuilder{makePolicy("a").path(v1alpha1.PathMatchPrefix, "/").headers(
				v1alpha1.HeaderMatch{Name: "X-A", Value: "("},
				v1alpha1.HeaderMatch{Name: "X-B", Type: v1alpha1.HeaderMatchExact, Value: "("},
				v1alpha1.HeaderMatch{Name: "X-C", Type: v1alpha1.HeaderMatchRegularExpression, Value: "(free"},
			)},
			want: map[string]string{"a": v1alpha1.ReasonInvalidMatch},
			sentences: map[string]string{
				"a": "spec.match[1].headers[2].value is not a valid regular expression (RE2): error parsing regexp: missing closing ): `(free`. Correct it, or use type Exact.",
			},
		},
		{
			name: "a parenthesis that closes the anchor", reason: "it must not balance against the anchor that the sidecar adds",
			policies: []*policyBuilder{makePolicy("a").path(v1alpha1.PathMatchRegularExpression, "a)|(b")},
			want:     map[string]string{"a": v1alpha1.ReasonInvalidMatch},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			verdicts := Accept(plain(test.policies))
			got := map[string]string{}
			for name, verdict := range verdicts {
				got[name] = verdict.Reason
				if verdict.Accepted != (verdict.Reason == v1alpha1.ReasonAccepted) {
					t.Errorf("%s: policy %s has accepted=%v with reason %s", test.reason, name, verdict.Accepted, verdict.Reason)
				}
				if !strings.Contains(verdict.Message, test.sentences[name]) {
					t.Errorf("%s: policy %s says %q, want it to contain %q", test.reason, name, verdict.Message, test.sentences[name])
				}
			}
			if !maps.Equal(got, test.want) {
				t.Errorf("%s: got %v, want %v", test.reason, got, test.want)
			}
		})
	}
}

// Whoever limits calls to a provider over HTTPS must learn from the policy that
// it does not see them.
func TestAcceptedPoliciesSayWhatTheyDoNotSee(t *testing.T) {
	t.Parallel()
	const unseen = "Set it to Intercept to limit them too."
	for _, test := range []struct {
		reason string
		policy *policyBuilder
		said   bool
	}{
		{"the default passes TLS", makePolicy("a"), true},
		{"so does Passthrough", makePolicy("a").tls(v1alpha1.TLSPassthrough), true},
		{"Intercept sees all", makePolicy("a").tls(v1alpha1.TLSIntercept), false},
		{"Inbound there is nothing to set", makePolicy("a").inbound().tls(v1alpha1.TLSPassthrough), false},
	} {
		verdict := Accept(plain([]*policyBuilder{test.policy}))["a"]
		if !verdict.Accepted || strings.Contains(verdict.Message, unseen) != test.said {
			t.Errorf("%s: got %+v, want it accepted and to say %q: %v", test.reason, verdict, unseen, test.said)
		}
	}
}

func plain(built []*policyBuilder) []v1alpha1.RateLimitPolicy {
	policies := make([]v1alpha1.RateLimitPolicy, 0, len(built))
	for _, p := range built {
		policies = append(policies, p.RateLimitPolicy)
	}
	return policies
}

func TestAcceptDoesNotDependOnOrder(t *testing.T) {
	t.Parallel()
	policies := plain([]*policyBuilder{
		makePolicy("a").service("x").createdAfter(time.Minute), makePolicy("b").service("x"), makePolicy("c").service("x"),
	})
	want := Accept(policies)
	slices.Reverse(policies)
	if got := Accept(policies); !maps.Equal(got, want) {
		t.Errorf("in reverse order: got %v, want %v", got, want)
	}
}

func TestSelects(t *testing.T) {
	t.Parallel()
	web := map[string]string{"app": "web"}
	out := map[string]string{"app": "web", v1alpha1.LabelInject: v1alpha1.InjectOptOut}
	none := makePolicy("a")
	everyone := makePolicy("a")
	everyone.Spec.PodSelector = &metav1.LabelSelector{}
	for _, test := range []struct {
		reason     string
		policy     *policyBuilder
		labels     map[string]string
		hasSidecar bool
		want       bool
	}{
		{"without selector, pods with a sidecar are selected", none, web, true, true},
		{"without selector, pods without a sidecar are not", none, web, false, false},
		{"an empty selector names every pod", everyone, web, false, true},
		{"a selector names pods even without a sidecar", makePolicy("a").selector(metav1.LabelSelectorOpIn, "web"), web, false, true},
		{"another pod's labels do not match", makePolicy("a").selector(metav1.LabelSelectorOpIn, "api"), web, true, false},
		{"who opted out is not selected", everyone, out, false, false},
		{"an invalid selector selects nothing", makePolicy("a").selector(metav1.LabelSelectorOpIn), web, true, false},
	} {
		if got := Selects(&test.policy.RateLimitPolicy, test.labels, test.hasSidecar); got != test.want {
			t.Errorf("%s: got %v", test.reason, got)
		}
	}
}

func TestSummary(t *testing.T) {
	t.Parallel()
	limit := func(requests int32, window time.Duration) v1alpha1.Limit {
		return v1alpha1.Limit{Requests: requests, Window: metav1.Duration{Duration: window}}
	}
	for _, test := range []struct {
		want   string
		limits []v1alpha1.Limit
	}{
		{"100/1m", []v1alpha1.Limit{limit(100, time.Minute)}},
		{"10/1s, 100/1m", []v1alpha1.Limit{limit(10, time.Second), limit(100, time.Minute)}},
		{"5/10m", []v1alpha1.Limit{limit(5, 10*time.Minute)}},
		{"5/1h", []v1alpha1.Limit{limit(5, time.Hour)}},
		{"5/20h30m", []v1alpha1.Limit{limit(5, 20*time.Hour+30*time.Minute)}},
		{"5/1h0m5s", []v1alpha1.Limit{limit(5, time.Hour+5*time.Second)}},
		{"5/744h", []v1alpha1.Limit{limit(5, 744*time.Hour)}},
	} {
		if got := Summary(test.limits); got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}
