package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// kubelet is an API server with one, as far as streams go: it forwards ports to
// addresses, and runs commands by printing them.
type kubelet struct {
	t         *testing.T
	objects   map[string]any    // by path
	addresses map[string]string // by port
	ran       chan url.Values
}

func (k *kubelet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/portforward"), strings.HasSuffix(r.URL.Path, "/exec"):
		if r.Header.Get("Upgrade") == "websocket" { // as API servers before 1.31
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		k.stream(w, r)
	case k.objects[r.URL.Path] != nil:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(k.objects[r.URL.Path])
	default:
		http.NotFound(w, r)
	}
}

func (k *kubelet) stream(w http.ResponseWriter, r *http.Request) {
	forwards := strings.HasSuffix(r.URL.Path, "/portforward")
	protocol := "v4.channel.k8s.io"
	if forwards {
		protocol = "portforward.k8s.io"
	}
	if _, err := httpstream.Handshake(r, w, []string{protocol}); err != nil {
		k.t.Error(err)
		return
	}
	streams := make(chan httpstream.Stream, 8)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if conn == nil {
		return
	}
	defer func() { _ = conn.Close() }()
	if !forwards {
		k.execute(r.URL.Query(), streams)
		<-conn.CloseChan() // the client has read all
		return
	}
	for {
		select {
		case <-conn.CloseChan():
			return
		case stream := <-streams:
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeData {
				go k.forward(stream)
			} else {
				_ = stream.Close() // no error
			}
		}
	}
}

func (k *kubelet) forward(stream httpstream.Stream) {
	to, err := net.Dial("tcp", k.addresses[stream.Headers().Get(corev1.PortHeader)])
	if err != nil {
		k.t.Error(err)
		return
	}
	go func() { _, _ = io.Copy(to, stream); _ = to.Close() }()
	_, _ = io.Copy(stream, to)
	_ = stream.Close()
}

func (k *kubelet) execute(query url.Values, streams chan httpstream.Stream) {
	byType := map[string]httpstream.Stream{}
	for range 3 {
		stream := <-streams
		byType[stream.Headers().Get(corev1.StreamType)] = stream
	}
	k.ran <- query
	fmt.Fprintf(byType[corev1.StreamTypeStdout], "%s\n", strings.Join(query["command"], " "))
	_ = json.NewEncoder(byType[corev1.StreamTypeError]).Encode(metav1.Status{Status: metav1.StatusSuccess})
	for _, stream := range byType {
		_ = stream.Close()
	}
}

// serving is a certificate for a name, and its authority.
func serving(t *testing.T, name string) (tls.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func readyPod(namespace, name string, labels map[string]string) corev1.Pod {
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: labels},
		Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
	}
}

// newKubelet has an operator, a page and a worker.
func newKubelet(t *testing.T) (*kubelet, func(*flags) (*cluster, error)) {
	certificate, authority := serving(t, "weir-link.weir-system.svc")
	link := httptest.NewUnstartedServer(&api{})
	link.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS13}
	link.StartTLS()
	t.Cleanup(link.Close)
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the page") }))
	t.Cleanup(page.Close)
	dashboard := map[string]string{labelApp: dashboardService}
	k := &kubelet{t: t, ran: make(chan url.Values, 1), addresses: map[string]string{
		"9444": link.Listener.Addr().String(), "5555": page.Listener.Addr().String(),
	}, objects: map[string]any{
		"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weir": admissionv1.MutatingWebhookConfiguration{
			Webhooks: []admissionv1.MutatingWebhook{{ClientConfig: admissionv1.WebhookClientConfig{CABundle: authority}}},
		},
		"/api/v1/namespaces/weir-system/pods": corev1.PodList{Items: []corev1.Pod{readyPod("weir-system", "one-0", dashboard)}}, // of any label
		"/api/v1/namespaces/shop/pods":        corev1.PodList{Items: []corev1.Pod{readyPod("shop", "mail-1", workersOf("mail"))}},
		"/api/v1/namespaces/weir-system/services/weir-dashboard": corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "weir-system"}, Spec: corev1.ServiceSpec{Selector: dashboard},
		},
	}}
	task, err := item("kubernetes/apis/weir.dev/v1alpha1/namespaces/shop/periodictasks/mail")
	if err != nil {
		t.Fatal(err)
	}
	k.objects["/apis/weir.dev/v1alpha1/namespaces/shop/periodictasks/mail"] = json.RawMessage(task)
	server := httptest.NewServer(k)
	t.Cleanup(server.Close)
	return k, func(f *flags) (*cluster, error) {
		config := &rest.Config{Host: server.URL, BearerToken: token, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
		return newCluster(config, "shop", f.operatorNamespace)
	}
}

// The operator is reached, and known by its webhook's authority, through a forwarded
// port.
func TestTheOperatorIsReachedThroughAForwardedPort(t *testing.T) {
	t.Parallel()
	_, open := newKubelet(t)
	s := &stage{t: t, cluster: open}
	if got, want := s.run("status"), "openai-chat"; !strings.Contains(got, want) {
		t.Errorf("it prints %q, want %q in it", got, want)
	}
}

func TestDeadLettersAreAskedOfAWorker(t *testing.T) {
	t.Parallel()
	k, open := newKubelet(t)
	s := &stage{t: t, cluster: open}
	for line, want := range map[string]string{
		"dead list mail":           "/worker dead list --queue shop-mail --limit 50",
		"dead list mail -o json":   "/worker dead list --queue shop-mail --limit 50 --json",
		"dead retry mail --all":    "/worker dead retry --queue shop-mail --all",
		"dead retry mail --id a,b": "/worker dead retry --queue shop-mail --id a,b",
	} {
		if got := s.run(strings.Split(line, " ")...); got != want+"\n" {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
		if ran := <-k.ran; ran.Get("container") != workerContainer {
			t.Errorf("%s: ran in %v", line, ran)
		}
	}
}

func TestDashboardIsForwarded(t *testing.T) {
	t.Parallel()
	_, open := newKubelet(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	said, out := io.Pipe()
	p := &plugin{out: out, errOut: io.Discard, now: time.Now, open: open}
	command := p.command()
	command.SetArgs([]string{"dashboard", "--port", "0"})
	ended := make(chan error, 1)
	go func() { ended <- command.ExecuteContext(ctx) }()
	line := make([]byte, 200)
	n, err := said.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	address, _, _ := bytes.Cut(line[:n], []byte(" "))
	response, err := http.Get(string(address))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if string(body) != "the page" {
		t.Errorf("%s answers %q", address, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
}
