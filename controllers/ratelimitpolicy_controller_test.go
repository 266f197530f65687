package controllers

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/link"
)

func TestWhatAPolicysChangeQueues(t *testing.T) {
	t.Parallel()
	before := &v1alpha1.RateLimitPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "api", UID: "1", Generation: 2}}
	before.Status.ObservedGeneration = 2
	changed := func(change func(*v1alpha1.RateLimitPolicy)) *v1alpha1.RateLimitPolicy {
		after := before.DeepCopy()
		change(after)
		return after
	}
	for _, test := range []struct {
		reason string
		after  *v1alpha1.RateLimitPolicy
		atOnce bool
	}{
		{"an edit", changed(func(p *v1alpha1.RateLimitPolicy) { p.Generation = 3 }), true},
		{"the first status of an edit, which is followed by the next", changed(func(p *v1alpha1.RateLimitPolicy) { p.Status.ObservedGeneration = 3 }), true},
		{"another policy of the same name", changed(func(p *v1alpha1.RateLimitPolicy) { p.UID = "2" }), true},
		{"a deletion", changed(func(p *v1alpha1.RateLimitPolicy) { p.DeletionTimestamp = new(metav1.Now()) }), true},
		{"a count of pods", changed(func(p *v1alpha1.RateLimitPolicy) { p.Status.Pods = &v1alpha1.PodCounts{Selected: 7} }), false},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer queue.ShutDown()
			began := time.Now()
			policyChanges().Update(t.Context(), event.UpdateEvent{ObjectOld: before, ObjectNew: test.after}, queue)
			got, _ := queue.Get()
			if waited := time.Since(began) >= settle; got != request("shop") || waited == test.atOnce {
				t.Errorf("got %v, after a pause: %v; want namespace shop, after a pause: %v", got, waited, !test.atOnce)
			}
		})
	}
}

func TestTheCacheKeepsLittleOfAPod(t *testing.T) {
	t.Parallel()
	pod := func(containers ...string) *corev1.Pod {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "1", Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"big": "one"}}}
		pod.Spec.Containers = []corev1.Container{{Name: "app"}}
		for _, name := range containers {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, Image: name + ":1"})
		}
		return pod
	}
	for _, test := range []struct {
		pod     *corev1.Pod
		sidecar bool
	}{
		{pod(v1alpha1.CaptureContainer, v1alpha1.SidecarContainer, "migrate"), true},
		{pod("migrate"), false},
	} {
		kept, err := stripPod(test.pod)
		if err != nil {
			t.Fatal(err)
		}
		stripped := kept.(*corev1.Pod)
		if link.HasSidecar(stripped) != test.sidecar || len(stripped.Spec.InitContainers) > 1 || len(stripped.Spec.Containers) > 0 || len(stripped.Annotations) > 0 || stripped.Labels["app"] != "web" {
			t.Errorf("of a pod with sidecar=%v is kept %+v", test.sidecar, stripped)
		}
	}
}
