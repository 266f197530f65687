package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/usage"
)

var update = flag.Bool("update", false, "write the golden files anew")

// noon is the time of all tests.
var noon = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

const token = "a-token"

// fixture is a file of objects as JSON.
func fixture(path string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join("testdata", path))
	if err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(text)
}

// kubernetes answers from testdata/kubernetes, and keeps what was created.
type kubernetes struct {
	t       *testing.T
	created []map[string]any
}

func (k *kubernetes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if log, err := os.ReadFile(filepath.Join("testdata", "kubernetes", r.URL.Path+".txt")); err == nil {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = w.Write(log)
		return
	}
	if r.Method == http.MethodPost {
		var object map[string]any
		if err := json.NewDecoder(r.Body).Decode(&object); err != nil {
			k.t.Error(err)
		}
		k.created = append(k.created, object)
		metadata := object["metadata"].(map[string]any)
		metadata["name"] = metadata["generateName"].(string) + "x7k2p"
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(object)
		return
	}
	text, err := fixture("kubernetes" + r.URL.Path + ".yaml")
	if err != nil {
		text, err = item("kubernetes" + r.URL.Path)
	}
	if err != nil {
		status := apierrors.NewNotFound(schema.GroupResource{Resource: filepath.Base(filepath.Dir(r.URL.Path))}, filepath.Base(r.URL.Path)).Status()
		if strings.HasPrefix(filepath.Base(r.URL.Path), "forbidden") {
			status = apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, filepath.Base(r.URL.Path), fmt.Errorf("carol may not")).Status()
		}
		status.APIVersion, status.Kind = "v1", "Status"
		w.WriteHeader(int(status.Code))
		_ = json.NewEncoder(w).Encode(status)
		return
	}
	_, _ = w.Write(selected(text, r.URL.Query().Get("labelSelector")))
}

// item of a list, which has no file of its own.
func item(path string) ([]byte, error) {
	text, err := fixture(filepath.Dir(path) + ".yaml")
	if err != nil {
		return nil, err
	}
	var list struct {
		APIVersion string           `json:"apiVersion"`
		Kind       string           `json:"kind"`
		Items      []map[string]any `json:"items"`
	}
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	for _, object := range list.Items {
		if object["metadata"].(map[string]any)["name"] == filepath.Base(path) {
			object["apiVersion"], object["kind"] = list.APIVersion, strings.TrimSuffix(list.Kind, "List")
			return json.Marshal(object)
		}
	}
	return nil, os.ErrNotExist
}

// selected leaves in a list what a selector selects.
func selected(list []byte, selector string) []byte {
	wanted, err := labels.Parse(selector)
	if err != nil || selector == "" {
		return list
	}
	var decoded map[string]any
	if json.Unmarshal(list, &decoded) != nil {
		return list
	}
	items, _ := decoded["items"].([]any)
	decoded["items"] = slices.DeleteFunc(items, func(object any) bool {
		has := labels.Set{}
		of, _ := object.(map[string]any)["metadata"].(map[string]any)["labels"].(map[string]any)
		for name, value := range of {
			has[name] = value.(string)
		}
		return !wanted.Matches(has)
	})
	left, _ := json.Marshal(decoded)
	return left
}

// api is the operator's, answering from testdata/operator those who have the token.
type api struct{ asked []string }

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.asked = append(a.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	problem := usage.Problem{Title: "Unauthorized", Status: http.StatusUnauthorized, Detail: "A bearer token is required."}
	if r.Header.Get("Authorization") == "Bearer "+token {
		text, err := fixture("operator" + r.URL.Path + "." + strings.ToLower(r.Method) + ".yaml")
		if err != nil {
			text, err = fixture("operator" + r.URL.Path + ".yaml")
		}
		if err == nil && r.URL.Query().Get("namespace") == "empty" {
			text = []byte(`{"policies":[]}`)
		}
		if err == nil {
			_, _ = w.Write(text)
			return
		}
		problem = usage.Problem{Title: "Not Found", Status: http.StatusNotFound, Detail: "There is no such thing here."}
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(problem.Status)
	_ = json.NewEncoder(w).Encode(problem)
}

// stage is a cluster of fixtures.
type stage struct {
	t          *testing.T
	kubernetes *kubernetes
	api        *api
	token      string
	cluster    func(*flags) (*cluster, error)
}

func newStage(t *testing.T) *stage {
	s := &stage{t: t, kubernetes: &kubernetes{t: t}, api: &api{}, token: token}
	objects, operatorServer := httptest.NewServer(s.kubernetes), httptest.NewTLSServer(s.api)
	t.Cleanup(objects.Close)
	t.Cleanup(operatorServer.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: operatorServer.Certificate().Raw})
	s.cluster = func(f *flags) (*cluster, error) {
		config := &rest.Config{Host: objects.URL, BearerToken: s.token, ContentConfig: rest.ContentConfig{ContentType: "application/json"}}
		namespace := "shop"
		if f.overrides.Context.Namespace != "" {
			namespace = f.overrides.Context.Namespace
		}
		c, err := newCluster(config, namespace, f.operatorNamespace)
		if err != nil {
			return nil, err
		}
		c.reach = func(context.Context) (*operator, error) {
			return connect(config, operatorServer.URL, "example.com", authority)
		}
		return c, nil
	}
	return s
}

