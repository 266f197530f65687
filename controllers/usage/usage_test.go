package usage

import (
	"context"
	"strconv"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// lagging is a client whose cache has a policy as it was before, so many times.
type lagging struct {
	client.Client
	now, before v1alpha1.RateLimitPolicy
	times       int
}

// status writes the policy's.
type status struct {
	client.SubResourceWriter
	of *lagging
}

func (l *lagging) Get(_ context.Context, _ client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	found := &l.now
	if l.times > 0 {
		l.times--
		found = &l.before
	}
	found.DeepCopyInto(object.(*v1alpha1.RateLimitPolicy))
	return nil
}

func (l *lagging) Status() client.SubResourceWriter { return status{of: l} }

func (s status) Patch(_ context.Context, object client.Object, _ client.Patch, _ ...client.SubResourcePatchOption) error {
	if object.GetResourceVersion() != s.of.now.ResourceVersion {
		return apierrors.NewConflict(schema.GroupResource{Resource: "ratelimitpolicies"}, object.GetName(), nil)
	}
	object.(*v1alpha1.RateLimitPolicy).DeepCopyInto(&s.of.now)
	return nil
}

// A grant that another replica has just made can be ended, although the cache has not
// heard of it; and there is none only where there is none.
func TestEditsAreOfThePolicyAsItIs(t *testing.T) {
	t.Parallel()
	grant := v1alpha1.Grant{Identity: "carol", Requests: 2, Until: metav1.NewTime(time.Now().Add(time.Hour))}
	version := func(n int, grants ...v1alpha1.Grant) (policy v1alpha1.RateLimitPolicy) {
		policy.Name, policy.ResourceVersion, policy.Status.Grants = "spotify", strconv.Itoa(n), grants
		return policy
	}
	revoke := func(of *v1alpha1.RateLimitPolicyStatus) error {
		if len(of.Grants) == 0 {
			return problem(404, "The caller has no grant.")
		}
		of.Grants = nil
		return nil
	}
	for _, test := range []struct {
		reason      string
		before, now v1alpha1.RateLimitPolicy
		refused     bool
	}{
		{"made meanwhile", version(1), version(2, grant), false},
		{"ended meanwhile", version(1, grant), version(2), true},
		{"never made", version(1), version(1), true},
	} {
		behind := &lagging{before: test.before, now: test.now, times: 2}
		policy := test.before
		err := (&Server{options: Options{Client: behind}}).edit(t.Context(), &policy, revoke)
		if refused := err != nil; refused != test.refused || len(behind.now.Status.Grants) != 0 {
			t.Errorf("%s: %v, and %d grants, want refused %v, and none", test.reason, err, len(behind.now.Status.Grants), test.refused)
		}
	}
}
