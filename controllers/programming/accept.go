package programming

import (
	"fmt"
	"regexp"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Verdict says whether a policy is in force among its namespace's policies.
type Verdict struct {
	Accepted bool
	// Reason of the condition Accepted.
	Reason string
	// Message is a sentence that says, when not accepted, what to change.
	Message string
}

// rule refuses a policy, or lets it pass to the next rule.
type rule func(policy *v1alpha1.RateLimitPolicy) (reason, message string, refused bool)

// wellFormed are the rules that a policy meets or breaks by itself. What the
// API server can refuse, it has refused already.
var wellFormed = []rule{
	selectorIsValid,
	expressionsCompile,
}

// Accept judges the policies of one namespace, by name. A policy that is being
// deleted gets no verdict: it is in force no more.
func Accept(policies []v1alpha1.RateLimitPolicy) map[string]Verdict {
	verdicts := make(map[string]Verdict, len(policies))
	claims := map[string]*v1alpha1.RateLimitPolicy{}
	for i := range policies {
		policy := &policies[i]
		if policy.DeletionTimestamp != nil {
			continue
		}
		verdict := first(wellFormed, policy)
		verdicts[policy.Name] = verdict
		holder, claimed := claims[policy.ServiceName()]
		if verdict.Accepted && (!claimed || older(policy, holder)) {
			claims[policy.ServiceName()] = policy
		}
	}
	conflict := serviceIsUnclaimed(claims)
	for i := range policies {
		policy := &policies[i]
		if verdicts[policy.Name].Accepted {
			verdicts[policy.Name] = first([]rule{conflict}, policy)
		}
	}
	var accepted []*v1alpha1.RateLimitPolicy
	for i := range policies {
		if verdicts[policies[i].Name].Accepted {
			accepted = append(accepted, &policies[i])
		}
	}
	crowded := hostsFitTheAuthority(accepted)
	for _, policy := range accepted {
		verdicts[policy.Name] = first([]rule{crowded}, policy)
	}
	return verdicts
}

// first is the verdict of the first rule that refuses the policy.
func first(rules []rule, policy *v1alpha1.RateLimitPolicy) Verdict {
	for _, refuses := range rules {
		if reason, message, refused := refuses(policy); refused {
			return Verdict{Reason: reason, Message: message}
		}
	}
	return Verdict{Accepted: true, Reason: v1alpha1.ReasonAccepted, Message: "The policy is valid and in force." + unseen(policy)}
}

// unseen says what an accepted policy does not hold although its author may
// think so.
func unseen(policy *v1alpha1.RateLimitPolicy) string {
	if policy.Spec.Direction != v1alpha1.DirectionOutbound || policy.Spec.TLS == v1alpha1.TLSIntercept {
		return ""
	}
	return " It sees requests over plain HTTP only: those over HTTPS pass uncounted, because spec.tls is Passthrough. Set it to Intercept to limit them too."
}

// older says which of two policies came first; names decide within a second.
func older(a, b *v1alpha1.RateLimitPolicy) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Name < b.Name
}

func selectorIsValid(policy *v1alpha1.RateLimitPolicy) (reason, message string, refused bool) {
	if _, err := metav1.LabelSelectorAsSelector(policy.Spec.PodSelector); err != nil {
		return v1alpha1.ReasonInvalidSelector,
			fmt.Sprintf("spec.podSelector is not a valid selector: %v. Correct it, or remove it to select every pod that has a sidecar.", err), true
	}
	return "", "", false
}

func expressionsCompile(policy *v1alpha1.RateLimitPolicy) (reason, message string, refused bool) {
	for i, match := range policy.Spec.Match {
		if path := match.Path; path != nil && path.Type == v1alpha1.PathMatchRegularExpression {
			if err := compiles(path.Value); err != nil {
				return invalidExpression(fmt.Sprintf("spec.match[%d].path.value", i), err, "type Prefix or Exact")
			}
		}
		for j, header := range match.Headers {
			if header.Type != v1alpha1.HeaderMatchRegularExpression {
				continue
			}
			if err := compiles(header.Value); err != nil {
				return invalidExpression(fmt.Sprintf("spec.match[%d].headers[%d].value", i, j), err, "type Exact")
			}
		}
	}
	return "", "", false
}

func invalidExpression(field string, fault error, instead string) (reason, message string, refused bool) {
	return v1alpha1.ReasonInvalidMatch,
		fmt.Sprintf("%s is not a valid regular expression (RE2): %s. Correct it, or use %s.", field, clip(fault.Error(), 300), instead), true
}

// compiles compiles an expression by itself, so that the error speaks of what
// its author wrote and "a)|(b" cannot break out of an anchor; and anchored, as
// the sidecar does, because the anchors count against RE2's bound on the size.
func compiles(expression string) error {
	if _, err := regexp.Compile(expression); err != nil {
		return err
	}
	_, err := regexp.Compile(`^(?:` + expression + `)$`)
	return err
}

// clip shortens a text to so many characters.
func clip(text string, most int) string {
	if characters := []rune(text); len(characters) > most {
		return string(characters[:most]) + "…"
	}
	return text
}

func serviceIsUnclaimed(claims map[string]*v1alpha1.RateLimitPolicy) rule {
	return func(policy *v1alpha1.RateLimitPolicy) (reason, message string, refused bool) {
		holder := claims[policy.ServiceName()]
		if holder.Name == policy.Name {
			return "", "", false
		}
		return v1alpha1.ReasonServiceConflict,
			fmt.Sprintf("The older policy %q already limits service %q in this namespace: delete one of the two, or create this one anew with another spec.service.",
				holder.Name, policy.ServiceName()), true
	}
}
