package controllers

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// scene is what decide is shown, built like sentences.
type scene struct{ observed }

func makeScene() *scene {
	policy := &v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "api", UID: "p", Generation: 3}}
	policy.Spec.Limits = []v1alpha1.Limit{{Requests: 100, Window: metav1.Duration{Duration: time.Minute}}}
	return &scene{observed{
		policy:  policy,
		verdict: programming.Verdict{Accepted: true, Reason: v1alpha1.ReasonAccepted, Message: "Fine."},
		said:    map[types.UID]link.Acknowledgement{},
		now:     epoch.Add(time.Hour),
	}}
}

// told gives the policy a status that called a generation Programmed or not.
func (s *scene) told(status metav1.ConditionStatus, generation int64) *scene {
	s.policy.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionProgrammed, Status: status, ObservedGeneration: generation, LastTransitionTime: metav1.NewTime(epoch),
	}}
	return s
}

func (s *scene) pod(name string, sidecar bool) *scene {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(epoch)}}
	if sidecar {
		pod.Spec.InitContainers = []corev1.Container{{Name: v1alpha1.SidecarContainer}}
	}
	s.pods = append(s.pods, pod)
	return s
}

func (s *scene) enforcing(name string, generation int64) *scene {
	s.said[types.UID(name)] = link.Acknowledgement{Enforcing: []ruleset.PolicyRef{{Name: "api", UID: "p", Generation: generation}}}
	return s.pod(name, true)
}

// intercepting: the policy asks for it, and the namespace has an authority or not.
func (s *scene) intercepting(authority bool) *scene {
	s.policy.Spec.TLS, s.authority = v1alpha1.TLSIntercept, authority
	return s
}

// blind pods enforce a generation, and cannot intercept for it.
func (s *scene) blind(name string, generation int64) *scene {
	s.enforcing(name, generation)
	said := s.said[types.UID(name)]
	said.NotIntercepting = []string{"api"}
	s.said[types.UID(name)] = said
	return s
}

func (s *scene) rejecting(name, reason string) *scene {
	s.said[types.UID(name)] = link.Acknowledgement{Rejected: &ruleset.Rejection{Version: "v", Reason: reason}}
	return s.pod(name, true)
}

func (s *scene) refused(reason string) *scene {
	s.verdict = programming.Verdict{Reason: reason, Message: "Change it."}
	return s
}

func (s *scene) trusting(before time.Time) *scene { s.trusted = before; return s }

