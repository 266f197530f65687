package link

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/controllers/store"
)

// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies,verbs=list;watch
// +kubebuilder:rbac:groups="",resources=pods,verbs=list;watch

// Rulesets computes the Ruleset of any pod, once for all pods of a namespace
// that the same policies select, and wakes who waits for another.
type Rulesets struct {
	reader      client.Reader
	authorities *certs.Authorities
	users       *store.Users // nil: sidecars have the store as the settings name it
	bells       bells

	mu       sync.Mutex
	settings programming.Settings
	programs map[string]*program // by namespace; dropped when a policy changes
	// recounting are the namespaces whose sidecars are about to be counted.
	recounting   map[string]bool
	recountDelay time.Duration
	// counted is the largest count of a policy's sidecars in each namespace.
	counted map[string]int64
}

// program is a namespace's policies at one time.
type program struct {
	mu       sync.Mutex
	compiled *programming.Program
	// policies that it was compiled from, and how many sidecars enforce them.
	policies  []v1alpha1.RateLimitPolicy
	enforcers map[string]int64
	answers   map[programming.Selection]*answer
	stamps    stamps
}

// answer is a Ruleset as it is sent.
type answer struct {
	version string
	body    []byte
	// hosts that the pods it is for intercept, and domains that the authority
	// of their namespace has to be for.
	hosts, domains []string
}

// NewRulesets computes from what the reader, a cache, knows.
func NewRulesets(reader client.Reader, authorities *certs.Authorities) *Rulesets {
	r := &Rulesets{
		reader: reader, authorities: authorities, programs: map[string]*program{},
		recounting: map[string]bool{}, recountDelay: recountDelay, counted: map[string]int64{},
	}
	authorities.OnChange(r.touch)
	return r
}

// UseUsers has the sidecars of a namespace reach the store with what users say.
// It is called before anything else.
func (r *Rulesets) UseUsers(users *store.Users) {
	r.users = users
	users.OnChange(func(namespace string) {
		if namespace == "" {
			r.touchAll()
		} else {
			r.touch(namespace)
		}
	})
}

// Namespaces that the cache knows to have policies, or pods with a sidecar.
func (r *Rulesets) Namespaces(ctx context.Context) ([]string, error) {
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := r.reader.List(ctx, policies, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("listing RateLimitPolicies: %w", err)
	}
	pods, err := PodsIn(ctx, r.reader, "")
	if err != nil {
		return nil, err
	}
	namespaces := map[string]bool{}
	for i := range policies.Items {
		namespaces[policies.Items[i].Namespace] = true
	}
	for _, pod := range pods {
		if HasSidecar(pod) {
			namespaces[pod.Namespace] = true
		}
	}
	return slices.Collect(maps.Keys(namespaces)), nil
}

// Configure replaces the operator's settings; every sidecar learns of a change
// at once.
func (r *Rulesets) Configure(settings programming.Settings) {
	r.mu.Lock()
	changed := !reflect.DeepEqual(r.settings, settings)
	if changed {
		r.settings = settings
		r.programs = map[string]*program{}
	}
	r.mu.Unlock()
	if changed {
		r.bells.ringAll()
	}
}

// Settings in force.
func (r *Rulesets) Settings() programming.Settings {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.settings
}

