// Package e2e shows Weir's promises in a real cluster, with real pods: it
// wants a cluster in which Weir is installed (`make cluster deploy`), reached
// by KUBECONFIG, and on its nodes the image of test/e2e/app and the programs of
// `hack/packages.sh interop clients`.
package e2e

import (
	"context"
	"os"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	logf "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// systemNamespace is where Weir is installed.
const systemNamespace = "weir-system"

var (
	ctx     = context.Background()
	cluster client.Client
	// appImage is the image of test/e2e/app.
	appImage = fromEnv("E2E_APP_IMAGE", "weir-e2e-app:dev")
	// kubectl is the command that users have; what it prints is tested too.
	kubectl = fromEnv("KUBECTL", "kubectl")
)

func fromEnv(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	SetDefaultEventuallyTimeout(time.Minute)
	SetDefaultEventuallyPollingInterval(100 * time.Millisecond)
	RunSpecs(t, "Weir in a cluster")
}

var _ = BeforeSuite(func() {
	logf.SetLogger(GinkgoLogr)
	restConfig, err := config.GetConfig()
	Expect(err).NotTo(HaveOccurred(), "KUBECONFIG must name a cluster: see `make cluster`")
	scheme := runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())
	restConfig.QPS, restConfig.Burst = 100, 200
	cluster, err = client.New(restConfig, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
	waitForOperator()
})

// When a test fails, what the one who is paged would look at is printed.
var _ = JustAfterEach(func() {
	if !CurrentSpecReport().Failed() {
		return
	}
	for _, arguments := range [][]string{
		{"get", "rlpol,ptask,cronjobs,jobs,pods", "-A", "-o", "wide"},
		{"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"-n", systemNamespace, "logs", "-l", "app.kubernetes.io/name=weir-operator", "--tail=60", "--prefix"},
	} {
		output, err := tryKubectl(arguments...)
		AddReportEntry("kubectl "+arguments[0], output+errorText(err))
	}
	pods := &corev1.PodList{}
	if cluster.List(ctx, pods) != nil {
		return
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		logs := func(of, container string) {
			output, err := tryKubectl("-n", pod.Namespace, "logs", pod.Name, "-c", container, "--tail=40")
			AddReportEntry(of+" "+pod.Name, output+errorText(err))
		}
		if hasSidecar(pod) {
			logs("sidecar of", v1alpha1.SidecarContainer)
		}
		if pod.Labels[v1alpha1.LabelPeriodicTask] != "" {
			logs("PeriodicTask's pod", pod.Spec.Containers[0].Name)
		}
	}
})

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return "\n" + err.Error()
}

// newNamespace makes a namespace for one test; its pods get sidecars.
func newNamespace() string {
	GinkgoHelper()
	return makeNamespace(map[string]string{v1alpha1.LabelInject: v1alpha1.InjectNamespace})
}

func makeNamespace(labels map[string]string) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-", Labels: labels}}
	Expect(cluster.Create(ctx, namespace)).To(Succeed())
	DeferCleanup(func() {
		Expect(client.IgnoreNotFound(cluster.Delete(ctx, namespace))).To(Succeed())
	})
	return namespace.Name
}
