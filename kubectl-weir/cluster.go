package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/httpstream"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// cluster is the one that the kubeconfig names.
type cluster struct {
	config *rest.Config
	// namespace that is meant where none is named, and the operator's.
	namespace, operatorNamespace string
	client                       client.Client
	core                         rest.Interface // of the API's core group, for what is no object
	// reach connects to the operator.
	reach func(context.Context) (*operator, error)
}

func openCluster(f *flags) (*cluster, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = f.kubeconfig
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &f.overrides)
	config, err := loaded.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	config.UserAgent = "kubectl-weir/" + version
	return newCluster(config, namespace, f.operatorNamespace)
}

func newCluster(config *rest.Config, namespace, operatorNamespace string) (*cluster, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	reader, err := client.New(config, client.Options{Scheme: scheme, Mapper: mapper()})
	if err != nil {
		return nil, err
	}
	core := rest.CopyConfig(config)
	core.GroupVersion, core.APIPath, core.NegotiatedSerializer = &corev1.SchemeGroupVersion, "/api", clientgoscheme.Codecs.WithoutConversion()
	restClient, err := rest.RESTClientFor(core)
	if err != nil {
		return nil, err
	}
	c := &cluster{config: config, namespace: namespace, operatorNamespace: operatorNamespace, client: reader, core: restClient}
	c.reach = c.reachOperator
	return c, nil
}

// mapper knows the kinds that are used, so that none has to be looked up.
func mapper() meta.RESTMapper {
	known := meta.NewDefaultRESTMapper(nil)
	for _, of := range []struct {
		version schema.GroupVersion
		scope   meta.RESTScope
		kinds   []string
	}{
		{corev1.SchemeGroupVersion, meta.RESTScopeNamespace, []string{"Pod", "Service"}},
		{corev1.SchemeGroupVersion, meta.RESTScopeRoot, []string{"Namespace"}},
		{batchv1.SchemeGroupVersion, meta.RESTScopeNamespace, []string{"CronJob", "Job"}},
		{admissionv1.SchemeGroupVersion, meta.RESTScopeRoot, []string{"MutatingWebhookConfiguration"}},
	} {
		for _, kind := range of.kinds {
			known.Add(of.version.WithKind(kind), of.scope)
		}
	}
	for kind, plural := range map[string]string{"RateLimitPolicy": "ratelimitpolicies", "PeriodicTask": "periodictasks"} {
		resource := v1alpha1.GroupVersion.WithResource(plural)
		known.AddSpecific(v1alpha1.GroupVersion.WithKind(kind), resource, resource, meta.RESTScopeNamespace)
	}
	return known
}

// policyOf finds the policy that has a service, or is called so.
func (c *cluster) policyOf(ctx context.Context, service string) (string, error) {
	policies := &v1alpha1.RateLimitPolicyList{}
	err := c.client.List(ctx, policies, client.InNamespace(c.namespace))
	if apierrors.IsForbidden(err) { // who may ask about usage may not list policies
		return service, nil
	}
	if err != nil {
		return "", err
	}
	var services []string
	for _, named := range []func(*v1alpha1.RateLimitPolicy) string{
		(*v1alpha1.RateLimitPolicy).ServiceName, func(p *v1alpha1.RateLimitPolicy) string { return p.Name },
	} {
		for i := range policies.Items {
			if policy := &policies.Items[i]; named(policy) == service {
				return policy.Name, nil
			}
		}
	}
	for i := range policies.Items {
		services = append(services, policies.Items[i].ServiceName())
	}
	slices.Sort(services)
	if len(services) == 0 {
		return "", fmt.Errorf("namespace %s has no RateLimitPolicy: name another with -n, or apply one", c.namespace)
	}
	return "", fmt.Errorf("namespace %s has no service %q; it has %s (others: -n)", c.namespace, service, strings.Join(services, ", "))
}

// readyPod is one of some pods that is ready.
func (c *cluster) readyPod(ctx context.Context, namespace string, labels map[string]string) (*corev1.Pod, error) {
	pods := &corev1.PodList{}
	if err := c.client.List(ctx, pods, client.InNamespace(namespace), client.MatchingLabels(labels)); err != nil {
		return nil, err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue && pod.DeletionTimestamp == nil {
				return pod, nil
			}
		}
	}
	return nil, &noPodError{namespace, labels, len(pods.Items)}
}

// noPodError: none of the pods is ready.
type noPodError struct {
	namespace string
	labels    map[string]string
	found     int
}

func (e *noPodError) Error() string {
	var selector []string
	for name, value := range e.labels {
		selector = append(selector, name+"="+value)
	}
	slices.Sort(selector)
	if e.found == 0 {
		return fmt.Sprintf("there is no pod with %s in namespace %s", strings.Join(selector, ","), e.namespace)
	}
	return fmt.Sprintf("none of %d pods is ready: kubectl -n %s describe pods -l %s says why", e.found, e.namespace, strings.Join(selector, ","))
}

// podURL of what a pod does beside being an object.
func (c *cluster) podURL(pod *corev1.Pod, what string) *url.URL {
	return c.core.Post().Resource("pods").Namespace(pod.Namespace).Name(pod.Name).SubResource(what).URL()
}

// byWebSocketFails says whether to try again the older way.
func byWebSocketFails(err error) bool {
	return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
}

// forward listens on a port of this machine's loopback, 0 for any, until ctx ends,
// for a pod's port. It returns the port, and what the forwarding ends with.
func (c *cluster) forward(ctx context.Context, pod *corev1.Pod, local, port uint16) (uint16, <-chan error, error) {
	to := c.podURL(pod, "portforward")
	byWebSocket, err := portforward.NewSPDYOverWebsocketDialer(to, c.config)
	if err != nil {
		return 0, nil, err
	}
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return 0, nil, err
	}
	dialer := portforward.NewFallbackDialer(byWebSocket, spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, to), byWebSocketFails)
	ready := make(chan struct{})
	forwarder, err := portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("%d:%d", local, port)}, ready, io.Discard, io.Discard)
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		return 0, nil, fmt.Errorf("forwarding a port to pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return 0, nil, err
	}
	return ports[0].Local, ended, nil
}

// execute runs a command in a pod's container.
func (c *cluster) execute(ctx context.Context, pod *corev1.Pod, container string, command []string, out, errOut io.Writer) error {
	to := c.podURL(pod, "exec")
	query := url.Values{"container": {container}, "stdout": {"true"}, "stderr": {"true"}, "command": command}
	to.RawQuery = query.Encode()
	byWebSocket, err := remotecommand.NewWebSocketExecutor(c.config, http.MethodGet, to.String())
	if err != nil {
		return err
	}
	bySPDY, err := remotecommand.NewSPDYExecutor(c.config, http.MethodPost, to)
	if err != nil {
		return err
	}
	executor, err := remotecommand.NewFallbackExecutor(byWebSocket, bySPDY, byWebSocketFails)
	if err != nil {
		return err
	}
	return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: out, Stderr: errOut})
}
