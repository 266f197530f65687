package link

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
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
