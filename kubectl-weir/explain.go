package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/injection"
	"github.com/weir-dev/weir/controllers/programming"
)

// explanation is what explain says of a pod.
type explanation struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Sidecar   bool   `json:"sidecar"`
	// Advice says what to do where there is no sidecar.
	Advice   string            `json:"advice,omitempty"`
	Injected *injection.Status `json:"injected,omitempty"`
	Policies []holding         `json:"policies"`
}

// holding is a policy that holds for the pod.
type holding struct {
	Policy    string   `json:"policy"`
	Service   string   `json:"service"`
	Direction string   `json:"direction"`
	Hosts     []string `json:"hosts,omitempty"`
	Limit     string   `json:"limit"`
	Mode      string   `json:"mode"`
	State     string   `json:"state"`
	// SelectedBy says why it holds for the pod.
	SelectedBy string `json:"selectedBy"`
}

func (p *plugin) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use: "explain POD", Short: "Say which policies hold for a pod, why, and what of its traffic is captured", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.names(pods),
		RunE: p.with(func(ctx context.Context, c *cluster, args []string) error {
			found, err := c.explain(ctx, strings.TrimPrefix(args[0], "pod/"))
			if err != nil {
				return err
			}
			return p.print(found, func(t *table) { printExplanation(t, found) })
		}),
	}
}

func (c *cluster) explain(ctx context.Context, name string) (*explanation, error) {
	pod, namespace := &corev1.Pod{}, &corev1.Namespace{}
	if err := c.client.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, pod); err != nil {
		return nil, err
	}
	found := &explanation{Namespace: pod.Namespace, Pod: pod.Name, Policies: []holding{}}
	found.Sidecar = slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == v1alpha1.SidecarContainer })
	if found.Sidecar {
		found.Injected = &injection.Status{}
		if json.Unmarshal([]byte(pod.Annotations[injection.AnnotationStatus]), found.Injected) != nil {
			found.Injected = nil
		}
	} else {
		err := c.client.Get(ctx, client.ObjectKey{Name: c.namespace}, namespace)
		if client.IgnoreNotFound(err) != nil {
			namespace = nil // who may not read it gets the general advice
		}
		found.Advice = unsidecared(pod, namespace)
	}
	policies := &v1alpha1.RateLimitPolicyList{}
	if err := c.client.List(ctx, policies, client.InNamespace(c.namespace)); err != nil {
		return nil, err
	}
	for i := range policies.Items {
		policy := &policies.Items[i]
		selector, err := programming.NewSelector(policy)
		if err != nil || !selector.Selects(pod.Labels, found.Sidecar) {
			continue
		}
		held := holding{
			Policy: policy.Name, Service: policy.ServiceName(), Direction: string(policy.Spec.Direction), Hosts: policy.Spec.Hosts,
			Limit: programming.Summary(policy.Spec.Limits), Mode: string(policy.Spec.Mode), State: "Unknown", SelectedBy: "all pods with a sidecar",
		}
		if ready := meta.FindStatusCondition(policy.Status.Conditions, v1alpha1.ConditionReady); ready != nil {
			held.State = ready.Reason
		}
		if policy.Spec.PodSelector != nil {
			held.SelectedBy = metav1.FormatLabelSelector(policy.Spec.PodSelector)
		}
		found.Policies = append(found.Policies, held)
	}
	return found, nil
}

// unsidecared says why a pod has no sidecar, and what to do.
func unsidecared(pod *corev1.Pod, namespace *corev1.Namespace) string {
	restart := "and restart the pod: a sidecar is added when a pod is created."
	switch {
	case pod.Labels[v1alpha1.LabelInject] == v1alpha1.InjectOptOut:
		return "The pod opts out by its label " + v1alpha1.LabelInject + ": take that out of its template, " + restart
	case pod.Spec.HostNetwork:
		return "The pod uses the node's network (hostNetwork), which is not captured."
	case pod.Labels[v1alpha1.LabelInject] == v1alpha1.InjectPod, namespace != nil && namespace.Labels[v1alpha1.LabelInject] == v1alpha1.InjectNamespace:
		return "It should have one: it is older than the label, or was refused. Restart it, and look for events of its owner (SkippedInjection, InjectionRefused)."
	}
	return fmt.Sprintf("Nobody asked for one: kubectl label namespace %s %s=%s, %s", pod.Namespace, v1alpha1.LabelInject, v1alpha1.InjectNamespace, restart)
}

func printExplanation(t *table, found *explanation) {
	t.say("Pod %s/%s", found.Namespace, found.Pod)
	switch {
	case !found.Sidecar:
		t.say("has no sidecar: nothing of it is limited. %s", found.Advice)
	case found.Injected == nil:
		t.say("has a sidecar, of which its annotations do not say what it captures.")
	case found.Injected.Capture == v1alpha1.CaptureProxy:
		t.say("has a sidecar as a proxy: HTTP_PROXY leads its calls there, ports %s are to be called through %s.",
			ports(found.Injected.InboundPorts), explicit(found.Injected))
	default:
		t.say("has a sidecar. Captured: connections to its ports %s, and its own to ports %s.",
			ports(found.Injected.InboundPorts), ports(found.Injected.OutboundPorts))
	}
	if found.Injected != nil {
		for _, container := range slices.Sorted(maps.Keys(found.Injected.Kept)) {
			t.say("Container %s kept %s: what it calls over TLS may not be seen.", container, strings.Join(found.Injected.Kept[container], ", "))
		}
	}
	if len(found.Policies) == 0 {
		t.say("\nNo policy of the namespace holds for it.")
		return
	}
	t.say("")
	t.row("SERVICE", "POLICY", "DIRECTION", "HOSTS", "LIMIT", "MODE", "STATE", "SELECTED BY")
	for _, h := range found.Policies {
		hosts := "any"
		if len(h.Hosts) > 0 {
			hosts = strings.Join(h.Hosts, ",")
		}
		t.row(h.Service, h.Policy, h.Direction, hosts, h.Limit, h.Mode, h.State, h.SelectedBy)
	}
}

func ports(numbers []uint16) string {
	if len(numbers) == 0 {
		return "(none)"
	}
	var texts []string
	for _, number := range numbers {
		texts = append(texts, count(int64(number)))
	}
	return strings.Join(texts, ", ")
}

func explicit(status *injection.Status) string {
	var numbers []uint16
	for _, port := range status.SidecarPorts {
		numbers = append(numbers, port.Listen)
	}
	return ports(numbers)
}
