package dashboard

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/usage"
)

// webhook is all that a reader has.
type webhook struct {
	client.Reader
	authorities []byte
}

func (w webhook) Get(_ context.Context, _ client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	into.(*admissionv1.MutatingWebhookConfiguration).Webhooks = []admissionv1.MutatingWebhook{{ClientConfig: admissionv1.WebhookClientConfig{CABundle: w.authorities}}}
	return nil
}

// While the operator does not answer one visitor waits for it, and others are told so
// at once, without what that one asked for.
func TestOneAtATimeAsksAnOperatorThatIsAway(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		asked.Add(1)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(server.Close)
	authorities := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	o := &operator{address: server.Listener.Addr().String(), config: &rest.Config{}, reader: webhook{authorities: authorities}}
	policy := &v1alpha1.RateLimitPolicy{}
	policy.Namespace, policy.Name = "shop", "api"
	const visits = 100
	for range visits {
		_, err := o.pods(t.Context(), policy, usage.PodQuery{Limit: 10, Search: "mine"})
		if err == nil || !strings.HasPrefix(err.Error(), "The operator did not say which pods there are: ") || strings.Contains(err.Error(), "mine") {
			t.Fatalf("got error %v", err)
		}
	}
	if n := asked.Load(); n < 1 || n > visits/2 {
		t.Errorf("%d visits asked %d times", visits, n)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	healthy := &operator{address: o.address, config: o.config, reader: o.reader}
	if _, err := healthy.pods(gone, policy, usage.PodQuery{}); err == nil || healthy.trouble != nil {
		t.Errorf("a visitor that left: error %v, and for others %v", err, healthy.trouble)
	}
}
