package controllers

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// policiesReader lists some policies, or fails.
type policiesReader struct {
	client.Reader
	policies []v1alpha1.RateLimitPolicy
	err      error
}

func (r policiesReader) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	list.(*v1alpha1.RateLimitPolicyList).Items = r.policies
	return r.err
}

func policyWith(name string, pods *v1alpha1.PodCounts) v1alpha1.RateLimitPolicy {
	return v1alpha1.RateLimitPolicy{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bondhu", Name: name},
		Status:     v1alpha1.RateLimitPolicyStatus{Pods: pods},
	}
}

func TestPolicyPodsAreWhatTheStatusesSay(t *testing.T) {
	t.Parallel()
	pods := NewPolicyPods(policiesReader{policies: []v1alpha1.RateLimitPolicy{
		policyWith("spotify", &v1alpha1.PodCounts{Selected: 12, Enforcing: 11, Degraded: 2}),
		policyWith("new", nil),
	}})
	want := `
# HELP weir_operator_policy_pods Pods that a policy selects, those of them whose sidecar enforces it as it is now, and those whose sidecar has no answer from Redis (rounded up above 16).
# TYPE weir_operator_policy_pods gauge
weir_operator_policy_pods{namespace="bondhu",policy="spotify",state="degraded"} 2
weir_operator_policy_pods{namespace="bondhu",policy="spotify",state="enforcing"} 11
weir_operator_policy_pods{namespace="bondhu",policy="spotify",state="selected"} 12
`
	if err := testutil.CollectAndCompare(pods, strings.NewReader(want)); err != nil {
		t.Fatal(err)
	}
}

func TestPolicyPodsSayNothingWhileTheCacheCannotBeRead(t *testing.T) {
	t.Parallel()
	pods := NewPolicyPods(policiesReader{err: errors.New("the cache is not started")})
	if n := testutil.CollectAndCount(pods); n != 0 {
		t.Fatalf("want no metric, got %d", n)
	}
}
