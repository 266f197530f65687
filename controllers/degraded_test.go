package controllers

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// away pods enforce the policy, and have no answer from the store since so long
// after the epoch.
func (s *scene) away(name string, since time.Duration) *scene {
	s.enforcing(name, 3)
	said := s.said[types.UID(name)]
	said.StoreAwaySince = epoch.Add(since).Unix()
	s.said[types.UID(name)] = said
	return s
}

// many pods of a kind.
func (s *scene) many(n int, one func(name string) *scene) *scene {
	for i := range n {
		one(fmt.Sprintf("%03d", i))
	}
	return s
}

func (s *scene) without(what v1alpha1.OnStoreFailure) *scene {
	s.policy.Spec.OnStoreFailure = what
	return s
}

// saidDegraded gives the policy a status that says so.
func (s *scene) saidDegraded() *scene {
	s.policy.Status.Pods = &v1alpha1.PodCounts{Degraded: 7}
	s.policy.Status.Conditions = append(s.policy.Status.Conditions, metav1.Condition{
		Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonStoreAway, Message: "As before.",
		LastTransitionTime: metav1.NewTime(epoch),
	})
	return s
}

func TestDegraded(t *testing.T) {
	t.Parallel()
	const local = " Each admits its share: the limit divided by the sidecars, and at least 1 request a window (onStoreFailure: Local)."
	crowd := makeScene()
	crowd.many(100, func(name string) *scene { return crowd.away(name, time.Minute) }).enforcing("other", 3)
	all := makeScene()
	all.many(20, func(name string) *scene { return all.away(name, time.Minute) })
	for _, test := range []struct {
		reason, status, message string
		scene                   *scene
		pods                    int32
	}{
		{
			reason: "nobody says so", scene: makeScene().enforcing("a", 3).pod("b", false).pod("c", true),
			status: "False StoreAnswers", message: "No sidecar says that it has no answer from Redis.",
		},
		{
			reason: "the first is told, and pods without sidecar are no sidecars",
			scene:  makeScene().enforcing("a", 3).away("b", time.Hour).away("c", time.Minute).pod("d", false), pods: 2,
			status: "True StoreAway", message: "2 of 3 sidecars (b, c) have no answer from Redis, the first since 2026-01-01T00:01:00Z." + local,
		},
		{
			reason: "Allow", scene: makeScene().without(v1alpha1.OnStoreFailureAllow).away("a", 0), pods: 1, status: "True StoreAway",
			message: "All 1 sidecars have no answer from Redis, the first since 2026-01-01T00:00:00Z. They let requests pass uncounted (onStoreFailure: Allow).",
		},
		{
			reason: "Deny", scene: makeScene().without(v1alpha1.OnStoreFailureDeny).away("a", 0), pods: 1, status: "True StoreAway",
			message: "All 1 sidecars have no answer from Redis, the first since 2026-01-01T00:00:00Z. They answer requests with 503 (onStoreFailure: Deny).",
		},
		{
			reason: "many are counted coarsely", scene: crowd, pods: 101, status: "True StoreAway",
			message: "About 101 of 101 sidecars have no answer from Redis, the first since 2026-01-01T00:01:00Z." + local,
		},
		{
			reason: "all are all", scene: all, pods: 20, status: "True StoreAway",
			message: "All 20 sidecars have no answer from Redis, the first since 2026-01-01T00:01:00Z." + local,
		},
		{
			reason: "a restarted operator, whom pods have not told yet, does not take back what it knew",
			scene:  makeScene().saidDegraded().pod("a", true).trusting(epoch.Add(time.Minute)), pods: 7,
			status: "True StoreAway", message: "As before.",
		},
		{
			reason: "but does when they have", scene: makeScene().saidDegraded().enforcing("a", 3).trusting(epoch.Add(time.Minute)),
			status: "False StoreAnswers", message: "No sidecar says that it has no answer from Redis.",
		},
		{
			reason: "or have had the time to", scene: makeScene().saidDegraded().pod("a", true),
			status: "False StoreAnswers", message: "No sidecar says that it has no answer from Redis.",
		},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			status := decide(test.scene.observed)
			c := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionDegraded)
			if got := fmt.Sprintf("%s %s", c.Status, c.Reason); got != test.status || c.Message != test.message {
				t.Errorf("got  %s: %s\nwant %s: %s", got, c.Message, test.status, test.message)
			}
			if status.Pods.Degraded != test.pods {
				t.Errorf("%d pods are degraded, want %d", status.Pods.Degraded, test.pods)
			}
		})
	}
}

// While Redis goes, and each of ten thousand sidecars says so by itself, the
// status is written a bounded number of times.
func TestDegradedIsWrittenSeldom(t *testing.T) {
	t.Parallel()
	c, written := census{sidecars: 10_000}, map[int64]bool{}
	for range 10_000 {
		c.away = append(c.away, "pod")
		written[c.degraded()] = true
	}
	if len(written) > 100 {
		t.Errorf("%d different counts, want at most 100", len(written))
	}
}

type recorded []string

func (r *recorded) Eventf(_, _ runtime.Object, eventType, reason, _, _ string, _ ...any) {
	*r = append(*r, eventType+" "+reason)
}

// To be degraded is the warning, and not to be is none.
func TestDegradedIsAnEvent(t *testing.T) {
	t.Parallel()
	var events recorded
	policy := &v1alpha1.RateLimitPolicy{}
	healthy := decide(makeScene().enforcing("a", 3).observed).Conditions
	degraded := decide(makeScene().away("a", 0).observed).Conditions
	for _, change := range [][2][]metav1.Condition{{nil, healthy}, {healthy, degraded}, {degraded, degraded}, {degraded, healthy}} {
		reportChanges(&events, policy, "Program", []string{v1alpha1.ConditionDegraded}, change[0], change[1])
	}
	want := []string{corev1.EventTypeWarning + " StoreAway", corev1.EventTypeNormal + " StoreAnswers"}
	if !slices.Equal(events, want) {
		t.Errorf("events %s, want %s", strings.Join(events, ", "), strings.Join(want, ", "))
	}
}
