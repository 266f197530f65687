package programming

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Selector says which pods of its namespace a policy selects.
type Selector struct {
	// every: the policy has no selector.
	every bool
	// exact is all of a selector that has only matchLabels, as most do: they are
	// compared for each policy and pod of a namespace, again and again.
	exact map[string]string
	// labels is nil for the above.
	labels labels.Selector
}

// NewSelector reads a policy's selector.
func NewSelector(policy *v1alpha1.RateLimitPolicy) (Selector, error) {
	if policy.Spec.PodSelector == nil {
		return Selector{every: true}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(policy.Spec.PodSelector)
	if err != nil {
		return Selector{}, fmt.Errorf("reading the podSelector of policy %s/%s: %w", policy.Namespace, policy.Name, err)
	}
	if len(policy.Spec.PodSelector.MatchExpressions) == 0 {
		return Selector{exact: policy.Spec.PodSelector.MatchLabels}, nil
	}
	return Selector{labels: selector}, nil
}

// Selects says whether a pod with these labels is selected. A policy that names
// pods selects them even without a sidecar, so that its status can say so; a
// policy without selector selects the pods that have one. A pod that opted out
// is never selected.
func (s Selector) Selects(podLabels map[string]string, hasSidecar bool) bool {
	if podLabels[v1alpha1.LabelInject] == v1alpha1.InjectOptOut {
		return false
	}
	switch {
	case s.every:
		return hasSidecar
	case s.labels != nil:
		return s.labels.Matches(labels.Set(podLabels))
	}
	for key, want := range s.exact {
		if have, ok := podLabels[key]; !ok || have != want {
			return false
		}
	}
	return true
}

// Selects says whether a policy selects a pod with these labels; one with an
// invalid selector selects none.
func Selects(policy *v1alpha1.RateLimitPolicy, podLabels map[string]string, hasSidecar bool) bool {
	selector, err := NewSelector(policy)
	return err == nil && selector.Selects(podLabels, hasSidecar)
}
