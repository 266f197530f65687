package injection

import (
	"fmt"
	"strings"

	jsonpatch "gomodules.xyz/jsonpatch/v2"
	corev1 "k8s.io/api/core/v1"
)

// Patch is the JSON patch (RFC 6902) that makes what Inject returned of the pod
// that it was given. It names only what Inject adds or rewrites, not the
// difference of two encodings: a newer API server's pods have fields that this
// operator's types do not know, and they must stay.
func Patch(pod, injected *corev1.Pod) []jsonpatch.Operation {
	var patch []jsonpatch.Operation
	add := func(path string, value any) { patch = append(patch, jsonpatch.NewOperation("add", path, value)) }

	if len(pod.Annotations) == 0 && len(injected.Annotations) > 0 {
		add("/metadata/annotations", injected.Annotations)
	} else {
		for _, name := range []string{AnnotationStatus, annotationDefaultContainer} {
			if value := injected.Annotations[name]; value != pod.Annotations[name] {
				add("/metadata/annotations/"+escape(name), value)
			}
		}
	}

	// Probes first: the containers added below move the init containers' places.
	added := len(injected.Spec.InitContainers) - len(pod.Spec.InitContainers)
	patch = append(patch, probesPatch("/spec/initContainers", pod.Spec.InitContainers, injected.Spec.InitContainers[added:])...)
	patch = append(patch, probesPatch("/spec/containers", pod.Spec.Containers, injected.Spec.Containers)...)

	if len(pod.Spec.InitContainers) == 0 && added > 0 {
		add("/spec/initContainers", injected.Spec.InitContainers)
	} else {
		for i, container := range injected.Spec.InitContainers[:added] {
			add(fmt.Sprintf("/spec/initContainers/%d", i), container)
		}
	}

	newVolumes := injected.Spec.Volumes[len(pod.Spec.Volumes):]
	if len(pod.Spec.Volumes) == 0 && len(newVolumes) > 0 {
		add("/spec/volumes", newVolumes)
	} else {
		for _, volume := range newVolumes {
			add("/spec/volumes/-", volume)
		}
	}
	return patch
}

// probesPatch replaces the actions of the probes that were rewritten.
func probesPatch(path string, before, after []corev1.Container) []jsonpatch.Operation {
	var patch []jsonpatch.Operation
	for i := range before {
		for _, probe := range []struct {
			field         string
			before, after *corev1.Probe
		}{
			{"startupProbe", before[i].StartupProbe, after[i].StartupProbe},
			{"readinessProbe", before[i].ReadinessProbe, after[i].ReadinessProbe},
			{"livenessProbe", before[i].LivenessProbe, after[i].LivenessProbe},
		} {
			if probe.before == nil || probe.before.TCPSocket == nil || probe.after.TCPSocket != nil {
				continue
			}
			at := fmt.Sprintf("%s/%d/%s", path, i, probe.field)
			patch = append(patch,
				jsonpatch.NewOperation("remove", at+"/tcpSocket", nil),
				jsonpatch.NewOperation("add", at+"/httpGet", probe.after.HTTPGet),
			)
		}
	}
	return patch
}

// escape writes a key as a token of a JSON pointer (RFC 6901, section 3).
func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}
