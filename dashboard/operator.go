package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/usage"
)

// operator is the usage API of the operator's, for what only that knows: which pods
// enforce a policy. It is asked as the dashboard, which has asked before whether the
// visitor may.
type operator struct {
	// address is host:port, config what the dashboard proves itself with.
	address string
	config  *rest.Config
	// reader reads the webhook, by whose authorities the operator is verified.
	reader client.Reader

	mu     sync.Mutex
	client *http.Client
	by     []byte    // authorities, that client verifies it by
	read   time.Time // when they were; zero: they may be others

	// trouble is why it does not answer, which who asks before again is told; nil: it
	// does.
	noting  sync.Mutex
	trouble error
	again   time.Time
}

const (
	maxPodsBytes = 4 << 20
	// operatorTimeout is less than a view has: the rest of it is shown without.
	operatorTimeout     = 2 * time.Second
	authoritiesKnownFor = time.Minute
)

// pods are a page of a policy's.
func (o *operator) pods(ctx context.Context, policy *v1alpha1.RateLimitPolicy, wanted usage.PodQuery) (found usage.Pods, err error) {
	path := usage.Prefix + url.PathEscape(policy.Namespace) + "/" + url.PathEscape(policy.Name) + "/pods?" + url.Values(wanted.Values()).Encode()
	if err := o.away(time.Now()); err != nil {
		return found, err
	}
	asking, cancel := context.WithTimeout(ctx, operatorTimeout)
	defer cancel()
	response, err := o.ask(asking, path)
	if ctx.Err() == nil { // else it is who asks that is gone
		o.note(err)
	}
	if err != nil {
		return found, err
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxPodsBytes))
	if err != nil {
		return found, unknownPods("%v", err)
	}
	if response.StatusCode != http.StatusOK {
		var said usage.Problem
		_ = json.Unmarshal(text, &said) // else it is none of ours, and older
		return found, unknownPods("%s %s", response.Status, said.Detail)
	}
	return found, json.Unmarshal(text, &found)
}

// away is why the operator does not answer, while it does not: then one at a time finds
// out whether it does again, so that open pages do not use up all requests under way.
func (o *operator) away(now time.Time) error {
	o.noting.Lock()
	defer o.noting.Unlock()
	if o.trouble != nil && now.Before(o.again) {
		return o.trouble
	}
	o.again = now.Add(operatorTimeout)
	return nil
}

// note what came of asking.
func (o *operator) note(trouble error) {
	o.noting.Lock()
	defer o.noting.Unlock()
	o.trouble = trouble
}

func (o *operator) ask(ctx context.Context, path string) (*http.Response, error) {
	client, err := o.verified(ctx)
	if err != nil {
		return nil, unknownPods("its authorities cannot be read from the webhook: %v", err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+o.address+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		o.mu.Lock()
		o.read = time.Time{}
		o.mu.Unlock()
		return nil, unknownPods("%v", errors.Unwrap(err)) // without what this visitor asked for: others are told, too
	}
	return response, nil
}

func unknownPods(format string, args ...any) error {
	return usage.Unavailable("The operator did not say which pods there are: " + fmt.Sprintf(format, args...) + ".")
}

// verified is a client that verifies the operator as the API server does.
func (o *operator) verified(ctx context.Context) (*http.Client, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if time.Since(o.read) < authoritiesKnownFor {
		return o.client, nil
	}
	webhook := &admissionv1.MutatingWebhookConfiguration{}
	if err := o.reader.Get(ctx, client.ObjectKey{Name: certs.DefaultWebhookName}, webhook); err != nil {
		return nil, err
	}
	if len(webhook.Webhooks) == 0 || len(webhook.Webhooks[0].ClientConfig.CABundle) == 0 {
		return nil, fmt.Errorf("%s has no caBundle yet", certs.DefaultWebhookName)
	}
	authorities := webhook.Webhooks[0].ClientConfig.CABundle
	if bytes.Equal(o.by, authorities) {
		o.read = time.Now()
		return o.client, nil
	}
	host, _, err := net.SplitHostPort(o.address)
	if err != nil {
		return nil, err
	}
	to := rest.CopyConfig(o.config)
	to.Host, to.APIPath, to.Dial, to.Proxy = "https://"+o.address, "", nil, func(*http.Request) (*url.URL, error) { return nil, nil }
	to.TLSClientConfig.Insecure, to.TLSClientConfig.CAFile, to.TLSClientConfig.CAData = false, "", authorities
	to.TLSClientConfig.ServerName, to.TLSClientConfig.NextProtos = host, []string{"http/1.1"}
	next, err := rest.HTTPClientFor(to)
	if err != nil {
		return nil, err
	}
	if o.client != nil {
		o.client.CloseIdleConnections()
	}
	o.client, o.by, o.read = next, authorities, time.Now()
	return next, nil
}
