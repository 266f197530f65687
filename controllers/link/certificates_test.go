package link

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

func newKey(t *testing.T, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// requestFor is a certificate request in DER, signed with a key.
func requestFor(t *testing.T, key crypto.Signer, template x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestCertificateRequestsAreRead(t *testing.T) {
	t.Parallel()
	p256, p384 := newKey(t, elliptic.P256()), newKey(t, elliptic.P384())
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	of := func(key crypto.Signer, names ...string) []byte {
		return requestFor(t, key, x509.CertificateRequest{DNSNames: names})
	}
	spoiled := of(p256, "a.example")
	spoiled[len(spoiled)-1] ^= 1
	many := make([]string, maxNames+1)
	for i := range many {
		many[i] = fmt.Sprintf("%d.example", i)
	}
	for _, c := range []struct {
		reason string
		der    []byte
		names  []string
		says   string
	}{
		{"a name", of(p256, "a.example"), []string{"a.example"}, ""},
		{"in lower case", of(p256, "API.Example"), []string{"api.example"}, ""},
		{"a pattern, and as many names as may be", of(p256, append([]string{"*.a.example"}, many[:maxNames-1]...)...), append([]string{"*.a.example"}, many[:maxNames-1]...), ""},
		{"no name", of(p256), nil, "for 0 DNS names"},
		{"too many names", of(p256, many...), nil, "for 17 DNS names"},
		{"an RSA key", of(rsaKey, "a.example"), nil, "P-256"},
		{"another curve", of(p384, "a.example"), nil, "P-256"},
		{"another's signature", spoiled, nil, "signed with its own key"},
		{"an address beside a name", requestFor(t, p256, x509.CertificateRequest{DNSNames: []string{"a.example"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}), nil, "something else"},
		{"a mailbox", requestFor(t, p256, x509.CertificateRequest{DNSNames: []string{"a.example"}, EmailAddresses: []string{"a@a.example"}}), nil, "something else"},
		{"a URI", requestFor(t, p256, x509.CertificateRequest{DNSNames: []string{"a.example"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "a.example"}}}), nil, "something else"},
		{"a name with an empty label", of(p256, "a..example"), nil, "not a host's"},
		{"a name with blanks", of(p256, "a b.example"), nil, "not a host's"},
		{"a name with a zero byte", of(p256, "a.example\x00.evil"), nil, "not a host's"},
		{"a star in the middle", of(p256, "a.*.example"), nil, "not a host's"},
		{"no request", []byte("sesame"), nil, "PKCS #10"},
		{"nothing", nil, nil, "PKCS #10"},
	} {
		got, err := parseCertificateRequest(c.der)
		switch {
		case c.says == "" && (err != nil || !slices.Equal(got.names, c.names) || !p256.PublicKey.Equal(got.key)):
			t.Errorf("%s: got %q, error %v", c.reason, got.names, err)
		case c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s: got error %v, want one with %q", c.reason, err, c.says)
		}
	}
}

func TestHostsCoverNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host, name string
		want       bool
	}{
		{"api.example.com", "api.example.com", true},
		{"api.example.com", "v1.api.example.com", false},
		{"api.example.com", "example.com", false},
		{"*.example.com", "api.example.com", true},
		{"*.example.com", "v1.api.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "badexample.com", false},
		{"*.example.com", "*.example.com", true},
		{"*.example.com", "*.api.example.com", false},
		{"api.example.com", "*.example.com", false},
	} {
		if got := covers(c.host, c.name); got != c.want {
			t.Errorf("%s covers %s: %v, want %v", c.host, c.name, got, c.want)
		}
	}
}

// onePod is a cache that knows one pod.
type onePod struct {
	cache.Cache
	pod *corev1.Pod
}

func (c onePod) Get(_ context.Context, key client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	if key != client.ObjectKeyFromObject(c.pod) {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
	}
	c.pod.DeepCopyInto(object.(*corev1.Pod))
	return nil
}

// noSecrets is an API server in which Secrets can be made and never read back.
type noSecrets struct{ client.Client }

func (noSecrets) Get(_ context.Context, key client.ObjectKey, _ client.Object, _ ...client.GetOption) error {
	return apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, key.Name)
}

func (noSecrets) Create(context.Context, client.Object, ...client.CreateOption) error { return nil }

// certifying is a link whose pod is selected by the policies named web.
type certifying struct {
	*httptest.Server
	server   *Server
	policies *counted
}

