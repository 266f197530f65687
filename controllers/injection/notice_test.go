package injection

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

func TestNotices(t *testing.T) {
	t.Parallel()
	annotated := func(annotations map[string]string, containers ...*corev1.Container) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: annotations}}
		for _, container := range containers {
			pod.Spec.Containers = append(pod.Spec.Containers, *container)
		}
		return pod
	}
	envFrom := func(prefix string, variables ...string) *corev1.Container {
		container := containerOf(variables...)
		container.EnvFrom = []corev1.EnvFromSource{{Prefix: prefix}}
		return container
	}
	noAuthority := interceptingRuleset()
	noAuthority.Authorities = ""
	notYet := testRuleset()
	notYet.Authorities = "AUTHORITY\n"
	proxied := map[string]string{"weir.dev/capture": "proxy"}
	prepared := map[string]string{"weir.dev/trust": "true"}

	for _, c := range []struct {
		reason string
		pod    *corev1.Pod
		rs     *ruleset.Ruleset
		trust  bool
		// says are an event's reason and words of its sentence; none: nothing is said.
		says []string
	}{
		{reason: "nothing intercepts", pod: annotated(nil, containerOf()), rs: notYet},
		{reason: "a policy intercepts", pod: annotated(nil, containerOf()), rs: interceptingRuleset(), trust: true},
		{reason: "prepared before a policy intercepts", pod: annotated(prepared, containerOf()), rs: notYet, trust: true},
		{reason: "the pod's author will have none of it", pod: annotated(map[string]string{"weir.dev/trust": "false"}, containerOf()), rs: interceptingRuleset()},
		{reason: "no authority yet", pod: annotated(nil, containerOf()), rs: noAuthority, says: []string{EventTrustWithheld, "no authority yet", "anew"}},
		{reason: "prepared, and no authority yet", pod: annotated(prepared, containerOf()), rs: testRuleset(), says: []string{EventTrustWithheld, "no authority yet"}},
		{
			reason: "a variable of the application's", pod: annotated(nil, containerOf("CURL_CA_BUNDLE=/own")), rs: interceptingRuleset(), trust: true,
			says: []string{EventTrustIncomplete, `"app"`, "CURL_CA_BUNDLE", "/var/run/weir-trust/authorities.crt", `weir.dev/trust="false"`},
		},
		{
			reason: "what envFrom sets cannot be seen, and a wrong guess would break the application", pod: annotated(nil, envFrom("")), rs: interceptingRuleset(),
			says: []string{EventTrustWithheld, `"app"`, "envFrom", `weir.dev/trust="true"`},
		},
		{reason: "envFrom whose prefix no variable of ours has", pod: annotated(nil, envFrom("APP_")), rs: interceptingRuleset(), trust: true},
		{reason: "envFrom whose prefix some have", pod: annotated(nil, envFrom("SSL_")), rs: interceptingRuleset(), says: []string{EventTrustWithheld}},
		{
			reason: "envFrom, and an author who knows", pod: annotated(prepared, envFrom("")), rs: interceptingRuleset(), trust: true,
			says: []string{EventEnvFromOverridden, `"app"`, "SSL_CERT_FILE", "JAVA_TOOL_OPTIONS", "set it in env"},
		},
		{
			reason: "a proxy's variables too", pod: annotated(proxied, envFrom("HTTP")), rs: testRuleset(),
			says: []string{EventEnvFromOverridden, "(HTTP_PROXY, HTTPS_PROXY)"},
		},
		{
			reason: "a proxy of the application's", pod: annotated(proxied, containerOf("http_proxy=http://corporate")), rs: testRuleset(),
			says: []string{EventProxyIncomplete, `"app"`, "http_proxy", "http://127.0.0.1:14001"},
		},
	} {
		injected, notices, err := Inject(c.pod, testConfig, c.rs)
		if err != nil {
			t.Fatalf("%s: %v", c.reason, err)
		}
		if got := bootstrapOf(t, injected).Trust; got != c.trust || hasVolume(&injected.Spec, trustVolume) != c.trust {
			t.Errorf("%s: trust %v, volume %v, want both %v", c.reason, got, hasVolume(&injected.Spec, trustVolume), c.trust)
		}
		if (len(notices) == 1) != (len(c.says) > 0) || len(notices) > 1 {
			t.Errorf("%s: want what is said to be %v, got %v", c.reason, c.says, notices)
			continue
		}
		for i, words := range c.says {
			if i == 0 && notices[0].Reason != words || i > 0 && !strings.Contains(notices[0].Sentence, words) {
				t.Errorf("%s: want %q, got %+v", c.reason, words, notices[0])
			}
		}
	}
}

func bootstrapOf(t *testing.T, pod *corev1.Pod) (bootstrap ruleset.Bootstrap) {
	t.Helper()
	for _, container := range pod.Spec.InitContainers {
		if container.Name == "weir-sidecar" {
			decodeJSON(t, container.Env[0].Value, &bootstrap)
			return bootstrap
		}
	}
	t.Fatal("the pod has no sidecar")
	return bootstrap
}

// TestNoticesFitIntoEvents holds that an event ends with the remedy, not
// somewhere before it.
func TestNoticesFitIntoEvents(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"weir.dev/capture": "proxy", "weir.dev/trust": "true"}}}
	for i := range 30 {
		container := containerOf("SSL_CERT_FILE=/own", "REQUESTS_CA_BUNDLE=/own", "NODE_EXTRA_CA_CERTS=/own", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=/own",
			"https_proxy=http://own", "http_proxy=http://own", "no_proxy=own", "JDK_JAVA_OPTIONS=-Dhttp.proxyHost=own -Djavax.net.ssl.trustStore=/own")
		container.Name = fmt.Sprintf("container-%02d-%s", i, strings.Repeat("x", 48))
		free := containerOf()
		free.Name = "free-" + container.Name[:58]
		free.EnvFrom = []corev1.EnvFromSource{{}}
		pod.Spec.Containers = append(pod.Spec.Containers, *container, *free)
	}
	_, notices, err := Inject(pod, testConfig, interceptingRuleset())
	if err != nil {
		t.Fatal(err)
	}
	if len(notices) != 3 {
		t.Errorf("want one notice a reason, got %d: %v", len(notices), notices)
	}
	for _, notice := range notices {
		if len(notice.Sentence) > 1000 || !strings.Contains(notice.Sentence, "; and 2") {
			t.Errorf("%s: want at most 1000 bytes that say how many more there are, got %d: %s", notice.Reason, len(notice.Sentence), notice.Sentence)
		}
	}
}

func TestPodSecurityNotice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, level, capture string
		said                   bool
	}{
		{"no level", "", "", false},
		{"a level that allows all", "privileged", "", false},
		{"baseline forbids the capability", "baseline", "", true},
		{"restricted does, too", "restricted", "redirect", true},
		{"nothing is forbidden of a proxied pod", "restricted", "proxy", false},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"weir.dev/capture": c.capture}}}
		notices := podSecurityNotice(pod, "shop", map[string]string{"pod-security.kubernetes.io/enforce": c.level})
		if len(notices) > 0 != c.said {
			t.Errorf("%s: got %v, want said %v", c.reason, notices, c.said)
		}
		for _, notice := range notices {
			for _, words := range []string{"shop", c.level, "NET_ADMIN", `weir.dev/capture="proxy"`} {
				if notice.Reason != EventCaptureForbidden || !strings.Contains(notice.Sentence, words) {
					t.Errorf("%s: want %q, got %+v", c.reason, words, notice)
				}
			}
		}
	}
}
