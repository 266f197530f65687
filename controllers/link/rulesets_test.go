package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// counted is a cache that counts how often it is listed.
type counted struct {
	client.Reader
	mu       sync.Mutex
	policies []v1alpha1.RateLimitPolicy
	pods     []corev1.Pod
	listed   int
}

func (c *counted) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listed++
	switch list := list.(type) {
	case *v1alpha1.RateLimitPolicyList:
		list.Items = c.policies
	case *corev1.PodList:
		list.Items = c.pods
	}
	return nil
}

func policyFor(name, app string) v1alpha1.RateLimitPolicy {
	policy := v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 1}}
	policy.Spec.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}
	return policy
}

func TestTenThousandPodsCostOneCompilation(t *testing.T) {
	t.Parallel()
	cached := &counted{policies: []v1alpha1.RateLimitPolicy{policyFor("web", "web"), policyFor("api", "api")}}
	rulesets := NewRulesets(cached, certs.NewAuthorities(certs.AuthoritiesOptions{}))
	distinct := map[*answer]bool{}
	for i := range 10_000 {
		// As in a StatefulSet, no two pods have the same labels.
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Labels: map[string]string{"app": "web", "pod-name": fmt.Sprint(i)}}}
		answer, err := rulesets.of(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		distinct[answer] = true
	}
	if cached.listed != 2 || len(distinct) != 1 {
		t.Errorf("listed policies and pods %d times and made %d Rulesets, want each once and 1", cached.listed, len(distinct))
	}
}