// of computes a pod's Ruleset. Listen first, then call it.
func (r *Rulesets) of(ctx context.Context, pod *corev1.Pod) (*answer, error) {
	p, err := r.program(ctx, pod.Namespace)
	if err != nil {
		return nil, err
	}
	defer p.mu.Unlock()
	selection := p.compiled.Select(pod.Labels)
	if known, ok := p.answers[selection]; ok {
		return known, nil
	}
	compiled := p.compiled.Ruleset(selection)
	body, err := json.Marshal(compiled)
	if err != nil {
		return nil, fmt.Errorf("encoding the Ruleset of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	next := &answer{version: compiled.Version, body: body, domains: p.compiled.Intercepted()}
	for i := range compiled.Policies {
		next.hosts = append(next.hosts, programming.InterceptedHosts(&compiled.Policies[i])...)
	}
	p.answers[selection] = next
	return next, nil
}

// program is a namespace's, compiled, and locked for the caller.
func (r *Rulesets) program(ctx context.Context, namespace string) (*program, error) {
	r.mu.Lock()
	p := r.programs[namespace]
	if p == nil {
		p = &program{answers: map[programming.Selection]*answer{}}
		r.programs[namespace] = p
	}
	settings := r.settings
	r.mu.Unlock()

	p.mu.Lock()
	if p.compiled != nil {
		return p, nil
	}
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := r.reader.List(ctx, policies, client.InNamespace(namespace)); err != nil {
		p.mu.Unlock()
		return nil, fmt.Errorf("listing the RateLimitPolicies of namespace %s: %w", namespace, err)
	}
	enforcers, err := r.enforcers(ctx, namespace, policies.Items)
	if err != nil {
		p.mu.Unlock()
		return nil, err
	}
	settings.Authorities = r.authorities.Bundle(namespace)
	settings.Store = r.users.Of(namespace, settings.Store)
	settings.Enforcers = coarse(enforcers, 0)
	p.policies, p.enforcers = policies.Items, enforcers
	p.compiled = programming.Prepare(namespace, policies.Items, settings)
	return p, nil
}

// touch forgets what was computed for a namespace and wakes its pods.
func (r *Rulesets) touch(namespace string) {
	r.mu.Lock()
	delete(r.programs, namespace)
	r.mu.Unlock()
	r.bells.ring(namespace)
}

// touchAll forgets everything that was computed and wakes every pod.
func (r *Rulesets) touchAll() {
	r.mu.Lock()
	r.programs = map[string]*program{}
	r.mu.Unlock()
	r.bells.ringAll()
}

// listen for what may change a pod's Ruleset.
func (r *Rulesets) listen(pod types.NamespacedName) (rung <-chan struct{}, hangUp func()) {
	return r.bells.listen(pod.Namespace, pod.String())
}

// tell of what may change a pod's Ruleset, by a call that must not block.
func (r *Rulesets) tell(pod types.NamespacedName, told func()) (hangUp func()) {
	return r.bells.tell(told, pod.Namespace, pod.String())
}

// watch follows policies and pods; forget is told of pods that are gone.
func (r *Rulesets) watch(ctx context.Context, informers cache.Informers, forget func(namespace string, uid types.UID)) error {
	policies, err := informers.GetInformer(ctx, &v1alpha1.RateLimitPolicy{})
	if err != nil {
		return fmt.Errorf("watching RateLimitPolicies: %w", err)
	}
	if _, err := policies.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(added any) { r.touch(added.(client.Object).GetNamespace()) },
		UpdateFunc: r.policyUpdated,
		DeleteFunc: func(deleted any) { r.touch(last(deleted).GetNamespace()) },
	}); err != nil {
		return fmt.Errorf("watching RateLimitPolicies: %w", err)
	}
	pods, err := informers.GetInformer(ctx, &corev1.Pod{})
	if err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	if _, err := pods.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(added any) {
			pod := added.(client.Object)
			r.bells.ring(keyOf(pod))
			r.recount(pod.GetNamespace())
		},
		UpdateFunc: r.podUpdated,
		DeleteFunc: func(deleted any) {
			pod := last(deleted)
			forget(pod.GetNamespace(), pod.GetUID())
			r.recount(pod.GetNamespace())
			r.bells.ring(keyOf(pod))
		},
	}); err != nil {
		return fmt.Errorf("watching pods: %w", err)
	}
	return nil
}

// policyUpdated is told of status writes too, of which only grants and resets
// change a Ruleset.
func (r *Rulesets) policyUpdated(before, after any) {
	old, current := before.(*v1alpha1.RateLimitPolicy), after.(*v1alpha1.RateLimitPolicy)
	if !equality.Semantic.DeepEqual(old.Status.Grants, current.Status.Grants) ||
		!equality.Semantic.DeepEqual(old.Status.Resets, current.Status.Resets) || old.GetUID() != current.GetUID() || old.GetGeneration() != current.GetGeneration() ||
		(old.GetDeletionTimestamp() == nil) != (current.GetDeletionTimestamp() == nil) {
		r.touch(current.GetNamespace())
	}
}

func (r *Rulesets) podUpdated(before, after any) {
	old, current := before.(*corev1.Pod), after.(*corev1.Pod)
	another := old.GetUID() != current.GetUID() || !maps.Equal(old.GetLabels(), current.GetLabels())
	if another {
		r.bells.ring(keyOf(current))
	}
	if another || enforces(old) != enforces(current) {
		r.recount(current.GetNamespace())
	}
}

// last is the object of a deletion, or the last that was seen of one whose
// deletion was missed.
func last(deleted any) client.Object {
	if missed, ok := deleted.(toolscache.DeletedFinalStateUnknown); ok {
		deleted = missed.Obj
	}
	return deleted.(client.Object)
}

func keyOf(object client.Object) string { return client.ObjectKeyFromObject(object).String() }
