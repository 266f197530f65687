package link

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
)

// PodsIn lists the pods of a namespace that a cache knows, those of all with "".
// They are the cache's own, only to be read: a PodList has a copy of each, a
// kilobyte of garbage for each pod of a namespace whenever one of them has
// something to say.
func PodsIn(ctx context.Context, reader client.Reader, namespace string) ([]*corev1.Pod, error) {
	if informers, ok := reader.(cache.Informers); ok {
		informer, err := informers.GetInformer(ctx, &corev1.Pod{})
		if err != nil {
			return nil, fmt.Errorf("listing the pods of namespace %q: %w", namespace, err)
		}
		if indexed, ok := informer.(toolscache.SharedIndexInformer); ok {
			return podsIn(indexed.GetIndexer(), namespace)
		}
	}
	list := &corev1.PodList{}
	if err := reader.List(ctx, list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing the pods of namespace %q: %w", namespace, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	return pods, nil
}

func podsIn(indexer toolscache.Indexer, namespace string) ([]*corev1.Pod, error) {
	found := indexer.List
	if namespace != "" {
		inNamespace, err := indexer.ByIndex(toolscache.NamespaceIndex, namespace)
		if err != nil {
			return nil, fmt.Errorf("listing the pods of namespace %q: %w", namespace, err)
		}
		found = func() []any { return inNamespace }
	}
	var pods []*corev1.Pod
	for _, object := range found() {
		if pod, ok := object.(*corev1.Pod); ok {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// Candidates are the pods that a policy may select, by name: those that run or
// are about to, and whose connections can be captured at all.
func Candidates(pods []*corev1.Pod) []*corev1.Pod {
	running := make([]*corev1.Pod, 0, len(pods))
	for _, pod := range pods {
		ended := pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
		if !ended && !pod.Spec.HostNetwork {
			running = append(running, pod)
		}
	}
	slices.SortFunc(running, func(a, b *corev1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return running
}

// Selected are those of the candidates that a policy selects, in their order.
func Selected(policy *v1alpha1.RateLimitPolicy, candidates []*corev1.Pod) []*corev1.Pod {
	selector, err := programming.NewSelector(policy)
	if err != nil {
		return nil // not accepted, and its verdict says why
	}
	var selected []*corev1.Pod
	for _, pod := range candidates {
		if selector.Selects(pod.Labels, HasSidecar(pod)) {
			selected = append(selected, pod)
		}
	}
	return selected
}