func TestDecide(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason              string
		scene               *scene
		programmed, message string
		ready               string
		pods                string
	}{
		{
			reason:     "whoever watches an edit sees False of its generation before True",
			scene:      makeScene().told(metav1.ConditionTrue, 2).enforcing("a", 3),
			programmed: "False Pending", message: "Generation 3 is on its way to 1 pods.", ready: "False Pending", pods: "1/1",
		},
		{
			reason:     "all have said so",
			scene:      makeScene().told(metav1.ConditionFalse, 3).enforcing("a", 3).enforcing("b", 3),
			programmed: "True Programmed", message: "All 2 selected pods enforce generation 3.", ready: "True Ready", pods: "2/2",
		},
		{
			reason:     "an older generation does not count",
			scene:      makeScene().told(metav1.ConditionFalse, 3).enforcing("a", 2).enforcing("b", 3),
			programmed: "False Pending", message: "1 of 2 pods enforce generation 3; waiting for a.", ready: "False Pending", pods: "1/2",
		},
		{
			reason:     "only three pods are named",
			scene:      makeScene().told(metav1.ConditionFalse, 3).pod("a", true).pod("b", true).pod("c", true).pod("d", true).pod("e", true),
			programmed: "False Pending", message: "0 of 5 pods enforce generation 3; waiting for a, b, c and 2 more.", ready: "False Pending", pods: "0/5",
		},
		{
			reason:     "no pods is no obstacle",
			scene:      makeScene(),
			programmed: "True NoPods", message: "The policy selects no pod yet. It holds for every selected pod from its first request.", ready: "True Ready", pods: "0/0",
		},
		{
			reason:     "a pod without sidecar will not get one by waiting",
			scene:      makeScene().told(metav1.ConditionFalse, 3).pod("a", false).pod("b", true),
			programmed: "False SidecarMissing", ready: "False SidecarMissing", pods: "0/2",
			message: `1 of 2 selected pods run without the sidecar (a): restart them in a namespace labelled weir.dev/inject=enabled, or label them weir.dev/inject="false" to leave them out.`,
		},
		{
			reason:     "a refusal says why",
			scene:      makeScene().told(metav1.ConditionFalse, 3).rejecting("a", "no such store."),
			programmed: "False SidecarRejected", ready: "False SidecarRejected", pods: "0/1",
			message: "1 of 1 pods could not apply their rules (a): no such store. They enforce the rules that they had before.",
		},
		{
			reason:     "a pod that began too early will not intercept by waiting",
			scene:      makeScene().intercepting(true).told(metav1.ConditionFalse, 3).blind("a", 3).enforcing("b", 3).pod("c", true),
			programmed: "False RestartNeeded", ready: "False RestartNeeded", pods: "1/3",
			message: "1 of 3 pods do not intercept (a): they began before interception of these hosts was declared, or without the trust bundle. Their HTTPS calls pass uncounted: restart them (kubectl rollout restart); if that does not help, the events of their owners say why.",
		},
		{
			reason:     "a new generation speaks of it at once",
			scene:      makeScene().intercepting(true).told(metav1.ConditionTrue, 2).blind("a", 3),
			programmed: "False RestartNeeded", ready: "False RestartNeeded", pods: "0/1",
			message: "1 of 1 pods do not intercept (a): they began before interception of these hosts was declared, or without the trust bundle. Their HTTPS calls pass uncounted: restart them (kubectl rollout restart); if that does not help, the events of their owners say why.",
		},
		{
			reason:     "nobody is sent to restart pods before there is an authority to know",
			scene:      makeScene().intercepting(false).told(metav1.ConditionFalse, 3).blind("a", 3),
			programmed: "False Pending", ready: "False Pending", pods: "0/1",
			message: "The namespace has no authority to intercept with yet. If this stays, the operator's log says why.",
		},
		{
			reason:     "what a pod said of the older generation does not count",
			scene:      makeScene().intercepting(true).told(metav1.ConditionFalse, 3).blind("a", 2),
			programmed: "False Pending", message: "0 of 1 pods enforce generation 3; waiting for a.", ready: "False Pending", pods: "0/1",
		},
		{
			reason:     "who does not ask for interception does not miss it",
			scene:      makeScene().told(metav1.ConditionFalse, 3).blind("a", 3),
			programmed: "True Programmed", message: "All 1 selected pods enforce generation 3.", ready: "True Ready", pods: "1/1",
		},
		{
			reason:     "what is not accepted is enforced nowhere, whatever old reports say",
			scene:      makeScene().refused(v1alpha1.ReasonServiceConflict).enforcing("a", 3),
			programmed: "False NotAccepted", message: "No pod enforces the policy, because it is not accepted.", ready: "False ServiceConflict", pods: "0/1",
		},
		{
			reason:     "a restarted operator, whom pods have not told yet, does not take back what it knew",
			scene:      makeScene().told(metav1.ConditionTrue, 3).pod("a", true).trusting(epoch.Add(time.Minute)),
			programmed: "True Programmed", message: "All 1 selected pods enforce generation 3.", ready: "True Ready", pods: "1/1",
		},
		{
			reason:     "a pod that is younger than the operator has never enforced anything",
			scene:      makeScene().told(metav1.ConditionTrue, 3).pod("a", true).trusting(epoch.Add(-time.Minute)),
			programmed: "False Pending", message: "0 of 1 pods enforce generation 3; waiting for a.", ready: "False Pending", pods: "0/1",
		},
		{
			reason:     "an edit during the restart is not trusted",
			scene:      makeScene().told(metav1.ConditionTrue, 2).pod("a", true).trusting(epoch.Add(time.Minute)),
			programmed: "False Pending", message: "0 of 1 pods enforce generation 3; waiting for a.", ready: "False Pending", pods: "0/1",
		},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			status := decide(test.scene.observed)
			programmed := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionProgrammed)
			ready := meta.FindStatusCondition(status.Conditions, v1alpha1.ConditionReady)
			got := []string{
				fmt.Sprintf("%s %s", programmed.Status, programmed.Reason), programmed.Message,
				fmt.Sprintf("%s %s", ready.Status, ready.Reason), status.Pods.Summary,
			}
			if want := []string{test.programmed, test.message, test.ready, test.pods}; !reflect.DeepEqual(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
			for _, c := range status.Conditions {
				if c.ObservedGeneration != 3 {
					t.Errorf("%s speaks of generation %d", c.Type, c.ObservedGeneration)
				}
			}
		})
	}
}

