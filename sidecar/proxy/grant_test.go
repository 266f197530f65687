package proxy

import (
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// A caller has what it was granted until the grant's end, by the sidecar's own
// clock, and nobody else does.
func TestAGrantHoldsUntilItsEnd(t *testing.T) {
	t.Parallel()
	granted := func(until time.Time) func(*ruleset.Policy) {
		return func(p *ruleset.Policy) {
			p.Limits = []ruleset.Limit{{Requests: 2, WindowMillis: minute}}
			p.Overrides = []ruleset.Override{
				{Identities: []string{"alice"}, Limits: []ruleset.Limit{{Requests: 4, WindowMillis: minute}}, UntilMillis: until.UnixMilli()},
				{Identities: []string{"alice"}, Limits: []ruleset.Limit{{Requests: 3, WindowMillis: minute}}},
			}
		}
	}
	h := serve(t, ruleset.Inbound, application(t, seen), basic("p", inbound(granted(time.Now().Add(time.Hour)))))
	if got := h.statuses(5, "alice"); !slices.Equal(got, []int{200, 200, 200, 200, 429}) {
		t.Errorf("with 4 granted: %v", got)
	}
	if got := h.statuses(3, "bob"); !slices.Equal(got, []int{200, 200, 429}) {
		t.Errorf("without a grant: %v", got)
	}
	over := serve(t, ruleset.Inbound, application(t, seen), basic("p", inbound(granted(time.Now().Add(-time.Millisecond)))))
	if got := over.statuses(4, "alice"); !slices.Equal(got, []int{200, 200, 200, 429}) {
		t.Errorf("after the grant's end, of 3: %v", got)
	}
}

// A caller whose windows were emptied is admitted as soon as the rules say so,
// although its sidecar has just refused it.
func TestAResetCallerIsAdmitted(t *testing.T) {
	t.Parallel()
	policy := basic("p", inbound(func(p *ruleset.Policy) { p.Limits = []ruleset.Limit{{Requests: 2, WindowMillis: minute}} }))
	h := serve(t, ruleset.Inbound, application(t, seen), policy)
	if got := h.statuses(4, "alice"); !slices.Equal(got, []int{200, 200, 429, 429}) {
		t.Fatalf("before: %v", got)
	}
	take := limiter.Take{Namespace: "ns", Service: policy.Service, Identity: "alice", Limits: policy.Limits}
	if err := limiterOn(t, h.redis).Reset(t.Context(), take); err != nil {
		t.Fatal(err)
	}
	policy.Resets = []ruleset.Reset{{Identity: "alice", AtMicros: 1}}
	h.apply(policy)
	if got := h.statuses(3, "alice"); !slices.Equal(got, []int{200, 200, 429}) {
		t.Errorf("after: %v", got)
	}
}
