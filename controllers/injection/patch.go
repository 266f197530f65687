package injection

import (
	"fmt"
	"slices"
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

	// The pod's own first: the containers added below move the init containers' places.
	added := len(injected.Spec.InitContainers) - len(pod.Spec.InitContainers)
	for _, list := range []struct {
		path          string
		before, after []corev1.Container
	}{
		{"/spec/initContainers", pod.Spec.InitContainers, injected.Spec.InitContainers[added:]},
		{"/spec/containers", pod.Spec.Containers, injected.Spec.Containers},
	} {
		for i := range list.before {
			path := fmt.Sprintf("%s/%d", list.path, i)
			patch = append(patch, probesPatch(path, &list.before[i], &list.after[i])...)
			patch = append(patch, variablesPatch(path, list.before[i].Env, list.after[i].Env)...)
			patch = append(patch, mountsPatch(path+"/volumeMounts", list.before[i].VolumeMounts, list.after[i].VolumeMounts)...)
		}
	}

	if len(pod.Spec.InitContainers) == 0 && added > 0 {
		add("/spec/initContainers", injected.Spec.InitContainers)
	} else {
		for i, container := range injected.Spec.InitContainers[:added] {
			add(fmt.Sprintf("/spec/initContainers/%d", i), container)
		}
	}

	return append(patch, appended("/spec/volumes", pod.Spec.Volumes, injected.Spec.Volumes)...)
}

// appended adds what a list has at its end that it did not have before.
func appended[T any](path string, before, after []T) []jsonpatch.Operation {
	added := after[len(before):]
	if len(before) == 0 && len(added) > 0 {
		return []jsonpatch.Operation{jsonpatch.NewOperation("add", path, added)}
	}
	var patch []jsonpatch.Operation
	for _, item := range added {
		patch = append(patch, jsonpatch.NewOperation("add", path+"/-", item))
	}
	return patch
}

// mountsPatch takes out the mounts that are gone, the last first, and adds those
// that are new.
func mountsPatch(path string, before, after []corev1.VolumeMount) []jsonpatch.Operation {
	var patch []jsonpatch.Operation
	kept := slices.Clone(before)
	for i := len(before) - 1; i >= 0; i-- {
		stays := func(m corev1.VolumeMount) bool { return m.MountPath == before[i].MountPath && m.Name == before[i].Name }
		if !slices.ContainsFunc(after, stays) {
			patch = append(patch, jsonpatch.NewOperation("remove", fmt.Sprintf("%s/%d", path, i), nil))
			kept = slices.Delete(kept, i, i+1)
		}
	}
	if len(kept) == 0 && len(before) > 0 && len(after) == 0 {
		return []jsonpatch.Operation{jsonpatch.NewOperation("remove", path, nil)}
	}
	return append(patch, appended(path, kept, after)...)
}

// variablesPatch adds variables and writes the values that were joined.
func variablesPatch(container string, before, after []corev1.EnvVar) []jsonpatch.Operation {
	var patch []jsonpatch.Operation
	for i := range before {
		if before[i].Value != after[i].Value {
			// "add" also where the member is there, since an empty value may not be.
			patch = append(patch, jsonpatch.NewOperation("add", fmt.Sprintf("%s/env/%d/value", container, i), after[i].Value))
		}
	}
	return append(patch, appended(container+"/env", before, after)...)
}

// probesPatch replaces the actions of the probes that were rewritten.
func probesPatch(container string, before, after *corev1.Container) []jsonpatch.Operation {
	var patch []jsonpatch.Operation
	for _, probe := range []struct {
		field         string
		before, after *corev1.Probe
	}{
		{"startupProbe", before.StartupProbe, after.StartupProbe},
		{"readinessProbe", before.ReadinessProbe, after.ReadinessProbe},
		{"livenessProbe", before.LivenessProbe, after.LivenessProbe},
	} {
		if probe.before == nil || probe.before.TCPSocket == nil || probe.after.TCPSocket != nil {
			continue
		}
		at := container + "/" + probe.field
		patch = append(patch,
			jsonpatch.NewOperation("remove", at+"/tcpSocket", nil),
			jsonpatch.NewOperation("add", at+"/httpGet", probe.after.HTTPGet),
		)
	}
	return patch
}

// escape writes a key as a token of a JSON pointer (RFC 6901, section 3).
func escape(key string) string {
	return strings.NewReplacer("~", "~0", "/", "~1").Replace(key)
}