func TestWhoListensMissesNoChange(t *testing.T) {
	t.Parallel()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{"app": "web"}}}
	edited := policyFor("web", "web")
	edited.Generation = 2
	for _, test := range []struct {
		reason  string
		change  func(*Rulesets)
		rings   bool
		another bool
	}{
		{"a policy of the namespace", func(r *Rulesets) { r.touch("shop") }, true, true},
		{"a policy of another namespace", func(r *Rulesets) { r.touch("other") }, false, false},
		{"a policy's status", func(r *Rulesets) {
			before, after := edited, edited
			after.ResourceVersion = "2"
			r.policyUpdated(&before, &after)
		}, false, false},
		{"a policy's edit", func(r *Rulesets) {
			before := policyFor("web", "web")
			r.policyUpdated(&before, &edited)
		}, true, true},
		{"the pod's labels", func(r *Rulesets) {
			r.podUpdated(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1"}}, pod)
		}, true, false},
		{"the pod's status", func(r *Rulesets) { r.podUpdated(pod, pod) }, false, false},
		{"another pod's labels", func(r *Rulesets) {
			r.podUpdated(pod, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-2"}})
		}, false, false},
		{"the operator's settings", func(r *Rulesets) {
			r.Configure(programming.Settings{Link: ruleset.Link{Address: "elsewhere"}})
		}, true, true},
		{"the same settings again", func(r *Rulesets) { r.Configure(programming.Settings{}) }, false, false},
	} {
		cached := &counted{policies: []v1alpha1.RateLimitPolicy{policyFor("web", "web")}}
		rulesets := NewRulesets(cached, certs.NewAuthorities(certs.AuthoritiesOptions{}))
		before, err := rulesets.of(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		rung, hangUp := rulesets.listen(types.NamespacedName{Namespace: "shop", Name: "web-1"})
		cached.policies = []v1alpha1.RateLimitPolicy{edited}
		test.change(rulesets)
		if got := len(rung) == 1; got != test.rings {
			t.Errorf("%s: rings=%v, want %v", test.reason, got, test.rings)
		}
		hangUp()
		after, err := rulesets.of(t.Context(), pod)
		if err != nil {
			t.Fatal(err)
		}
		if got := after.version != before.version; got != test.another {
			t.Errorf("%s: another version=%v, want %v", test.reason, got, test.another)
		}
		if len(rulesets.bells.listeners) != 0 {
			t.Errorf("%s: who hung up is still listed", test.reason)
		}
	}
}

func TestWithoutAPIServerNobodyIsBlamed(t *testing.T) {
	t.Parallel()
	server, err := New(Options{
		Reviewer: &reviewer{err: errors.New("connection refused")}, Rulesets: NewRulesets(nil, certs.NewAuthorities(certs.AuthoritiesOptions{})),
		Acknowledgements: NewAcknowledgements(), Registerer: prometheus.NewRegistry(), Logger: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	listening := httptest.NewTLSServer(server.handler())
	t.Cleanup(listening.Close)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, listening.URL+ruleset.LinkPath, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer t")
	response, err := listening.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusServiceUnavailable || response.Header.Get("Retry-After") != "1" {
		t.Errorf("got %s with Retry-After %q, want 503 and 1", response.Status, response.Header.Get("Retry-After"))
	}
}

// What counts the sidecars of a policy changes its Rulesets, but no more often
// than they are counted, and not for one pod more of many.
func TestEnforcersAreCountedCoarsely(t *testing.T) {
	t.Parallel()
	web := func(name, ip string) corev1.Pod {
		pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}}}
		pod.Spec.InitContainers = []corev1.Container{{Name: v1alpha1.SidecarContainer}}
		pod.Status.PodIP = ip
		return pod
	}
	cached := &counted{policies: []v1alpha1.RateLimitPolicy{policyFor("web", "web")}}
	for i := range 20 {
		cached.pods = append(cached.pods, web(fmt.Sprint(i), "10.0.0.1"))
	}
	ended, other, bare, young := web("ended", "10.0.0.1"), web("other", "10.0.0.1"), web("bare", "10.0.0.1"), web("young", "")
	ended.Status.Phase = corev1.PodSucceeded
	other.Labels = map[string]string{"app": "api"}
	bare.Spec.InitContainers = nil
	cached.pods = append(cached.pods, ended, other, bare, young)
	rulesets := NewRulesets(cached, certs.NewAuthorities(certs.AuthoritiesOptions{}))
	rulesets.recountDelay = time.Millisecond
	enforcers := func() int64 {
		answer, err := rulesets.of(t.Context(), &cached.pods[0])
		if err != nil {
			t.Fatal(err)
		}
		var sent ruleset.Ruleset
		if err := json.Unmarshal(answer.body, &sent); err != nil {
			t.Fatal(err)
		}
		return sent.Policies[0].Enforcers
	}
	if n := enforcers(); n != 20 {
		t.Errorf("%d sidecars enforce the policy, want 20", n)
	}
	rung, hangUp := rulesets.listen(types.NamespacedName{Namespace: "shop", Name: "0"})
	defer hangUp()
	// become lists other pods, and tells of one of them as the informer does.
	become := func(pods []corev1.Pod, before, after corev1.Pod) {
		cached.mu.Lock()
		cached.pods = pods
		cached.mu.Unlock()
		for range 100 {
			rulesets.podUpdated(&before, &after)
		}
	}
	born := web("young", "10.0.0.2")
	grown := slices.Clone(cached.pods)
	grown[len(grown)-1] = born
	become(grown, young, born)
	select {
	case <-rung:
	case <-time.After(10 * time.Second):
		t.Fatal("a sidecar more, and no pod is told")
	}
	if n := enforcers(); n != 22 {
		t.Errorf("21 sidecars are %d, want 22", n)
	}
	stamped, err := rulesets.Stamped(t.Context(), "shop", map[string]string{"app": "web"}, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	if n := stamped.Policies[0].Enforcers; n != 22 {
		t.Errorf("a pod begins as one of %d, want 22 for 22", n)
	}
	another := web("another", "10.0.0.3")
	listed := cached.listed
	become(append(slices.Clone(grown), another), web("another", ""), another)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		rulesets.mu.Lock()
		done := len(rulesets.recounting) == 0
		rulesets.mu.Unlock()
		cached.mu.Lock()
		done = done && cached.listed > listed
		cached.mu.Unlock()
		if done {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the sidecars are not counted again")
		}
	}
	if len(rung) != 0 || enforcers() != 22 {
		t.Errorf("22 sidecars: told %v, %d, want nothing told", len(rung) != 0, enforcers())
	}
}