// run is what a command line prints, and its error as main prints it.
func (s *stage) run(line ...string) string {
	var out, errOut bytes.Buffer
	p := &plugin{out: &out, errOut: &errOut, now: func() time.Time { return noon }, open: s.cluster}
	command := p.command()
	command.SetArgs(line)
	if err := command.ExecuteContext(s.t.Context()); err != nil {
		fmt.Fprintln(&errOut, "kubectl weir:", advise(err))
	}
	return out.String() + errOut.String()
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, line := range map[string]string{
		"status":               "status",
		"status-empty":         "status -n empty",
		"status-json":          "status -o json",
		"status-all":           "status -A",
		"top":                  "top",
		"top-callers":          "top api",
		"top-callers-yaml":     "top api -o yaml",
		"top-nobody":           "top reports",
		"top-unknown":          "top steam",
		"top-none":             "top api -n empty",
		"explain":              "explain web-1",
		"explain-json":         "explain pod/web-1 -o json",
		"explain-proxied":      "explain proxied-1",
		"explain-bare":         "explain old-1",
		"explain-gone":         "explain gone-1",
		"explain-forbidden":    "explain forbidden-1",
		"check":                "check api --as user_42",
		"check-by-service":     "check openai-chat --as user_42",
		"check-nobody":         "check api",
		"check-json":           "check api --as user_42 -o json",
		"reset":                "reset api --as user_42",
		"grant":                "grant api --as user_42 --requests 50 --for 2h --reason ticket",
		"grant-end":            "grant api --as user_42 --end",
		"grant-list":           "grant api",
		"grant-none":           "grant reports",
		"grant-incomplete":     "grant api --as user_42 --requests 50",
		"tasks":                "tasks",
		"tasks-none":           "tasks -n empty",
		"tasks-json":           "tasks -o json",
		"run":                  "run mail",
		"run-not-accepted":     "run wrong",
		"run-not-a-task":       "run other",
		"run-unknown":          "run none",
		"logs":                 "logs mail",
		"logs-no-workers":      "logs nightly",
		"dead-no-workers":      "dead list nightly",
		"dead-retry-what":      "dead retry mail",
		"dashboard-none":       "dashboard",
		"output-unknown":       "status -o table",
		"help":                 "--help",
		"completion-of-output": "__complete status -o ",
		"completion-of-names":  "__complete ta",
		"completion-services":  "__complete check ",
		"completion-tasks":     "__complete logs m",
		"completion-pods":      "__complete explain ",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := newStage(t).run(strings.Split(line, " ")...)
			path := filepath.Join("testdata", "golden", name+".txt")
			got = "$ kubectl weir " + line + "\n" + got
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if difference := cmp.Diff(string(want), got); difference != "" {
				t.Errorf("it prints otherwise (-want +got), go test ./kubectl-weir -update writes it anew:\n%s", difference)
			}
		})
	}
}

