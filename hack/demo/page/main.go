// Command page serves the page of make demo HOLD=1 until it is interrupted: the
// operator and the dashboard, as they run in a cluster, and an API server without
// one, with the demo's policies and task. Nobody makes Jobs or pods there.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weir-dev/weir/dashboard"
	"github.com/weir-dev/weir/test/child"
)

const (
	systemNamespace = "weir-system"
	visitor         = "visitor" // the service account to sign in as
	tokenLife       = 12 * time.Hour
	startTimeout    = time.Minute
)

// page is what is started.
type page struct {
	operator, namespace, samples, redis string
	folder                              string
	control                             *envtest.Environment
	running                             []*child.Process // the last first to end
}

func main() {
	var p page
	flag.StringVar(&p.operator, "operator", "", "the operator's program")
	flag.StringVar(&p.redis, "redis", "", "URL of the demo's Redis")
	flag.StringVar(&p.samples, "samples", "config/samples", "folder with the RateLimitPolicies and the PeriodicTask")
	flag.StringVar(&p.namespace, "namespace", "demo", "namespace that they are in")
	flag.Parse()
	log.SetLogger(logr.Discard())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := p.serve(ctx)
	if err = errors.Join(err, p.end()); err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// serve until ctx ends, or a program does.
func (p *page) serve(ctx context.Context) (err error) {
	if p.folder, err = os.MkdirTemp("", "weir-page-"); err != nil {
		return err
	}
	p.control = &envtest.Environment{CRDDirectoryPaths: []string{"config/crd/bases"}, ErrorIfCRDPathMissing: true, ControlPlaneStartTimeout: startTimeout}
	config, err := p.control.Start()
	if err != nil {
		return fmt.Errorf("starting an API server: %w", err)
	}
	api, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	token, err := p.fill(ctx, api)
	if err != nil {
		return err
	}
	address, err := p.start(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "\nThe page: http://%s\nSign in with this token, of a service account that may everything in namespace %s:\n\n%s\n\nCtrl-C ends all of it.\n", address, p.namespace, token)
	select {
	case <-ctx.Done():
		return nil
	case <-p.running[0].Done():
		return fmt.Errorf("the dashboard has ended: %w", errors.Join(p.running[0].Err()))
	case <-p.running[1].Done():
		return fmt.Errorf("the operator has ended: %w", errors.Join(p.running[1].Err()))
	}
}

// fill has the demo's objects in the API server, and returns the visitor's token.
func (p *page) fill(ctx context.Context, api client.Client) (token string, err error) {
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: visitor}}
	for _, object := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: systemNamespace}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: p.namespace}},
		account,
		&rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: visitor},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: p.namespace, Name: visitor}},
		},
	} {
		if err := api.Create(ctx, object); err != nil {
			return "", err
		}
	}
	files, err := filepath.Glob(filepath.Join(p.samples, "ratelimitpolicy_*.yaml"))
	if err != nil {
		return "", err
	}
	// By the webhook's authorities the page verifies the operator; nobody makes pods.
	const webhook = "config/webhook/mutatingwebhookconfiguration.yaml"
	for _, file := range append(files, filepath.Join(p.samples, "periodictask_sentiment.yaml"), webhook) {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		object := &unstructured.Unstructured{}
		if err := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096).Decode(object); err != nil {
			return "", fmt.Errorf("reading %s: %w", file, err)
		}
		if file != webhook {
			object.SetNamespace(p.namespace)
		}
		unstructured.RemoveNestedField(object.Object, "spec", "worker") // the demo has one
		if err := api.Create(ctx, object); err != nil {
			return "", err
		}
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(tokenLife.Seconds()))}}
	err = api.SubResource("token").Create(ctx, account, request)
	return request.Status.Token, err
}

// start the operator and the dashboard, and wait until there is the page.
func (p *page) start(ctx context.Context) (address string, err error) {
	redis, kubeconfig := filepath.Join(p.folder, "redis"), filepath.Join(p.folder, "kubeconfig")
	if err := errors.Join(os.WriteFile(redis, []byte(p.redis), 0o600), os.WriteFile(kubeconfig, p.control.KubeConfig, 0o600)); err != nil {
		return "", err
	}
	var free [3]string
	for i, wanted := range []string{"127.0.0.1" + dashboard.DefaultAddress, "127.0.0.1:0", "127.0.0.1:0"} {
		if free[i], err = freeAddress(wanted); err != nil {
			return "", err
		}
	}
	address = free[0]
	_, webhook, _ := net.SplitHostPort(free[1])
	_, link, _ := net.SplitHostPort(free[2])
	common := []string{"--store-url-file", redis, "--metrics-address", "0", "--health-address", "0", "--zap-log-level", "error"}
	for _, args := range [][]string{
		append([]string{"--listen-host", "127.0.0.1", "--webhook-port", webhook, "--link-port", link, "--link-address", "localhost:" + link, "--leader-elect=false"}, common...),
		append([]string{"dashboard", "--address", address, "--operator", "localhost:" + link}, common...),
	} {
		command := exec.Command(p.operator, args...)
		command.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "POD_NAMESPACE="+systemNamespace, "POD_SERVICE_ACCOUNT=weir-operator", "POD_IP=127.0.0.1")
		command.Stdout, command.Stderr = os.Stderr, os.Stderr
		process, err := child.Start(command)
		if err != nil {
			return "", err
		}
		p.running = append([]*child.Process{process}, p.running...)
	}
	return address, p.await(ctx, "http://"+address)
}

// freeAddress is the wanted one, or one of the kernel's where somebody has that.
func freeAddress(wanted string) (string, error) {
	listener, err := net.Listen("tcp", wanted)
	if err != nil {
		if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return "", err
		}
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().String(), nil
}

// await the page's first answer.
func (p *page) await(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/limits", nil)
		if err != nil {
			return err
		}
		if answer, err := http.DefaultClient.Do(request); err == nil {
			_, _ = io.Copy(io.Discard, answer.Body)
			return answer.Body.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the dashboard does not answer: %w", ctx.Err())
		case <-p.running[0].Done():
			return fmt.Errorf("the dashboard has ended: %w", errors.Join(p.running[0].Err()))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// end what was started.
func (p *page) end() error {
	for _, process := range p.running {
		_ = process.Signal(syscall.SIGTERM) // an error says that it has ended
		<-process.Done()
	}
	var err error
	if p.control != nil {
		err = p.control.Stop()
	}
	return errors.Join(err, os.RemoveAll(p.folder))
}
