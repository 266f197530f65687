package controllers

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/programming"
)

// degraded says how many sidecars have no answer from the store, since when, and
// what they do. When many are, the number is rounded up: else the status would
// be written again for each of ten thousand.
func (o *observed) degraded(c census) metav1.Condition {
	if before := o.remembers(c); before != nil {
		return *before
	}
	if len(c.away) == 0 {
		return metav1.Condition{
			Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonStoreAnswers,
			Message: "No sidecar says that it has no answer from Redis.",
		}
	}
	count, sidecars := c.degraded(), c.sidecars
	who := fmt.Sprintf("%d of %d sidecars (%s)", count, sidecars, some(c.away))
	switch {
	case len(c.away) == sidecars:
		who = fmt.Sprintf("All %d sidecars", sidecars)
	case count > exactCount:
		who = fmt.Sprintf("About %d of %d sidecars", count, sidecars)
	case count > shownNames:
		who = fmt.Sprintf("%d of %d sidecars", count, sidecars)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionDegraded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonStoreAway,
		Message: fmt.Sprintf("%s have no answer from Redis, the first since %s. %s",
			who, time.Unix(c.awaySince, 0).UTC().Format(time.RFC3339), withoutStore(o.policy.Spec.OnStoreFailure)),
	}
}

// remembers is the condition that a restarted operator goes by, whom those that
// it speaks of have not told yet; nil: there is none.
func (o *observed) remembers(c census) *metav1.Condition {
	if len(c.away) > 0 || c.unheard == 0 || o.trusted.IsZero() {
		return nil
	}
	before := meta.FindStatusCondition(o.policy.Status.Conditions, v1alpha1.ConditionDegraded)
	if before == nil || before.Status != metav1.ConditionTrue {
		return nil
	}
	return before
}

// degradedPods is the count that goes with the condition.
func (o *observed) degradedPods(c census) int32 {
	if o.remembers(c) != nil && o.policy.Status.Pods != nil {
		return o.policy.Status.Pods.Degraded
	}
	return int32(c.degraded()) //nolint:gosec // pods of a cluster
}

// exactCount is the largest number that programming.Coarse leaves as it is.
const exactCount = 16

// degraded pods, rounded up, but not beyond what there are.
func (c *census) degraded() int64 {
	if len(c.away) == 0 {
		return 0
	}
	return min(programming.Coarse(int64(len(c.away))), int64(c.sidecars))
}

// withoutStore says what a sidecar does with requests without the store.
func withoutStore(what v1alpha1.OnStoreFailure) string {
	switch what {
	case v1alpha1.OnStoreFailureAllow:
		return "They let requests pass uncounted (onStoreFailure: Allow)."
	case v1alpha1.OnStoreFailureDeny:
		return "They answer requests with 503 (onStoreFailure: Deny)."
	default:
		return "Each admits its share: the limit divided by the sidecars, and at least 1 request a window (onStoreFailure: Local)."
	}
}

// hear counts what a selected pod has said of its store, if anything.
func (c *census) hear(pod string, said link.Acknowledgement, known bool) {
	c.sidecars++
	switch {
	case !known:
		c.unheard++
	case said.StoreAwaySince != 0:
		c.away = append(c.away, pod)
		if c.awaySince == 0 || said.StoreAwaySince < c.awaySince {
			c.awaySince = said.StoreAwaySince
		}
	}
}
