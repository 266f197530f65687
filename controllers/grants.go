package controllers

import (
	"slices"
	"time"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// resetTold is how long a reset stays in the status: longer than any sidecar
// remembers that it refused a caller.
const resetTold = 30 * time.Second

// grants are those that have not ended.
func (o *observed) grants() []v1alpha1.Grant {
	return slices.DeleteFunc(slices.Clone(o.policy.Status.Grants), func(g v1alpha1.Grant) bool { return !o.now.Before(g.Until.Time) })
}

// resets are those that sidecars may still have to be told of.
func (o *observed) resets() []v1alpha1.Reset {
	return slices.DeleteFunc(slices.Clone(o.policy.Status.Resets), func(r v1alpha1.Reset) bool { return o.now.Sub(r.At.Time) >= resetTold })
}

// ending is how long it is until the first of them is over; 0: there is none.
func (o *observed) ending() time.Duration {
	var first time.Duration
	sooner := func(at time.Time) {
		if left := max(at.Sub(o.now), time.Millisecond); first == 0 || left < first {
			first = left
		}
	}
	for _, grant := range o.policy.Status.Grants {
		sooner(grant.Until.Time)
	}
	for _, reset := range o.policy.Status.Resets {
		sooner(reset.At.Add(resetTold))
	}
	return first
}
