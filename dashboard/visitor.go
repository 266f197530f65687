package dashboard

import (
	"context"
	"slices"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/access"
	"github.com/weir-dev/weir/dashboard/tasks"
)

// visitor is somebody who asks, for the time of one answer.
type visitor struct {
	user *access.User
	csrf string
	s    *Server
	// trouble is the first question that the API server did not answer.
	mu      sync.Mutex
	trouble error
}

// may says whether the visitor may; when the API server does not say, not.
func (v *visitor) may(ctx context.Context, namespace, resource, subresource, verb string) bool {
	may, err := v.s.reading.May(ctx, v.user, access.Attempt{Namespace: namespace, Resource: resource, Subresource: subresource, Verb: verb})
	if err != nil {
		v.mu.Lock()
		v.trouble = err
		v.mu.Unlock()
	}
	return may && err == nil
}

// among are those of some namespaces in which the visitor may; all: in every one.
func (v *visitor) among(ctx context.Context, namespaces []string, resource, subresource, verb string) (allowed map[string]bool, all bool) {
	if v.may(ctx, "", resource, subresource, verb) {
		return nil, true
	}
	allowed = map[string]bool{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for _, namespace := range namespaces {
		asking.Go(func() { // the reviewer bounds how many are asked at once
			if v.may(ctx, namespace, resource, subresource, verb) {
				mu.Lock()
				defer mu.Unlock()
				allowed[namespace] = true
			}
		})
	}
	asking.Wait()
	return allowed, false
}

// schedules that the visitor may see, by namespace and name.
func (v *visitor) schedules(ctx context.Context) ([]v1alpha1.PeriodicTask, error) {
	found, all, err := v.s.periodicTasks(ctx)
	if err != nil {
		return nil, err
	}
	allowed, every := v.among(ctx, all, "periodictasks", "", "list")
	return slices.DeleteFunc(found, func(t v1alpha1.PeriodicTask) bool { return !every && !allowed[t.Namespace] }), nil
}

// periodicTasks of all namespaces, and these.
func (s *Server) periodicTasks(ctx context.Context) (found []v1alpha1.PeriodicTask, namespaces []string, err error) {
	list := &v1alpha1.PeriodicTaskList{}
	if err := s.o.Reader.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, nil, err
	}
	found = slices.Clone(list.Items)
	slices.SortFunc(found, func(a, b v1alpha1.PeriodicTask) int { return compareKeys(a.Namespace, a.Name, b.Namespace, b.Name) })
	for i := range found {
		namespaces = append(namespaces, found[i].Namespace)
	}
	return found, slices.Compact(namespaces), nil
}

// holdings are the queues of the namespaces in which a visitor may do something.
type holdings struct {
	all        bool
	namespaces map[string]bool
	queues     map[string]bool
}

// holdings in which the visitor may use a verb on PeriodicTasks or a subresource.
func (v *visitor) holdings(ctx context.Context, subresource, verb string) (*holdings, error) {
	found, namespaces, err := v.s.periodicTasks(ctx)
	if err != nil {
		return nil, err
	}
	h := &holdings{queues: map[string]bool{}}
	h.namespaces, h.all = v.among(ctx, namespaces, "periodictasks", subresource, verb)
	for i := range found {
		if h.namespaces[found[i].Namespace] {
			h.queues[found[i].Spec.Task.Queue] = true
		}
	}
	return h, nil
}

// queue says whether a queue is among them.
func (h *holdings) queue(name string) bool { return h.all || h.queues[name] }

// among are those of some queues that are; nil: it is not said which there are.
func (h *holdings) among(queues []string) []string {
	return slices.DeleteFunc(slices.Clone(queues), func(name string) bool { return !h.queue(name) })
}

// has says whether a task is.
func (h *holdings) has(scope tasks.Scope) bool {
	if h.all {
		return true
	}
	if scope.PeriodicTask != "" {
		return h.namespaces[namespaceOf(scope.PeriodicTask)]
	}
	return h.queues[scope.Queue]
}
