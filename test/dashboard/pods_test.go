package dashboard

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	sidecarlink "github.com/weir-dev/weir/sidecar/link"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// pod of namespace bondhu, with a sidecar.
func (w *world) pod(name string) *corev1.Pod {
	w.t.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bondhu", Name: name},
		Spec: corev1.PodSpec{
			ServiceAccountName: "default", Containers: []corev1.Container{{Name: "app", Image: "app"}},
			InitContainers: []corev1.Container{{Name: v1alpha1.SidecarContainer, Image: "sidecar", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}},
		},
	}
	eventually(w.t, "a pod is created", func() bool { return w.client.Create(w.t.Context(), pod) == nil }) // once the service account is there
	return pod
}

// sidecar plays the sidecar of a pod, until the test ends or stop is called; away
// says whether it has no Redis.
func (w *world) sidecar(pod *corev1.Pod, authorities string, reject, away *atomic.Bool) (stop func()) {
	w.t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{ruleset.Audience}, BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	request, err := w.typed.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(w.t.Context(), "default", request, metav1.CreateOptions{})
	must(w.t, err)
	token := w.file("token-" + pod.Name)
	must(w.t, os.WriteFile(token, []byte(request.Status.Token), 0o600))
	lost := time.Now()
	sidecar, err := sidecarlink.New(sidecarlink.Config{
		Bootstrap: &ruleset.Ruleset{Namespace: pod.Namespace, Link: ruleset.Link{Address: w.link, CABundle: authorities}},
		Apply: func(*ruleset.Ruleset) error {
			if reject.Load() {
				return fmt.Errorf("the window <b>is</b> strange")
			}
			return nil
		},
		NotIntercepting: func() []string { return nil },
		StoreAway: func() time.Time {
			if away.Load() {
				return lost
			}
			return time.Time{}
		},
		TokenFile: token, StateDir: w.t.TempDir(), Registerer: prometheus.NewRegistry(), Logger: slog.New(slog.DiscardHandler),
	})
	must(w.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); sidecar.Run(ctx) }()
	stop = func() { cancel(); <-ended }
	w.t.Cleanup(stop)
	return stop
}

// authorities by which the operator is verified.
func (w *world) authorities() string {
	w.t.Helper()
	webhook := &admissionv1.MutatingWebhookConfiguration{}
	eventually(w.t, "the operator's authorities are published", func() bool {
		return w.client.Get(w.t.Context(), client.ObjectKey{Name: "weir"}, webhook) == nil && len(webhook.Webhooks[0].ClientConfig.CABundle) > 0
	})
	return string(webhook.Webhooks[0].ClientConfig.CABundle)
}

// TestPods looks at the pods of a policy: what each enforces, what is wrong with it,
// an edit that some reject, and an operator that does not answer.
func TestPods(t *testing.T) {
	w := newWorld(t)
	w.apply(objects)
	must(t, w.client.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "bondhu", Name: "default"}}))
	admin := w.admin()
	b := w.browser(t)
	b.signIn(admin)
	b.open("/limits/bondhu/spotify")
	b.sees("The operator did not say which pods there are")
	b.accessible(t, "without the operator")

	w.startOperator()
	authorities := w.authorities()
	b.sees("The policy selects no pod")
	var reject, away, fine atomic.Bool
	w.sidecar(w.pod("bondhu-api-0"), authorities, &fine, &fine)
	w.sidecar(w.pod("bondhu-api-1"), authorities, &reject, &fine)
	w.sidecar(w.pod("bondhu-api-2"), authorities, &fine, &away)
	w.pod("bondhu-api-3")
	b.sees("3 enforce generation 1")
	b.sees("1 not connected yet")
	row := func(pod, text string) func() bool {
		return func() bool {
			return evaluate[bool](b, fmt.Sprintf(`[...document.querySelectorAll("tbody tr")].some(r => r.cells[0].innerText === %q && r.innerText.includes(%q))`, pod, text))
		}
	}
	eventually(t, "a pod enforces", row("bondhu-api-0", "enforcing"))

	reject.Store(true)
	away.Store(true)
	policy := &v1alpha1.RateLimitPolicy{}
	must(t, w.client.Get(t.Context(), client.ObjectKey{Namespace: "bondhu", Name: "spotify"}, policy))
	policy.Spec.Limits[0].Requests = 90
	must(t, w.client.Update(t.Context(), policy))
	b.sees("2 enforce generation 2")
	b.sees("1 rejected it")
	b.sees("the window <b>is</b> strange")
	b.sees("1 degraded, without Redis")
	eventually(t, "the degraded one is shown so", row("bondhu-api-2", "degraded: without Redis, since"))
	b.accessible(t, "a policy's pods")
	b.picture("limit-pods")
	b.open("/limits")
	b.sees("degraded")
	b.accessible(t, "a degraded policy among others")
	b.picture("limits-degraded")
	b.scheme("dark")
	b.accessible(t, "a degraded policy among others, dark")
	b.picture("limits-degraded-dark")
	b.scheme("light")
	if class := evaluate[string](b, `[...document.querySelectorAll("tbody tr")].find(r => r.innerText.includes("spotify")).className`); class != "warn" {
		t.Errorf("a degraded policy is in a row of class %q", class)
	}
	b.open("/limits/bondhu/spotify/pods?q=api-1")
	b.sees("rejected it")
	if n := evaluate[int](b, `document.querySelectorAll("tbody tr").length`); n != 1 {
		t.Errorf("a search finds %d pods", n)
	}
	b.open("/limits/bondhu/spotify/pods")
	b.sees("bondhu-api-0")
	if first := evaluate[string](b, `document.querySelector("tbody tr td").innerText`); first == "bondhu-api-0" {
		t.Error("pods with trouble are not first")
	}
	b.accessible(t, "pods")
	b.picture("pods")
	b.darkAndNarrow(t, "pods", "pods")

	lister := w.person("bondhu", "lister", false, map[string][]string{"ratelimitpolicies": {"list"}})
	if got := w.ask(t, "GET", "/limits/bondhu/spotify/pods", nil, bearer(lister), nil); !strings.Contains(got.body, "may not get ratelimitpolicies") || strings.Contains(got.body, "bondhu-api-0") {
		t.Errorf("who may not get the policy sees %s", got.body)
	}
	if got := w.ask(t, "GET", "/limits/bondhu/spotify/pods", nil, bearer(w.person("elsewhere", "other", false, nil)), nil); got.status != 403 {
		t.Errorf("somebody else: %d", got.status)
	}
}
