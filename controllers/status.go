package controllers

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/programming"
)

// observed is what the cluster shows of one policy.
type observed struct {
	policy  *v1alpha1.RateLimitPolicy
	verdict programming.Verdict
	// pods that the policy selects, by name.
	pods []*corev1.Pod
	said map[types.UID]link.Acknowledgement
	// authority: the namespace has one to intercept with.
	authority bool
	// trusted: pods that are older and have said nothing to this operator are
	// taken to enforce what the status says that they do. Zero: none. Without
	// it a restart of the operator would turn every policy to not Programmed
	// until the sidecars have asked again, although they never ceased.
	trusted time.Time
	now     time.Time
}

// census counts a policy's pods.
type census struct {
	enforcing int
	// Names of pods, in order.
	bare, waiting, rejecting, blind []string
	// sidecars that there are, of which away have no answer from the store, the
	// first since a Unix time; unheard have not told this operator.
	sidecars, unheard int
	away              []string
	awaySince         int64
	// rejection is why the first of rejecting could not apply its rules.
	rejection string
}

// decide is a policy's status. What has not changed keeps its transition time.
func decide(o observed) v1alpha1.RateLimitPolicyStatus {
	counted := o.count()
	status := v1alpha1.RateLimitPolicyStatus{
		ObservedGeneration: o.policy.Generation,
		Service:            o.policy.ServiceName(),
		Limit:              programming.Summary(o.policy.Spec.Limits),
		Pods: &v1alpha1.PodCounts{
			Selected:  int32(len(o.pods)),       //nolint:gosec // pods of a cluster
			Enforcing: int32(counted.enforcing), //nolint:gosec // of them
			Degraded:  o.degradedPods(counted),
			Summary:   fmt.Sprintf("%d/%d", counted.enforcing, len(o.pods)),
		},
		Grants:     o.grants(),
		Resets:     o.resets(),
		Conditions: slices.Clone(o.policy.Status.Conditions),
	}
	accepted := o.accepted()
	programmed := o.programmed(counted)
	for _, condition := range []metav1.Condition{accepted, programmed, ready(accepted, programmed), o.degraded(counted)} {
		condition.ObservedGeneration = o.policy.Generation
		condition.LastTransitionTime = metav1.NewTime(o.now)
		meta.SetStatusCondition(&status.Conditions, condition)
	}
	return status
}

func (o *observed) count() census {
	var c census
	if !o.verdict.Accepted {
		return c
	}
	for _, pod := range o.pods {
		said, known := o.said[pod.UID]
		if link.HasSidecar(pod) {
			c.hear(pod.Name, said, known)
		}
		switch {
		case !link.HasSidecar(pod):
			c.bare = append(c.bare, pod.Name)
		case said.Enforces(o.policy.UID, o.policy.Generation) && o.policy.Spec.TLS == v1alpha1.TLSIntercept && !said.Intercepts(o.policy.Name):
			c.blind = append(c.blind, pod.Name)
		case said.Enforces(o.policy.UID, o.policy.Generation):
			c.enforcing++
		case known && said.Rejected != nil:
			if len(c.rejecting) == 0 {
				c.rejection = said.Rejected.Reason
			}
			c.rejecting = append(c.rejecting, pod.Name)
		case !known && o.wasProgrammed() && pod.CreationTimestamp.Time.Before(o.trusted):
			c.enforcing++
		default:
			c.waiting = append(c.waiting, pod.Name)
		}
	}
	return c
}

// wasProgrammed says whether the status calls this generation programmed.
func (o *observed) wasProgrammed() bool {
	before := meta.FindStatusCondition(o.policy.Status.Conditions, v1alpha1.ConditionProgrammed)
	return before != nil && before.Status == metav1.ConditionTrue && before.ObservedGeneration == o.policy.Generation
}

