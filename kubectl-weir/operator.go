package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/usage"
)

const (
	webhookName  = "weir"
	linkService  = "weir-link"
	linkPort     = 9444
	operatorApp  = "weir-operator"
	labelApp     = "app.kubernetes.io/name"
	askTimeout   = 15 * time.Second
	maxReplySize = 32 << 20
)

// operator is its usage API.
type operator struct {
	client *http.Client
	base   string
}

// reachOperator forwards a port to an operator's pod, until ctx ends. Its
// certificate is verified by the authorities that the API server verifies its
// webhook with.
func (c *cluster) reachOperator(ctx context.Context) (*operator, error) {
	webhook := &admissionv1.MutatingWebhookConfiguration{}
	if err := c.client.Get(ctx, client.ObjectKey{Name: webhookName}, webhook); err != nil {
		return nil, fmt.Errorf("reading the operator's authorities: %w", err)
	}
	if len(webhook.Webhooks) == 0 || len(webhook.Webhooks[0].ClientConfig.CABundle) == 0 {
		return nil, fmt.Errorf("the MutatingWebhookConfiguration %s has no caBundle yet: wait until the operator runs", webhookName)
	}
	pod, err := c.readyPod(ctx, c.operatorNamespace, map[string]string{labelApp: operatorApp})
	if err != nil {
		return nil, fmt.Errorf("finding the operator: %w", err)
	}
	port, _, err := c.forward(ctx, pod, 0, linkPort)
	if err != nil {
		return nil, err
	}
	return connect(c.config, fmt.Sprintf("https://127.0.0.1:%d", port), linkService+"."+c.operatorNamespace+".svc", webhook.Webhooks[0].ClientConfig.CABundle)
}

// reached is an operator that is reached anew when it did not answer: a forwarded
// port ends with its pod.
type reached struct {
	cluster *cluster
	now     *operator // nil: none
	leave   context.CancelFunc
}

// ask has do ask the operator.
func (r *reached) ask(ctx context.Context, do func(*operator) error) error {
	if r.now == nil {
		reaching, leave := context.WithCancel(ctx)
		found, err := r.cluster.reach(reaching)
		if err != nil {
			leave()
			return err
		}
		r.now, r.leave = found, leave
	}
	err := do(r.now)
	if _, answered := errors.AsType[*refusedError](err); err != nil && !answered {
		r.leave()
		r.now = nil
	}
	return err
}

// connect with the credentials that a config has for the API server.
func connect(config *rest.Config, base, name string, authorities []byte) (*operator, error) {
	if as := config.Impersonate.UserName; as != "" {
		return nil, fmt.Errorf("the kubeconfig acts as %s, which the operator cannot verify: use a context without impersonation (as)", as)
	}
	to := rest.CopyConfig(config)
	to.Host, to.APIPath, to.Dial, to.Proxy = base, "", nil, func(*http.Request) (*url.URL, error) { return nil, nil }
	to.TLSClientConfig.Insecure, to.TLSClientConfig.CAFile, to.TLSClientConfig.CAData = false, "", authorities
	to.TLSClientConfig.ServerName, to.TLSClientConfig.NextProtos = name, []string{"http/1.1"}
	to.Timeout = askTimeout
	httpClient, err := rest.HTTPClientFor(to)
	if err != nil {
		return nil, fmt.Errorf("using the kubeconfig's credentials: %w", err)
	}
	return &operator{httpClient, base}, nil
}

// refusedError is a problem that the operator answered with.
type refusedError struct{ usage.Problem }

func (e *refusedError) Error() string { return e.Detail }

// ask sends a request, with a body if there is one, and reads the answer.
func (o *operator) ask(ctx context.Context, method, path string, body, into any) error {
	var text io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return err
		}
		text = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, o.base+path, text)
	if err != nil {
		return err
	}
	response, err := o.client.Do(request)
	if err != nil {
		return fmt.Errorf("asking the operator: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	read, err := io.ReadAll(io.LimitReader(response.Body, maxReplySize))
	if err != nil {
		return fmt.Errorf("asking the operator: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		refused := &refusedError{}
		if json.Unmarshal(read, &refused.Problem) != nil || refused.Detail == "" {
			return fmt.Errorf("the operator answered %s: is it of the same version as kubectl weir (%s)?", response.Status, version)
		}
		return refused
	}
	if err := json.Unmarshal(read, into); err != nil {
		return fmt.Errorf("reading the operator's answer: %w", err)
	}
	return nil
}

// policies of a namespace, or of all, on all pages.
func (o *operator) policies(ctx context.Context, namespace string) (usage.Policies, error) {
	all := usage.Policies{Policies: []usage.Policy{}}
	query := url.Values{"limit": {"500"}}
	if namespace != "" {
		query.Set("namespace", namespace)
	}
	for {
		var page usage.Policies
		if err := o.ask(ctx, http.MethodGet, "/v1/policies?"+query.Encode(), nil, &page); err != nil {
			return all, err
		}
		all.Policies, all.Missing = append(all.Policies, page.Policies...), page.Missing
		if page.Continue == "" {
			return all, nil
		}
		query.Set("continue", page.Continue)
	}
}

// of is the path of a policy's, below that.
func of(namespace, policy, below string) string {
	return usage.Prefix + url.PathEscape(namespace) + "/" + url.PathEscape(policy) + below
}

func identity(of string) string { return "?identity=" + url.QueryEscape(of) }

// isRefused says whether the operator refused with a status.
func isRefused(err error, status int) bool {
	refused, ok := errors.AsType[*refusedError](err)
	return ok && refused.Status == status
}
