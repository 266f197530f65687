package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/test/child"
	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

const (
	root            = "../.."
	systemNamespace = "weir-system"
	// patience bounds every wait for something that takes a moment.
	patience = 30 * time.Second
)

// world is an installation: API server, Redis, operator, workers, and the page.
type world struct {
	t        *testing.T
	folder   string
	config   *rest.Config
	client   client.Client
	typed    *kubernetes.Clientset
	control  *envtest.Environment
	redis    *redistest.Server
	broker   *celery.Broker
	operator string // the binary
	worker   string
	page     string         // its address
	link     string         // the operator's address
	process  *child.Process // of the page
}

// newWorld starts what the page is about, and the page.
func newWorld(t *testing.T, flags ...string) *world {
	t.Helper()
	_, link, _ := net.SplitHostPort(port(t))
	w := &world{t: t, folder: t.TempDir(), redis: redistest.Start(t), link: "localhost:" + link}
	w.build()
	w.startControlPlane()
	must(t, os.WriteFile(w.file("redis"), []byte(w.redis.URL()), 0o600))
	var err error
	w.broker, err = celery.Open(w.redis.URL(), celery.Options{})
	must(t, err)
	t.Cleanup(func() { _ = w.broker.Close() })
	w.startPage(flags...)
	return w
}

func (w *world) file(name string) string { return filepath.Join(w.folder, name) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// built are the programs, once for all tests.
var built = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "weir-dashboard-")
	if err != nil {
		return "", err
	}
	for name, source := range map[string]string{"operator": ".", "worker": "./worker"} {
		command := exec.Command("go", "build", "-o", filepath.Join(folder, name), source)
		command.Dir = root
		if output, err := command.CombinedOutput(); err != nil {
			return folder, fmt.Errorf("building %s: %w\n%s", name, err, output)
		}
	}
	return folder, nil
})

func TestMain(m *testing.M) {
	logf.SetLogger(logr.Discard())
	code := m.Run()
	if folder, err := built(); err == nil {
		_ = os.RemoveAll(folder)
	}
	os.Exit(code)
}

func (w *world) build() {
	w.t.Helper()
	folder, err := built()
	must(w.t, err)
	w.operator, w.worker = filepath.Join(folder, "operator"), filepath.Join(folder, "worker")
}

func (w *world) startControlPlane() {
	w.t.Helper()
	w.control = &envtest.Environment{
		BinaryAssetsDirectory: os.Getenv("KUBEBUILDER_ASSETS"), CRDDirectoryPaths: []string{root + "/config/crd/bases"},
		ErrorIfCRDPathMissing: true, ControlPlaneStartTimeout: time.Minute,
	}
	var err error
	w.config, err = w.control.Start()
	must(w.t, err)
	w.t.Cleanup(func() { _ = w.control.Stop() }) // a test may have stopped it
	w.config.QPS = -1
	scheme := runtime.NewScheme()
	must(w.t, errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)))
	w.client, err = client.New(w.config, client.Options{Scheme: scheme})
	must(w.t, err)
	w.typed, err = kubernetes.NewForConfig(w.config)
	must(w.t, err)
	for _, file := range []string{
		"operator/namespace.yaml", "rbac/serviceaccount.yaml", "rbac/role.yaml", "rbac/leader_election.yaml", "rbac/bindings.yaml",
		"dashboard/rbac/serviceaccount.yaml", "dashboard/rbac/role.yaml", "webhook/mutatingwebhookconfiguration.yaml",
	} {
		text, err := os.ReadFile(root + "/config/" + file)
		must(w.t, err)
		w.apply(string(text))
	}
}

// apply creates the objects of a text.
func (w *world) apply(text string) {
	w.t.Helper()
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return
		}
		must(w.t, err)
		if object.Object != nil {
			must(w.t, w.client.Create(w.t.Context(), object))
		}
	}
}

// token of a service account.
func (w *world) token(namespace, name string) string {
	w.t.Helper()
	answer, err := w.typed.CoreV1().ServiceAccounts(namespace).CreateToken(w.t.Context(), name,
		&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(3600))}}, metav1.CreateOptions{})
	must(w.t, err)
	return answer.Status.Token
}

// kubeconfig of a service account.
func (w *world) kubeconfig(account string) string {
	w.t.Helper()
	content, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []any{map[string]any{"name": "test", "cluster": map[string]any{"server": w.config.Host, "certificate-authority-data": w.config.CAData}}},
		"users":    []any{map[string]any{"name": "test", "user": map[string]any{"token": w.token(systemNamespace, account)}}},
		"contexts": []any{map[string]any{"name": "test", "context": map[string]any{"cluster": "test", "user": "test"}}},
	})
	must(w.t, err)
	must(w.t, os.WriteFile(w.file(account), content, 0o600))
	return w.file(account)
}