// Fixtures are objects of the types that they stand for.
func TestFixturesAreReal(t *testing.T) {
	t.Parallel()
	for pattern, of := range map[string]any{
		"kubernetes/apis/weir.dev/v1alpha1/namespaces/*/ratelimitpolicies.yaml": v1alpha1.RateLimitPolicyList{},
		"kubernetes/apis/weir.dev/v1alpha1/namespaces/*/periodictasks.yaml":     v1alpha1.PeriodicTaskList{},
		"kubernetes/apis/batch/v1/namespaces/*/cronjobs/*.yaml":                 batchv1.CronJob{},
		"kubernetes/api/v1/namespaces/*.yaml":                                   corev1.Namespace{},
		"kubernetes/api/v1/namespaces/*/pods.yaml":                              corev1.PodList{},
		"kubernetes/api/v1/namespaces/*/pods/*.yaml":                            corev1.Pod{},
		"operator/v1/policies.yaml":                                             usage.Policies{},
		"operator/v1/policies/*/*/callers.yaml":                                 usage.Callers{},
		"operator/v1/policies/*/*/usage.yaml":                                   usage.Usage{},
		"operator/v1/policies/*/*/resets.yaml":                                  usage.Usage{},
		"operator/v1/policies/*/*/grants.yaml":                                  usage.Grants{},
		"operator/v1/policies/*/*/grants.post.yaml":                             usage.Grant{},
	} {
		files, err := filepath.Glob("testdata/" + pattern)
		if err != nil || len(files) == 0 {
			t.Errorf("%s: no files, error %v", pattern, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := yaml.UnmarshalStrict(text, reflect.New(reflect.TypeOf(of)).Interface()); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
}

// What is asked of the operator is what was said.
func TestRequests(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"status":                  "GET /v1/policies?limit=500&namespace=shop",
		"status -A":               "GET /v1/policies?limit=500",
		"top api --limit 3":       "GET /v1/policies/shop/api/callers?limit=3",
		"check openai-chat --as ": "GET /v1/policies/shop/openai/usage?identity=",
		"check api --as a&b=c/ü":  "GET /v1/policies/shop/api/usage?identity=a%26b%3Dc%2F%C3%BC",
		"reset api --as u":        `POST /v1/policies/shop/api/resets {"identity":"u"}`,
		"grant api --as u --requests 5 --for 90m --reason r": `POST /v1/policies/shop/api/grants {"identity":"u","requests":5,"for":"1h30m0s","reason":"r"}`,
		"grant api --as u --end":                             "DELETE /v1/policies/shop/api/grants?identity=u",
	} {
		s := newStage(t)
		s.run(strings.Split(line, " ")...)
		if !slices.Equal(s.api.asked, []string{want}) {
			t.Errorf("%s: asked %q, want %q", line, s.api.asked, want)
		}
	}
}

// A run is a Job as the CronJob makes them, which goes with it.
func TestRunMakesAJobOfTheCronJobs(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.run("run", "mail")
	if len(s.kubernetes.created) != 1 {
		t.Fatalf("%d objects were created", len(s.kubernetes.created))
	}
	text, _ := json.Marshal(s.kubernetes.created[0])
	var job batchv1.Job
	if err := yaml.UnmarshalStrict(text, &job); err != nil {
		t.Fatal(err)
	}
	if owner := metav1.GetControllerOf(&job); owner == nil || owner.Kind != "CronJob" || owner.Name != "mail" || owner.BlockOwnerDeletion != nil {
		t.Errorf("its owner is %+v", owner)
	}
	if job.Labels[v1alpha1.LabelPeriodicTask] != "mail" || job.Annotations["cronjob.kubernetes.io/instantiate"] != "manual" || job.GenerateName != "mail-now-" {
		t.Errorf("it is %+v", job.ObjectMeta)
	}
	if args := job.Spec.Template.Spec.Containers[0].Args; !slices.Contains(args, "--task=send_mail") {
		t.Errorf("it enqueues %q", args)
	}
}

// Without a token that counts there is advice, not an answer.
func TestWithoutATokenThereIsAdvice(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.token = "another"
	if got := s.run("status"); !strings.Contains(got, "A bearer token is required.") || !strings.Contains(got, "kubectl auth whoami") {
		t.Errorf("it prints %q", got)
	}
}

// The operator is verified, whatever the kubeconfig says of the API server.
func TestTheOperatorIsVerified(t *testing.T) {
	t.Parallel()
	server := httptest.NewTLSServer(&api{})
	t.Cleanup(server.Close)
	authority := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	for _, test := range []struct {
		reason, name string
		authority    []byte
		insecure     bool
		good         bool
	}{
		{"as it is", "example.com", authority, false, true},
		{"of another name", "weir-link.weir-system.svc", authority, false, false},
		{"by another authority", "example.com", strange(t), false, false},
		{"where the kubeconfig verifies nothing", "example.com", strange(t), true, false},
	} {
		config := &rest.Config{Host: "https://unused", BearerToken: token, TLSClientConfig: rest.TLSClientConfig{Insecure: test.insecure}}
		to, err := connect(config, server.URL, test.name, test.authority)
		if err != nil {
			t.Fatalf("%s: %v", test.reason, err)
		}
		_, err = to.policies(t.Context(), "")
		if (err == nil) != test.good {
			t.Errorf("%s: error %v, want an answer %v", test.reason, err, test.good)
		}
	}
}

// Who acts as another is not answered as themselves.
func TestNobodyIsImpersonated(t *testing.T) {
	t.Parallel()
	config := &rest.Config{Host: "https://unused", BearerToken: token, Impersonate: rest.ImpersonationConfig{UserName: "reader"}}
	if _, err := connect(config, "https://unused", "example.com", strange(t)); err == nil || !strings.Contains(err.Error(), "acts as reader") {
		t.Errorf("error %v", err)
	}
}

// What is shown again and again outlives the operator's pod, whose port it was.
func TestTheOperatorIsReachedAnew(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	c, err := s.cluster(&flags{})
	if err != nil {
		t.Fatal(err)
	}
	ended := httptest.NewServer(s.api)
	ended.Close()
	var reaching []context.Context
	running := c.reach
	c.reach = func(ctx context.Context) (*operator, error) {
		if reaching = append(reaching, ctx); len(reaching) == 1 {
			return &operator{ended.Client(), ended.URL}, nil
		}
		return running(ctx)
	}
	operators := &reached{cluster: c}
	asking := func(path string) error {
		return operators.ask(t.Context(), func(o *operator) error {
			return o.ask(t.Context(), http.MethodGet, path, nil, &usage.Policies{})
		})
	}
	if err := asking("/v1/policies"); err == nil || reaching[0].Err() == nil {
		t.Errorf("one that has ended: error %v, and its port is forwarded on", err)
	}
	for path, good := range map[string]bool{"/v1/policies": true, "/v1/nothing": false} {
		if err := asking(path); (err == nil) != good {
			t.Errorf("%s: error %v", path, err)
		}
	}
	if len(reaching) != 2 || reaching[1].Err() != nil {
		t.Errorf("it was reached %d times, want anew once, which an answer keeps", len(reaching))
	}
}

// strange is an authority that signed nothing here.
func strange(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw})
}

