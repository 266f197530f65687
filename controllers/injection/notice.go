package injection

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Reasons of what is said about a pod that is admitted.
const (
	// EventTrustIncomplete: some clients of the pod will not trust the
	// authorities that intercept.
	EventTrustIncomplete = "TrustIncomplete"
	// EventTrustWithheld: the pod was not prepared for interception although a
	// policy or its annotation asks for it.
	EventTrustWithheld = "TrustWithheld"
	// EventProxyIncomplete: some clients of the pod will not call through the
	// sidecar.
	EventProxyIncomplete = "ProxyIncomplete"
	// EventEnvFromOverridden: variables of ours may hide some of ConfigMaps or
	// Secrets.
	EventEnvFromOverridden = "EnvFromOverridden"
	// EventCaptureForbidden: PodSecurity forbids what capturing takes.
	EventCaptureForbidden = "CaptureForbidden"
)

// Notice is something that a pod's author should know although the pod is
// admitted: an event on the pod's owner, and a warning of the admission.
type Notice struct {
	// Type of the event, Normal or Warning.
	Type string
	// Reason of the event.
	Reason string
	// Sentence says what is so and what can be done about it.
	Sentence string
}

// gap is what one container was not told because its application says
// otherwise.
type gap struct {
	container string
	// trust and proxy are the application's own variables and Java properties
	// that were left as they are.
	trust, proxy []string
	// readOnly is the path of a mount in which the trust bundle finds no place.
	readOnly string
	// overEnvFrom are variables of ours that envFrom may set otherwise.
	overEnvFrom []string
}

// noticesOf says the gaps in sentences, one a reason: a second event of the
// same reason would be counted with the first, and its sentence lost.
func noticesOf(gaps []gap) []Notice {
	var trust, proxy, over []string
	for _, g := range gaps {
		if len(g.trust) > 0 {
			trust = append(trust, fmt.Sprintf("container %q sets %s itself", g.container, strings.Join(g.trust, ", ")))
		}
		if g.readOnly != "" {
			trust = append(trust, fmt.Sprintf("container %q mounts %q read-only, where %s has no place", g.container, g.readOnly, ruleset.TrustDir))
		}
		if len(g.proxy) > 0 {
			proxy = append(proxy, fmt.Sprintf("container %q sets %s itself", g.container, strings.Join(g.proxy, ", ")))
		}
		if len(g.overEnvFrom) > 0 {
			over = append(over, fmt.Sprintf("container %q (%s)", g.container, strings.Join(g.overEnvFrom, ", ")))
		}
	}
	var notices []Notice
	say := func(eventType, reason, format string, found []string) {
		if len(found) > 0 {
			notices = append(notices, Notice{Type: eventType, Reason: reason, Sentence: fmt.Sprintf(format, some(found))})
		}
	}
	say(corev1.EventTypeWarning, EventTrustIncomplete,
		"Some clients of the pod will not trust what Weir intercepts, and their calls to intercepted hosts will fail: %s, which was left as it is. "+
			"Remove that, or add "+trustPath(ruleset.TrustAuthorities)+" to the roots it names, "+
			"or annotate the pod "+v1alpha1.AnnotationTrust+"=\""+v1alpha1.TrustRefuse+"\" to have none of its TLS intercepted", trust)
	say(corev1.EventTypeWarning, EventProxyIncomplete,
		"Some clients of the pod will not call through Weir's sidecar, and nothing limits what they call: %s, which was left as it is. "+
			"Remove that, or name "+proxyURL+" in it", proxy)
	say(corev1.EventTypeNormal, EventEnvFromOverridden,
		"Injection cannot see the variables that come from ConfigMaps and Secrets (envFrom), and Weir's go before them in %s. "+
			"To keep one of the application's, set it in env: what env sets is left as it is", over)
	return notices
}

// some lists the first of what was found, and how many more there are, in a
// few hundred bytes: an event's note has at most 1024, and the remedy comes last.
func some(found []string) string {
	const most = 300
	list := found[0]
	for i, next := range found[1:] {
		if len(list)+len(next) > most {
			return fmt.Sprintf("%s; and %d more", list, len(found)-1-i)
		}
		list += "; " + next
	}
	return list
}

// keptOf is what the gaps left as it was, by container, for the status.
func keptOf(gaps []gap) map[string][]string {
	kept := map[string][]string{}
	for _, g := range gaps {
		left := slices.Concat(g.trust, g.proxy)
		if g.readOnly != "" {
			left = append(left, g.readOnly)
		}
		if len(left) > 0 {
			kept[g.container] = left
		}
	}
	return kept
}