// isNews says whether no status has spoken of this generation yet.
func (o *observed) isNews() bool {
	before := meta.FindStatusCondition(o.policy.Status.Conditions, v1alpha1.ConditionProgrammed)
	return before == nil || before.ObservedGeneration != o.policy.Generation
}

func (o *observed) accepted() metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionAccepted, Status: metav1.ConditionFalse,
		Reason: o.verdict.Reason, Message: o.verdict.Message,
	}
	if o.verdict.Accepted {
		condition.Status = metav1.ConditionTrue
	}
	return condition
}

// programmed says the first thing that keeps the policy from being enforced
// everywhere. Of a new generation False is written before True, so that whoever
// watches sees the edit take effect.
func (o *observed) programmed(c census) metav1.Condition {
	no := func(reason, message string) metav1.Condition {
		return metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionFalse, Reason: reason, Message: message}
	}
	yes := func(reason, message string) metav1.Condition {
		return metav1.Condition{Type: v1alpha1.ConditionProgrammed, Status: metav1.ConditionTrue, Reason: reason, Message: message}
	}
	all := len(o.pods)
	switch {
	case !o.verdict.Accepted:
		return no(v1alpha1.ReasonNotAccepted, "No pod enforces the policy, because it is not accepted.")
	case all == 0:
		return yes(v1alpha1.ReasonNoPods, "The policy selects no pod yet. It holds for every selected pod from its first request.")
	case len(c.rejecting) > 0:
		return no(v1alpha1.ReasonSidecarRejected, fmt.Sprintf("%d of %d pods could not apply their rules (%s): %s. They enforce the rules that they had before.",
			len(c.rejecting), all, some(c.rejecting), strings.TrimRight(c.rejection, ". \n")))
	case len(c.bare) > 0:
		return no(v1alpha1.ReasonSidecarMissing, fmt.Sprintf("%d of %d selected pods run without the sidecar (%s): restart them in a namespace labelled %s=%s, or label them %s=%q to leave them out.",
			len(c.bare), all, some(c.bare), v1alpha1.LabelInject, v1alpha1.InjectNamespace, v1alpha1.LabelInject, v1alpha1.InjectOptOut))
	case len(c.blind) > 0 && !o.authority:
		return no(v1alpha1.ReasonPending, "The namespace has no authority to intercept with yet. If this stays, the operator's log says why.")
	case len(c.blind) > 0:
		return no(v1alpha1.ReasonRestartNeeded, fmt.Sprintf("%d of %d pods do not intercept (%s): they began before interception of these hosts was declared, or without the trust bundle. Their HTTPS calls pass uncounted: restart them (kubectl rollout restart); if that does not help, the events of their owners say why.",
			len(c.blind), all, some(c.blind)))
	case len(c.waiting) > 0:
		return no(v1alpha1.ReasonPending, fmt.Sprintf("%d of %d pods enforce generation %d; waiting for %s.",
			c.enforcing, all, o.policy.Generation, some(c.waiting)))
	case o.isNews():
		return no(v1alpha1.ReasonPending, fmt.Sprintf("Generation %d is on its way to %d pods.", o.policy.Generation, all))
	default:
		return yes(v1alpha1.ReasonProgrammed, fmt.Sprintf("All %d selected pods enforce generation %d.", all, o.policy.Generation))
	}
}

// ready sums the others up.
func ready(accepted, programmed metav1.Condition) metav1.Condition {
	condition := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonReady, Message: programmed.Message,
	}
	for _, obstacle := range []metav1.Condition{accepted, programmed} {
		if obstacle.Status != metav1.ConditionTrue {
			condition.Status, condition.Reason, condition.Message = metav1.ConditionFalse, obstacle.Reason, obstacle.Message
			break
		}
	}
	return condition
}

// shownNames of pods in a message, at most.
const shownNames = 3

// some names the first three pods and counts the others.
func some(names []string) string {
	if len(names) <= shownNames {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shownNames], ", "), len(names)-shownNames)
}
