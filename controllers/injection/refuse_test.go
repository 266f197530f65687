package injection

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestInjectRefuses(t *testing.T) {
	t.Parallel()
	user := func(uid int64) *corev1.SecurityContext { return &corev1.SecurityContext{RunAsUser: &uid} }
	app := func(change func(*corev1.Container)) corev1.Pod {
		container := corev1.Container{Name: "app"}
		change(&container)
		return corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container}}}
	}
	annotated := func(direction, value string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"weir.dev/" + direction + "-ports": value}}}
	}
	nothing := func(*corev1.Container) {}
	changed := func(pod corev1.Pod, annotation, value string) corev1.Pod {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, annotation, value)
		return pod
	}
	manyPorts := func(n int) (ports []corev1.ContainerPort) {
		for i := range n {
			ports = append(ports, corev1.ContainerPort{ContainerPort: int32(20000 + i)})
		}
		return ports
	}
	longProbe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/" + strings.Repeat("p", maxBootstrapBytes)}}}

	for _, c := range []struct {
		reason string
		pod    corev1.Pod
		// says are words of the refusal; none: the pod is admitted.
		says []string
	}{
		{reason: "a container as the sidecar's user", pod: app(func(c *corev1.Container) { c.SecurityContext = user(14014) }), says: []string{`"app"`, "14014", "runAsUser"}},
		{reason: "an init container too: it also calls out", pod: corev1.Pod{Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "setup", SecurityContext: user(14014)}},
		}}, says: []string{`"setup"`, "14014"}},
		{reason: "the pod's user, where the container has none", pod: corev1.Pod{Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: new(int64(14014))},
			Containers:      []corev1.Container{{Name: "mine", SecurityContext: user(7)}, {Name: "inherits"}},
		}}, says: []string{`"inherits"`, "14014"}},
		{reason: "the pod's user holds for nobody", pod: corev1.Pod{Spec: corev1.PodSpec{
			SecurityContext: &corev1.PodSecurityContext{RunAsUser: new(int64(14014))},
			Containers:      []corev1.Container{{Name: "mine", SecurityContext: user(7)}},
		}}},
		{reason: "a container with the capture's name", pod: app(func(c *corev1.Container) { c.Name = "weir-capture" }), says: []string{"weir-capture", "rename"}},
		{reason: "an ordinary container with the sidecar's name", pod: app(func(c *corev1.Container) { c.Name = "weir-sidecar" }), says: []string{"weir-sidecar", "rename"}},
		{reason: "a volume with a name of ours", pod: corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "weir-token"}}}}, says: []string{"weir-token", "rename"}},
		{reason: "a volume with the name of the trust bundle's", pod: corev1.Pod{Spec: corev1.PodSpec{Volumes: []corev1.Volume{{Name: "weir-trust"}}}}, says: []string{"weir-trust", "rename"}},
		{reason: "a mount where the trust bundle belongs", pod: app(func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: ruleset.TrustDir + "/"}}
		}), says: []string{`"app"`, `"mine"`, ruleset.TrustDir, `weir.dev/trust="false"`}},
		{reason: "the same path, and no trust bundle to be there", pod: changed(app(func(c *corev1.Container) {
			c.VolumeMounts = []corev1.VolumeMount{{Name: "mine", MountPath: ruleset.TrustDir}}
		}), "weir.dev/trust", "false")},
		{reason: "a trust that means nothing", pod: changed(app(nothing), "weir.dev/trust", "yes"), says: []string{"weir.dev/trust", `"yes"`, `"true"`, `"false"`}},
		{reason: "a capture that means nothing", pod: changed(app(nothing), "weir.dev/capture", "none"), says: []string{"weir.dev/capture", `"none"`, `"redirect"`, `"proxy"`}},
		{reason: "the default's own name", pod: changed(app(nothing), "weir.dev/capture", "redirect")},
		{reason: "the sidecar's user, where nothing tells connections apart by it", pod: changed(app(func(c *corev1.Container) { c.SecurityContext = user(14014) }), "weir.dev/capture", "proxy")},
		{reason: "a port that stands for another", pod: changed(app(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 14101}}
		}), "weir.dev/capture", "proxy"), says: []string{`"app"`, "14101", "another port"}},
		{reason: "a port after the last that stands for another", pod: changed(app(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 8080}, {ContainerPort: 14102}}
		}), "weir.dev/capture", "proxy")},
		{reason: "no port stands for another where connections are captured", pod: app(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 14100}}
		})},
		{reason: "an annotated port that stands for another", pod: changed(changed(app(nothing), "weir.dev/inbound-ports", "14100"), "weir.dev/capture", "proxy"),
			says: []string{"weir.dev/inbound-ports", "14100", "remove"}},
		{reason: "a port's name that Services look for", pod: changed(app(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: 8080, Name: "weir-8080"}}
		}), "weir.dev/capture", "proxy"), says: []string{`"app"`, `"weir-8080"`, "rename"}},
		{reason: "no list of ports, though no port of it is captured", pod: changed(annotated("inbound", "http"), "weir.dev/capture", "proxy"), says: []string{"weir.dev/inbound-ports"}},
		{reason: "a port of ours", pod: app(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: ruleset.HealthPort}}
		}), says: []string{`"app"`, "14020", "another port"}},
		{reason: "a UDP port is not ours", pod: app(func(c *corev1.Container) {
			c.Ports = []corev1.ContainerPort{{ContainerPort: ruleset.HealthPort, Protocol: corev1.ProtocolUDP}}
		})},
		{reason: "no number", pod: annotated("inbound", "http"), says: []string{"weir.dev/inbound-ports", `"http"`, "8080,9000"}},
		{reason: "no port", pod: annotated("outbound", "0"), says: []string{"weir.dev/outbound-ports", `"0"`, "1 to 65535"}},
		{reason: "beyond the last port", pod: annotated("outbound", "80,65536"), says: []string{"weir.dev/outbound-ports", `"80,65536"`}},
		{reason: "an empty item", pod: annotated("outbound", "80,,81"), says: []string{"weir.dev/outbound-ports"}},
		{reason: "nothing", pod: annotated("inbound", ""), says: []string{"weir.dev/inbound-ports", `""`}},
		{reason: "a port of ours", pod: annotated("inbound", "8080,14006"), says: []string{"weir.dev/inbound-ports", "14006", "remove"}},
		{reason: "endless", pod: annotated("inbound", strings.Repeat("80,", 400)+"80"), says: []string{"weir.dev/inbound-ports", "64"}},
		{reason: "as many ports as there may be", pod: app(func(c *corev1.Container) { c.Ports = manyPorts(64) })},
		{reason: "one port more", pod: app(func(c *corev1.Container) { c.Ports = manyPorts(65) }), says: []string{"65 inbound ports", "64"}},
		{reason: "a probe that fits into no variable", pod: app(func(c *corev1.Container) {
			c.Ports = manyPorts(1)
			c.LivenessProbe = longProbe.DeepCopy()
			c.LivenessProbe.HTTPGet.Port.IntVal = 20000
		}), says: []string{"1 probes", "shorten"}},
	} {
		_, _, err := Inject(&c.pod, testConfig, interceptingRuleset())
		refusal, refused := errors.AsType[*Refusal](err)
		if refused != (len(c.says) > 0) || err != nil && !refused {
			t.Errorf("%s: want refused %v, got %v", c.reason, len(c.says) > 0, err)
			continue
		}
		for _, words := range c.says {
			if !strings.Contains(refusal.Sentence, words) {
				t.Errorf("%s: want a sentence with %q, got %q", c.reason, words, refusal.Sentence)
			}
		}
	}
}

