package operator

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

const editPatience = 2 * time.Minute

// edit changes a limit, and returns how long it took from before the patch was
// sent until the last of so many sidecars had it in force, and until the status
// said that all of them have acknowledged it.
func (b *bench) edit(ctx context.Context, name string, sidecars int) (enforced, programmed time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, editPatience)
	defer cancel()
	policy := &v1alpha1.RateLimitPolicy{}
	key := client.ObjectKey{Namespace: b.fleet.namespaces[0], Name: name}
	if err := b.api.client.Get(ctx, key, policy); err != nil {
		return 0, 0, err
	}
	// A change of the spec counts the generation up by one.
	done := b.sidecars.watched.await(string(policy.UID), policy.Generation+1, sidecars)
	statuses, err := b.api.client.Watch(ctx, &v1alpha1.RateLimitPolicyList{}, client.InNamespace(key.Namespace), client.MatchingFields{"metadata.name": name})
	if err != nil {
		return 0, 0, err
	}
	defer statuses.Stop()
	edited := policy.DeepCopy()
	edited.Spec.Limits[0].Requests++
	began := time.Now()
	if err := b.api.client.Patch(ctx, edited, client.MergeFrom(policy)); err != nil {
		return 0, 0, err
	}
	for programmed == 0 {
		select {
		case event := <-statuses.ResultChan():
			if current, ok := event.Object.(*v1alpha1.RateLimitPolicy); ok && programmedFor(current, policy.Generation+1, sidecars) {
				programmed = time.Since(began)
			}
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("policy %s was not programmed in %v", name, editPatience)
		}
	}
	select {
	case <-done:
	default:
		return 0, 0, fmt.Errorf("policy %s is said to be programmed, and not every sidecar has it in force", name)
	}
	return b.sidecars.watched.at().Sub(began), programmed, nil
}

func programmedFor(policy *v1alpha1.RateLimitPolicy, generation int64, sidecars int) bool {
	condition := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionProgrammed)
	return condition != nil && condition.Status == "True" && condition.ObservedGeneration == generation &&
		policy.Status.Pods != nil && int(policy.Status.Pods.Enforcing) == sidecars && int(policy.Status.Pods.Selected) == sidecars
}

// edits are many of one kind, one after the other.
func (b *bench) edits(ctx context.Context, name string, sidecars int) (EditRow, error) {
	row := EditRow{Sidecars: sidecars, Edits: b.options.Edits}
	var enforced, programmed []time.Duration
	for range b.options.Edits {
		one, other, err := b.edit(ctx, name, sidecars)
		if err != nil {
			return row, err
		}
		enforced, programmed = append(enforced, one), append(programmed, other)
	}
	row.EnforcedP50, row.EnforcedP99 = quantile(enforced, 0.5), quantile(enforced, 0.99)
	row.ProgrammedP50, row.ProgrammedP99 = quantile(programmed, 0.5), quantile(programmed, 0.99)
	return row, nil
}

// doubts collects the statuses that say less than that all is enforced.
type doubts struct {
	mu    sync.Mutex
	found []string
	done  chan struct{}
	watch watch.Interface
}

// doubt watches all policies until it is asked.
func (b *bench) doubt(ctx context.Context) (*doubts, error) {
	stream, err := b.api.client.Watch(ctx, &v1alpha1.RateLimitPolicyList{})
	if err != nil {
		return nil, err
	}
	d := &doubts{done: make(chan struct{}), watch: stream}
	go func() {
		defer close(d.done)
		for event := range stream.ResultChan() {
			policy, ok := event.Object.(*v1alpha1.RateLimitPolicy)
			if !ok || policy.Status.Pods == nil {
				continue
			}
			condition := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionProgrammed)
			if condition != nil && condition.Status != "True" && condition.ObservedGeneration == policy.Generation {
				d.mu.Lock()
				d.found = append(d.found, fmt.Sprintf("%s/%s: %s", policy.Namespace, policy.Name, condition.Message))
				d.mu.Unlock()
			}
		}
	}()
	return d, nil
}

func (d *doubts) stop() []string {
	d.watch.Stop()
	<-d.done
	return d.found
}