func TestDecideAgainChangesNothing(t *testing.T) {
	t.Parallel()
	s := makeScene().told(metav1.ConditionFalse, 3).enforcing("a", 3)
	s.policy.Status = decide(s.observed)
	s.now = s.now.Add(time.Hour)
	if again := decide(s.observed); !reflect.DeepEqual(again, s.policy.Status) {
		t.Errorf("an hour later, with nothing changed: got %+v, want %+v", again, s.policy.Status)
	}
}

func TestSelectPods(t *testing.T) {
	t.Parallel()
	ended := metav1.NewTime(epoch)
	pod := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}}
		change(p)
		return p
	}
	pods := []*corev1.Pod{
		pod("b", func(*corev1.Pod) {}),
		pod("a", func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }),
		pod("succeeded", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }),
		pod("failed", func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }),
		pod("terminating", func(p *corev1.Pod) { p.DeletionTimestamp = &ended }),
		pod("node", func(p *corev1.Pod) { p.Spec.HostNetwork = true }),
		pod("out", func(p *corev1.Pod) { p.Labels[v1alpha1.LabelInject] = v1alpha1.InjectOptOut }),
		pod("other", func(p *corev1.Pod) { p.Labels["app"] = "api" }),
	}
	policy := &v1alpha1.RateLimitPolicy{}
	policy.Spec.PodSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
	var names []string
	for _, selected := range link.Selected(policy, link.Candidates(pods)) {
		names = append(names, selected.Name)
	}
	if want := []string{"a", "b"}; !reflect.DeepEqual(names, want) {
		t.Errorf("got %v, want %v", names, want)
	}
}

func TestStripPodKeepsWhatDecisionsRead(t *testing.T) {
	t.Parallel()
	full := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "a", Namespace: "shop", UID: "u", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{"large": "text"}, ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubelet"}},
		},
		Spec: corev1.PodSpec{
			InitContainers:     []corev1.Container{{Name: v1alpha1.SidecarContainer, Env: []corev1.EnvVar{{Name: ruleset.BootstrapEnv, Value: "large"}}}},
			Containers:         []corev1.Container{{Name: "app"}},
			ServiceAccountName: "default",
		},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	got, err := stripPod(full)
	if err != nil {
		t.Fatal(err)
	}
	want := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "shop", UID: "u", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{InitContainers: []corev1.Container{{Name: v1alpha1.SidecarContainer}}, ServiceAccountName: "default"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.1"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestStripPodKeepsWhyAWorkerDoesNotStart(t *testing.T) {
	t.Parallel()
	worker := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{v1alpha1.LabelPeriodicTask: "hourly"}},
		Status: corev1.PodStatus{
			Conditions:        []corev1.PodCondition{{Type: corev1.PodScheduled}},
			ContainerStatuses: []corev1.ContainerStatus{waiting("ImagePullBackOff")},
		},
	}
	got, err := stripPod(worker)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, worker) {
		t.Errorf("got %+v, want %+v", got, worker)
	}
}
