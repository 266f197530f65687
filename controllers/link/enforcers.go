package link

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
)

const (
	// recountDelay gathers what becomes of a namespace's pods into one count of
	// those that enforce each policy: a namespace's Rulesets change no more often
	// for that. It is longer by recountDelayEach for each that was counted last,
	// as each is told: a namespace that grows to 10,000 pods is not busy with it.
	recountDelay     = 5 * time.Second
	recountDelayEach = 2 * time.Millisecond
)

// enforces says whether a pod has a sidecar that runs, or is about to.
func enforces(pod *corev1.Pod) bool {
	ended := pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	return !ended && pod.Status.PodIP != "" && !pod.Spec.HostNetwork && HasSidecar(pod)
}

// enforcers counts the sidecars that enforce each policy of a namespace which
// divides its limits among them.
func (r *Rulesets) enforcers(ctx context.Context, namespace string, policies []v1alpha1.RateLimitPolicy) (map[string]int64, error) {
	selectors := map[string]programming.Selector{}
	for i := range policies {
		if !programming.Shares(&policies[i]) {
			continue
		}
		if selector, err := programming.NewSelector(&policies[i]); err == nil { // else it is not accepted
			selectors[policies[i].Name] = selector
		}
	}
	if len(selectors) == 0 {
		return nil, nil
	}
	pods, err := PodsIn(ctx, r.reader, namespace)
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int64, len(selectors))
	for name := range selectors {
		counts[name] = 0
	}
	for _, pod := range pods {
		if !enforces(pod) {
			continue
		}
		for name, selector := range selectors {
			if selector.Selects(pod.Labels, true) {
				counts[name]++
			}
		}
	}
	return counts, nil
}

// coarse rounds counts of sidecars, with more of each: see programming.Coarse.
func coarse(counts map[string]int64, more int64) map[string]int64 {
	rounded := make(map[string]int64, len(counts))
	for name, count := range counts {
		rounded[name] = programming.Coarse(max(count+more, 1)) // who asks is one
	}
	return rounded
}

// recount has the sidecars of a namespace counted soon.
func (r *Rulesets) recount(namespace string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.recounting[namespace] {
		return
	}
	r.recounting[namespace] = true
	delay := r.recountDelay + time.Duration(r.counted[namespace])*recountDelayEach
	time.AfterFunc(delay, func() { r.recounted(namespace) })
}

// recounted counts, and wakes the pods of a namespace when the count that they
// know is another.
func (r *Rulesets) recounted(namespace string) {
	r.mu.Lock()
	delete(r.recounting, namespace)
	delete(r.counted, namespace)
	p := r.programs[namespace]
	r.mu.Unlock()
	if p == nil {
		return // it is counted when somebody asks
	}
	p.mu.Lock()
	policies := p.policies
	p.mu.Unlock()
	now, err := r.enforcers(context.Background(), namespace, policies)
	if err != nil {
		return // the cache is asked again when the next pod changes
	}
	r.mu.Lock()
	for _, n := range now {
		r.counted[namespace] = max(r.counted[namespace], n)
	}
	r.mu.Unlock()
	p.mu.Lock()
	another := !maps.Equal(coarse(now, 0), coarse(p.enforcers, 0))
	p.enforcers, p.stamps = now, stamps{}
	p.mu.Unlock()
	if another {
		r.touch(namespace)
	}
}
