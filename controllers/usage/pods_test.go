package usage

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

func podNamed(name string, sidecar bool) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, pod.UID = "shop", name, types.UID(name)
	if sidecar {
		pod.Spec.InitContainers = []corev1.Container{{Name: v1alpha1.SidecarContainer}}
	}
	return pod
}

func policyOfGeneration(generation int64) *v1alpha1.RateLimitPolicy {
	policy := &v1alpha1.RateLimitPolicy{}
	policy.Namespace, policy.Name, policy.UID, policy.Generation = "shop", "api", "p", generation
	return policy
}

func acknowledged(pod string, generation int64) link.Acknowledgement {
	said := link.Acknowledgement{Namespace: "shop", Pod: pod, UID: types.UID(pod), Seen: time.Unix(100, 0)}
	if generation > 0 {
		said.Enforcing = []ruleset.PolicyRef{{Name: "other", UID: "o", Generation: 9}, {Name: "api", UID: "p", Generation: generation}}
	}
	return said
}

// What each pod enforces, those with trouble first.
func TestPodsSayWhatTheyEnforce(t *testing.T) {
	t.Parallel()
	policy, acknowledgements := policyOfGeneration(3), link.NewAcknowledgements()
	policy.Spec.TLS = v1alpha1.TLSIntercept
	var pods []*corev1.Pod
	for _, name := range []string{"away", "bare", "blind", "fine", "new", "old", "rejecting", "unheard"} {
		pods = append(pods, podNamed(name, name != "bare"))
		said := acknowledged(name, map[string]int64{"old": 2, "new": 0, "rejecting": 2}[name])
		if said.Enforcing == nil && name != "new" {
			said = acknowledged(name, 3)
		}
		switch name {
		case "unheard":
			continue
		case "away":
			said.StoreAwaySince = 50
		case "blind":
			said.NotIntercepting = []string{"api"}
		case "rejecting":
			said.Rejected = &ruleset.Rejection{Reason: "no such window"}
		}
		acknowledgements.Record(said)
	}
	found := podsOf(policy, pods, acknowledgements, PodQuery{Limit: 100})
	var lines []string
	for _, pod := range found.Pods {
		line := fmt.Sprintf("%s %s %d", pod.Pod, pod.State, pod.Generation)
		if pod.Since != nil {
			line += fmt.Sprint(" since ", pod.Since.Unix())
		}
		if pod.WithoutRedisSince != nil {
			line += fmt.Sprint(" without Redis since ", pod.WithoutRedisSince.Unix())
		}
		lines = append(lines, strings.TrimSpace(line+" "+pod.Message))
	}
	want := `away Enforcing 3 since 100 without Redis since 50
bare NoSidecar 3 since 100
blind NotIntercepting 3 since 100
new Pending 0 since 100
old Pending 2 since 100
rejecting Rejected 2 since 100 no such window
unheard NotConnected 0
fine Enforcing 3 since 100`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if want := (PodStates{Selected: 8, Enforcing: 2, Pending: 2, Rejected: 1, NotIntercepting: 1, NotConnected: 1, NoSidecar: 1, WithoutRedis: 1, Troubled: 7}); found.States != want {
		t.Errorf("counted %+v, want %+v", found.States, want)
	}
	if found.Generation != 3 || found.Continue != "" {
		t.Errorf("got %+v", found)
	}
}

// Pages have each pod once, whatever their size, and part of a name finds it.
func TestPodsComeInPages(t *testing.T) {
	t.Parallel()
	policy, pods, acknowledgements := tenThousandPods()
	seen, pages := map[string]bool{}, 0
	for wanted := (PodQuery{Limit: 500}); ; pages++ {
		found := podsOf(policy, pods, acknowledgements, wanted)
		if len(found.Pods) > 500 || found.States.Selected != 10_000 || found.States.Enforcing != 9_900 {
			t.Fatalf("page %d has %d pods, of %+v", pages, len(found.Pods), found.States)
		}
		for _, pod := range found.Pods {
			if seen[pod.Pod] {
				t.Fatalf("%s is on two pages", pod.Pod)
			}
			seen[pod.Pod] = true
		}
		if found.Continue == "" {
			break
		}
		q := asked{}
		q.Request = requestOf("/pods?continue=" + found.Continue)
		page, err := q.page()
		if err != nil {
			t.Fatal(err)
		}
		wanted.After = page.after
	}
	if len(seen) != 10_000 || pages != 19 {
		t.Errorf("%d pods on %d pages", len(seen), pages+1)
	}
	if found := podsOf(policy, pods, acknowledgements, PodQuery{Limit: 10, Search: "-1234"}); len(found.Pods) != 1 || found.Pods[0].Pod != "web-1234" || found.Continue != "" {
		t.Errorf("a search finds %+v", found.Pods)
	}
}

// tenThousandPods of which a hundred enforce an older generation.
func tenThousandPods() (*v1alpha1.RateLimitPolicy, []*corev1.Pod, *link.Acknowledgements) {
	policy, acknowledgements := policyOfGeneration(3), link.NewAcknowledgements()
	var pods []*corev1.Pod
	for i := range 10_000 {
		name := fmt.Sprintf("web-%04d", i)
		pods = append(pods, podNamed(name, true))
		generation := int64(3)
		if i%100 == 0 {
			generation = 2
		}
		acknowledgements.Record(acknowledged(name, generation))
	}
	return policy, pods, acknowledgements
}

func BenchmarkPods(b *testing.B) {
	policy, pods, acknowledgements := tenThousandPods()
	b.ReportAllocs()
	for b.Loop() {
		podsOf(policy, link.Selected(policy, link.Candidates(pods)), acknowledgements, PodQuery{Limit: 10})
	}
}

func requestOf(path string) *http.Request {
	return httptest.NewRequestWithContext(context.Background(), http.MethodGet, path, nil)
}
