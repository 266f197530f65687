package injection

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// trustVariables lead the usual clients to the trust bundle. What stands for a
// variable is where its clients look next: requests' sessions, botocore's
// endpoints, and curl's command line say so in their sources.
var trustVariables = []variable{
	{name: "SSL_CERT_FILE", value: trustPath(ruleset.TrustBundle)},
	{name: "REQUESTS_CA_BUNDLE", value: trustPath(ruleset.TrustBundle), stands: []string{"CURL_CA_BUNDLE"}},
	{name: "CURL_CA_BUNDLE", value: trustPath(ruleset.TrustBundle), stands: []string{"SSL_CERT_FILE", "SSL_CERT_DIR"}},
	{name: "AWS_CA_BUNDLE", value: trustPath(ruleset.TrustBundle), stands: []string{"REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"}},
	{name: "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", value: trustPath(ruleset.TrustBundle)},
	{name: "NODE_EXTRA_CA_CERTS", value: trustPath(ruleset.TrustAuthorities)}, // beside Node's own roots
}

var javaTrust = javaProperties{
	options: "-Djavax.net.ssl.trustStore=" + trustPath(ruleset.TrustStore),
	marks:   []string{"javax.net.ssl.trustStore"},
}

func trustPath(name string) string { return path.Join(ruleset.TrustDir, name) }

// decideTrust says whether the pod's containers are led to the trust bundle. A
// notice says why not, where they should be: then nothing of the pod is
// intercepted, so nothing fails.
func decideTrust(pod *corev1.Pod, rs *ruleset.Ruleset) (bool, []Notice, error) {
	annotated := pod.Annotations[v1alpha1.AnnotationTrust]
	intercepts := slices.ContainsFunc(rs.Policies, func(p ruleset.Policy) bool { return p.Intercept })
	switch annotated {
	case "":
		if !intercepts {
			return false, nil, nil
		}
	case v1alpha1.TrustRefuse:
		return false, nil, nil
	case v1alpha1.TrustPrepare:
	default:
		return false, nil, refusef("annotation %s: %q is neither %q nor %q", v1alpha1.AnnotationTrust, annotated, v1alpha1.TrustPrepare, v1alpha1.TrustRefuse)
	}
	if rs.Authorities == "" {
		return false, withheld("the namespace has no authority yet; it gets one with its first policy that intercepts (tls: Intercept). Create the pod anew after that"), nil
	}
	if hidden := envFromMayTrust(&pod.Spec); len(hidden) > 0 && annotated != v1alpha1.TrustPrepare {
		return false, withheld(fmt.Sprintf(
			"%s may set %s or another variable that Weir would set, by a ConfigMap or Secret (envFrom) that injection cannot see. Annotate the pod %s=%q to have Weir's go before them",
			some(hidden), trustVariables[0].name, v1alpha1.AnnotationTrust, v1alpha1.TrustPrepare)), nil
	}
	return true, nil, nil
}

func withheld(because string) []Notice {
	return []Notice{{
		Type: corev1.EventTypeWarning, Reason: EventTrustWithheld,
		Sentence: "The pod was not prepared for the interception of TLS, and Weir intercepts none of its connections: " + because,
	}}
}

// envFromMayTrust are the containers whose envFrom may set a variable of ours
// that their env does not set.
func envFromMayTrust(spec *corev1.PodSpec) []string {
	var containers []string
	for _, container := range allContainers(spec) {
		names := []string{javaToolOptions}
		for _, v := range trustVariables {
			names = append(names, v.name)
		}
		names = slices.DeleteFunc(names, func(name string) bool { return hasVariable(container, name) })
		if len(unseen(container, names)) > 0 {
			containers = append(containers, fmt.Sprintf("container %q", container.Name))
		}
	}
	return containers
}

// mountTrust mounts the trust bundle in a container. Where it cannot, because
// the runtime would find no place to mount it at and not start the container,
// it returns the path of the mount that is in the way.
func mountTrust(container *corev1.Container, volumes []corev1.Volume) (readOnly string) {
	for _, mount := range container.VolumeMounts {
		if mount.Name == trustVolume {
			return "" // injected before
		}
	}
	for _, mount := range container.VolumeMounts {
		if above(mount.MountPath, ruleset.TrustDir) && (mount.ReadOnly || alwaysReadOnly(mount.Name, volumes)) {
			return mount.MountPath
		}
	}
	container.VolumeMounts = append(container.VolumeMounts, corev1.VolumeMount{Name: trustVolume, MountPath: ruleset.TrustDir, ReadOnly: true})
	return ""
}

// above says whether a mount at one path holds the other. In most images
// /var/run is a link to /run.
func above(mountPath, other string) bool {
	mountPath = path.Clean("/" + mountPath)
	for _, spelling := range []string{other, strings.TrimPrefix(other, "/var")} {
		if mountPath == "/" || strings.HasPrefix(spelling, mountPath+"/") {
			return true
		}
	}
	return false
}

// alwaysReadOnly says whether the kubelet mounts a volume read-only whatever
// its mount says.
func alwaysReadOnly(name string, volumes []corev1.Volume) bool {
	return slices.ContainsFunc(volumes, func(v corev1.Volume) bool {
		return v.Name == name && (v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil || v.Image != nil)
	})
}