func TestNamesAreShownAsText(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"user_42": "user_42", "": "(unnamed)", "Jörg Müller": "Jörg Müller", "(unnamed)": `"(unnamed)"`, `"`: `"\""`,
		"a\x1b[31mb": `"a\x1b[31mb"`, "a\nb": `"a\nb"`, "a\u202eb": `"a\u202eb"`, "a\u200bb": `"a\u200bb"`, "\xff": `"\xff"`, " a": `" a"`,
	} {
		if got := shown(name); got != want {
			t.Errorf("%q is shown as %s, want %s", name, got, want)
		}
	}
}

// Whoever may write a task's schedule, or a grant's reason, writes nothing that the
// terminal of who looks obeys.
func TestNothingIsObeyedByTheTerminal(t *testing.T) {
	t.Parallel()
	const hostile, harmless = "a\x1b[2J\x9b1m\tb\nc\r\u202ed", `a\x1b[2J` + "\ufffd" + `1m\tb\nc\r\u202ed`
	var out bytes.Buffer
	p := &plugin{out: &out}
	if err := p.print(nil, func(table *table) {
		table.row("one", hostile)
		table.say("%s\n%d", hostile, 2)
	}); err != nil {
		t.Fatal(err)
	}
	if want := "one   " + harmless + "\n" + harmless + "\n2\n"; out.String() != want {
		t.Errorf("it prints %q, want %q", out.String(), want)
	}
	if got, want := advise(errors.New("it is not accepted: \x1b[2J\nand a line")), "it is not accepted: \\x1b[2J\nand a line"; got != want {
		t.Errorf("an error is told as %q, want %q", got, want)
	}
}

func TestTimesAreShort(t *testing.T) {
	t.Parallel()
	for seconds, want := range map[float64]string{0.04: "100ms", 1.2: "1.2s", 11.732: "12s", 75.4: "1m15s", 120: "2m", 3600: "1h", 5400: "1h30m", 3605: "1h0m5s"} {
		if got := span(seconds); got != want {
			t.Errorf("%v s are shown as %s, want %s", seconds, got, want)
		}
	}
	if got := slices.Sorted(maps.Keys(workersOf("mail"))); len(got) != 2 {
		t.Errorf("workers are selected by %q", got)
	}
}