func TestRequestURI(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, path, want string }{
		{"no path", "", "/"},
		{"a path", "/healthz", "/healthz"},
		{"without its slash", "healthz", "/healthz"},
		{"with a query", "/healthz?verbose&x=1", "/healthz?verbose&x=1"},
		{"a fragment is not sent", "/healthz#part", "/healthz"},
		{"what has to be escaped", "/a b", "/a%20b"},
		{"what was escaped stays so", "/a%2Fb", "/a%2Fb"},
		{"what no URL may have is escaped as a path", "/%zz", "/%25zz"},
	} {
		if got := requestURI(c.path); got != c.want {
			t.Errorf("%s: requestURI(%q) is %q, want %q", c.reason, c.path, got, c.want)
		}
	}
}

func TestBootstrap(t *testing.T) {
	t.Parallel()
	read := func(value string) (bootstrap ruleset.Bootstrap) {
		if strings.Contains(value, "$") {
			t.Error("Kubernetes would expand the dollars of the variable")
		}
		decodeJSON(t, value, &bootstrap)
		return bootstrap
	}

	rs := interceptingRuleset()
	value, err := encodeBootstrap(ruleset.Bootstrap{Ruleset: *rs})
	if err != nil {
		t.Fatal(err)
	}
	got := read(value).Ruleset
	want := *rs
	want.Store = nil
	want.Seal()
	if g, w := asYAML(t, got), asYAML(t, want); g != w {
		t.Errorf("want the rules without the store, sealed anew:\n%s\ngot\n%s", w, g)
	}
	if rs.Store == nil || got.Version == rs.Version {
		t.Error("want the given rules untouched, and another version without the store: the link has more to give")
	}

	for len(rs.Policies) < 1000 {
		rs.Policies = append(rs.Policies, rs.Policies[0])
	}
	value, err = encodeBootstrap(ruleset.Bootstrap{
		Ruleset: *rs, Probes: []ruleset.Probe{{Type: ruleset.ProbeHTTP, Port: 80, Path: "/$"}}, Trust: true,
		Explicit: &ruleset.Explicit{Inbound: []ruleset.ExplicitPort{{Listen: 14100, Port: 80}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	stamped := read(value)
	if len(value) > maxBootstrapBytes || len(stamped.Ruleset.Policies) != 0 || stamped.Ruleset.Version != "" {
		t.Errorf("want 1000 policies left out, and no version, since nothing is enforced: got %d bytes, %d policies, version %q",
			len(value), len(stamped.Ruleset.Policies), stamped.Ruleset.Version)
	}
	if !stamped.Trust || stamped.Ruleset.Authorities != rs.Authorities || stamped.Explicit == nil || len(stamped.Explicit.Inbound) != 1 {
		t.Errorf("want what was done to the pod kept, and the authorities that its processes know, got %+v", stamped)
	}
	if stamped.Ruleset.Link != rs.Link || stamped.Ruleset.Namespace != rs.Namespace || len(stamped.Probes) != 1 || stamped.Probes[0].Path != "/$" {
		t.Errorf("want link, namespace and probes kept, got %+v", stamped)
	}
}
