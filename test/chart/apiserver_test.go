package chart

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// TestTheAPIServerTakesEverything renders the chart with everything on, and
// holds each object to the schemas of the API server (and of prometheus-operator
// in it), with kubeconform and with a dry run.
func TestTheAPIServerTakesEverything(t *testing.T) {
	server := startAPIServer(t)
	schemas := writeSchemas(t, server)
	rendered := render(t, everything()...)
	t.Run("schemas", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "rendered.yaml")
		if err := os.WriteFile(path, []byte(rendered), 0o600); err != nil {
			t.Fatal(err)
		}
		output, err := try(t, tool(t, "kubeconform"), "-strict", "-summary", "-schema-location", schemas, path)
		if err != nil || !strings.Contains(output, "Skipped: 0") {
			t.Fatalf("want every object valid and none skipped: %v\n%s", err, output)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		warned := &warnings{}
		server := rest.CopyConfig(server)
		server.WarningHandler = warned
		c, err := client.New(server, client.Options{})
		if err != nil {
			t.Fatal(err)
		}
		strict := client.WithFieldValidation(c, metav1.FieldValidationStrict)
		for name, object := range objects(t, rendered) {
			if err := strict.Create(t.Context(), object, client.DryRunAll); err != nil {
				t.Errorf("%s is refused: %v", name, err)
			}
		}
		// Above all of PodSecurity, which refuses pods, but only warns of what makes them.
		if len(warned.texts) > 0 {
			t.Errorf("the API server warns: %s", strings.Join(warned.texts, "\n"))
		}
	})
	t.Run("a mistake is found", func(t *testing.T) {
		wrong := strings.Replace(rendered, "readinessProbe:", "readynessProbe:", 1)
		path := filepath.Join(t.TempDir(), "wrong.yaml")
		if err := os.WriteFile(path, []byte(wrong), 0o600); err != nil {
			t.Fatal(err)
		}
		if output, err := try(t, tool(t, "kubeconform"), "-strict", "-schema-location", schemas, path); err == nil || !strings.Contains(output, "readynessProbe") {
			t.Fatalf("want the misspelt field named, got %v\n%s", err, output)
		}
	})
}

type warnings struct{ texts []string }

func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.texts = append(w.texts, text)
}

// startAPIServer has the release's namespace, which enforces PodSecurity
// restricted, and the CRDs of monitors and of cert-manager.
func startAPIServer(t *testing.T) *rest.Config {
	t.Helper()
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		t.Fatal("KUBEBUILDER_ASSETS names no kube-apiserver: run make test-chart")
	}
	var crds []string
	for _, kind := range []string{"servicemonitors", "podmonitors", "prometheusrules"} {
		crds = append(crds, filepath.Join(tool(t, "monitoring-crds"), "monitoring.coreos.com_"+kind+".yaml"))
	}
	for _, kind := range []string{"certificates", "issuers"} {
		crds = append(crds, filepath.Join(tool(t, "cert-manager-crds"), "cert-manager.io_"+kind+".yaml"))
	}
	environment := &envtest.Environment{CRDDirectoryPaths: crds, ErrorIfCRDPathMissing: true, ControlPlaneStartTimeout: time.Minute}
	server, err := environment.Start()
	if err != nil {
		t.Fatalf("starting the API server: %v", err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	clients, err := kubernetes.NewForConfig(server)
	if err != nil {
		t.Fatal(err)
	}
	_, err = clients.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: namespace,
		Labels: map[string]string{
			"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted",
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Without a controller manager nobody makes the one that pods run as.
	if _, err = clients.CoreV1().ServiceAccounts(namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return server
}