func newCertifying(t *testing.T, review authenticationv1.TokenReviewStatus, hosts ...string) *certifying {
	t.Helper()
	web, api := policyFor("web", "web"), policyFor("api", "api")
	for _, p := range []*v1alpha1.RateLimitPolicy{&web, &api} {
		p.Spec.Direction, p.Spec.TLS = v1alpha1.DirectionOutbound, v1alpha1.TLSIntercept
	}
	web.Spec.Hosts, api.Spec.Hosts = hosts, []string{"api.example"}
	passing := policyFor("passing", "web")
	passing.Spec.Direction, passing.Spec.Hosts = v1alpha1.DirectionOutbound, []string{"passing.example"}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-1", UID: "uid-1", Labels: map[string]string{"app": "web"}}}
	pod.Spec.InitContainers = []corev1.Container{{Name: v1alpha1.SidecarContainer}}
	c := &certifying{policies: &counted{policies: []v1alpha1.RateLimitPolicy{web, api, passing}}}
	var err error
	c.server, err = New(Options{
		Cache:            onePod{pod: pod},
		Reviewer:         &reviewer{status: review},
		Rulesets:         NewRulesets(c.policies, certs.NewAuthorities(certs.AuthoritiesOptions{Client: noSecrets{}, Namespace: "weir-system"})),
		Acknowledgements: NewAcknowledgements(), Registerer: prometheus.NewRegistry(), Logger: logr.Discard(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.Server = httptest.NewTLSServer(c.server.handler())
	t.Cleanup(c.Close)
	return c
}

// post sends a body to the path for certificates.
func (c *certifying) post(t *testing.T, body []byte) (status int, text []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL+ruleset.CertificatePath, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer t")
	response, err := c.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err = io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, text
}

func asking(t *testing.T, key crypto.Signer, names ...string) []byte {
	t.Helper()
	body, err := json.Marshal(ruleset.CertificateRequest{Request: requestFor(t, key, x509.CertificateRequest{DNSNames: names})})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestALeafIsSignedForWhatThePodIntercepts(t *testing.T) {
	t.Parallel()
	link := newCertifying(t, podToken(), "web.example", "*.web.example")
	key := newKey(t, elliptic.P256())
	status, text := link.post(t, asking(t, key, "web.example", "www.web.example"))
	var answer ruleset.Certificate
	if err := json.Unmarshal(text, &answer); err != nil || status != http.StatusOK {
		t.Fatalf("got %d %s", status, text)
	}
	block, _ := pem.Decode([]byte(answer.Chain))
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) || !slices.Equal(leaf.DNSNames, []string{"web.example", "www.web.example"}) || leaf.IsCA {
		t.Errorf("got a certificate for %q", leaf.DNSNames)
	}
	if got := testutil.ToFloat64(link.server.metrics.certificates); got != 1 {
		t.Errorf("weir_link_certificates_total is %v, want 1", got)
	}
}

func TestWhatALeafIsRefusedFor(t *testing.T) {
	t.Parallel()
	unbound := podToken()
	unbound.User.Extra = nil
	recreated := podToken()
	recreated.User.Extra[podUIDExtra] = authenticationv1.ExtraValue{"uid-0"}
	key := newKey(t, elliptic.P256())
	for _, c := range []struct {
		reason string
		review authenticationv1.TokenReviewStatus
		body   []byte
		status int
		says   string
	}{
		{"no valid token", authenticationv1.TokenReviewStatus{}, asking(t, key, "web.example"), 401, "token"},
		{"a token of no pod", unbound, asking(t, key, "web.example"), 403, "not bound to a pod"},
		{"a token of a pod that had the same name", recreated, asking(t, key, "web.example"), 403, "does not exist"},
		{"a name of no policy", podToken(), asking(t, key, "web.example", "bank.example"), 403, `"bank.example"`},
		{"a name of a policy that does not select the pod", podToken(), asking(t, key, "api.example"), 403, `"api.example"`},
		{"a name of a policy that does not intercept", podToken(), asking(t, key, "passing.example"), 403, `"passing.example"`},
		{"no JSON", podToken(), []byte("sesame"), 400, "JSON"},
		{"no request", podToken(), []byte("{}"), 400, "PKCS #10"},
		{"a body without end", podToken(), bytes.Repeat([]byte(" "), maxRequestBytes+1), 413, "larger"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			t.Parallel()
			link := newCertifying(t, c.review, "web.example")
			status, text := link.post(t, c.body)
			if status != c.status || !strings.Contains(string(text), c.says) {
				t.Errorf("got %d %s, want %d and %q", status, text, c.status, c.says)
			}
			if got := testutil.ToFloat64(link.server.metrics.certificates); got != 0 {
				t.Errorf("weir_link_certificates_total is %v, want 0", got)
			}
		})
	}
}

func TestAPolicyThatTheCacheLearnsOfALittleLaterCounts(t *testing.T) {
	t.Parallel()
	link := newCertifying(t, podToken(), "web.example")
	body := asking(t, newKey(t, elliptic.P256()), "late.example")
	answered := make(chan int, 1)
	go func() {
		status, _ := link.post(t, body)
		answered <- status
	}()
	edited := slices.Clone(link.policies.policies)
	edited[0].Spec.Hosts = []string{"late.example"}
	link.policies.mu.Lock()
	link.policies.policies = edited
	link.policies.mu.Unlock()
	link.server.options.Rulesets.touch("shop")
	if status := <-answered; status != http.StatusOK {
		t.Errorf("got %d, want the leaf", status)
	}
}

func TestAPodAsksSoOften(t *testing.T) {
	t.Parallel()
	a := newAllowance()
	for i := range leavesAtOnce {
		if !a.take("one") {
			t.Fatalf("request %d of a pod is refused, want %d at once", i+1, leavesAtOnce)
		}
	}
	refused := 0
	for range leavesAtOnce {
		if !a.take("one") {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no request is refused beyond what may come at once")
	}
	if !a.take("another") {
		t.Error("another pod is refused for what the first asked")
	}
}