// namespace makes one, and somebody in it who may use these verbs on resources of
// weir.dev ("" as the namespace: in all); it returns their token.
func (w *world) person(namespace, name string, everywhere bool, rules map[string][]string) string {
	w.t.Helper()
	ctx := w.t.Context()
	err := w.client.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	if client.IgnoreAlreadyExists(err) != nil {
		w.t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name}
	must(w.t, w.client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}))
	var policy []rbacv1.PolicyRule
	for resource, verbs := range rules {
		policy = append(policy, rbacv1.PolicyRule{APIGroups: []string{"weir.dev"}, Resources: []string{resource}, Verbs: verbs})
	}
	subjects := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: name}}
	if everywhere {
		meta.Namespace = ""
		must(w.t, w.client.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: policy}))
		must(w.t, w.client.Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name}}))
	} else {
		must(w.t, w.client.Create(ctx, &rbacv1.Role{ObjectMeta: meta, Rules: policy}))
		must(w.t, w.client.Create(ctx, &rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name}}))
	}
	return w.token(namespace, name)
}

// admin may everything that the page shows and does.
func (w *world) admin() string {
	return w.person("default", "admin-"+fmt.Sprint(time.Now().UnixNano()), true, map[string][]string{
		"ratelimitpolicies": {"get", "list"}, "ratelimitpolicies/status": {"get"}, "ratelimitpolicies/usage": {"get", "list"},
		"ratelimitpolicies/resets": {"create"}, "ratelimitpolicies/grants": {"create", "list", "delete"},
		"periodictasks": {"list"}, "periodictasks/runs": {"get", "create", "delete"},
	})
}

// run starts a program; its output is shown when the test fails.
func (w *world) run(name, program string, env []string, args ...string) *child.Process {
	w.t.Helper()
	var output lines
	command := exec.Command(program, args...)
	command.Env, command.Stdout, command.Stderr = append(os.Environ(), env...), &output, &output
	process, err := child.Start(command)
	must(w.t, err)
	w.t.Cleanup(func() {
		process.Kill()
		if w.t.Failed() {
			text := output.String()
			w.t.Logf("output of %s:\n%s", name, text[max(0, len(text)-4000):])
		}
	})
	return process
}

// lines is what a process has written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// port that is free.
func port(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer func() { _ = listener.Close() }()
	return listener.Addr().String()
}

func (w *world) startPage(flags ...string) {
	w.t.Helper()
	address, health := port(w.t), port(w.t)
	w.page = "http://" + address
	args := append([]string{
		"dashboard", "--address", address, "--health-address", health, "--metrics-address", "0",
		"--store-url-file", w.file("redis"), "--operator", w.link, "--zap-log-level", "error",
	}, flags...)
	w.process = w.run("the dashboard", w.operator, []string{"KUBECONFIG=" + w.kubeconfig("weir-dashboard")}, args...)
	eventually(w.t, "the page is served", func() bool {
		answer, err := http.Get("http://" + health + "/readyz")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
}

// startOperator has somebody write the status of policies and tasks.
func (w *world) startOperator() {
	w.t.Helper()
	_, webhook, _ := net.SplitHostPort(port(w.t))
	_, link, _ := net.SplitHostPort(w.link)
	w.run("the operator", w.operator,
		[]string{"KUBECONFIG=" + w.kubeconfig("weir-operator"), "POD_NAMESPACE=" + systemNamespace, "POD_SERVICE_ACCOUNT=weir-operator", "POD_IP=127.0.0.1"},
		"--webhook-port", webhook, "--link-port", link, "--link-address", w.link, "--metrics-address", "0", "--health-address", "0",
		"--store-url-file", w.file("redis"), "--leader-elect=false", "--zap-log-level", "error")
}

// startWorker on some queues.
func (w *world) startWorker(name, queues string, args ...string) *child.Process {
	w.t.Helper()
	return w.run("worker "+name, w.worker, []string{"CELERY_BROKER_URL=" + w.redis.URL()},
		append([]string{"run", "--metrics-address", "0", "--hostname", "weir@" + name, "--queues", queues}, args...)...)
}

// enqueue a call.
func (w *world) enqueue(calls ...celery.Signature) {
	w.t.Helper()
	must(w.t, w.broker.Enqueue(w.t.Context(), calls...))
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	eventuallyWithin(t, patience, what, is)
}

func eventuallyWithin(t testing.TB, limit time.Duration, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}
