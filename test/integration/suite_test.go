// Package integration holds the operator against a real kube-apiserver and
// etcd. No kubelet runs: pods are objects, and tests play the sidecars with
// real tokens over real TLS.
package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// What every file of the suite uses.
var (
	// ctx ends with the suite.
	ctx context.Context
	// environment is the API server.
	environment *envtest.Environment
	// cfg reaches the API server as an administrator.
	cfg *rest.Config
	// scheme knows Kubernetes' own types and ours.
	scheme *runtime.Scheme
	// k8sClient reads and writes directly, without a cache.
	k8sClient client.WithWatch
)

func TestIntegration(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Operator against a real API server")
}

var _ = BeforeSuite(func() {
	logf.SetLogger(zap.New(zap.WriteTo(GinkgoWriter), zap.UseDevMode(true)))
	SetDefaultEventuallyTimeout(10 * time.Second)
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	SetDefaultConsistentlyDuration(500 * time.Millisecond)

	var cancel context.CancelFunc
	ctx, cancel = context.WithCancel(context.Background())
	scheme = runtime.NewScheme()
	Expect(clientgoscheme.AddToScheme(scheme)).To(Succeed())
	Expect(v1alpha1.AddToScheme(scheme)).To(Succeed())

	environment = &envtest.Environment{
		Scheme:                   scheme,
		BinaryAssetsDirectory:    apiserverBinaries(),
		CRDDirectoryPaths:        []string{filepath.Join("..", "..", "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: time.Minute,
	}
	// As in a cluster: the plugin that mounts tokens, which envtest turns off.
	environment.ControlPlane.GetAPIServer().Configure().Disable("disable-admission-plugins")
	var err error
	cfg, err = environment.Start()
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		cancel()
		Expect(environment.Stop()).To(Succeed())
	})
	k8sClient, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	Expect(err).NotTo(HaveOccurred())
})

// apiserverBinaries is KUBEBUILDER_ASSETS, or the folder that the repository's
// own build fills: quick when it was built before.
func apiserverBinaries() string {
	GinkgoHelper()
	folder, err := findBinaries(GinkgoWriter)
	Expect(err).NotTo(HaveOccurred(), "building kube-apiserver and etcd")
	return folder
}

func findBinaries(progress io.Writer) (string, error) {
	if folder := os.Getenv("KUBEBUILDER_ASSETS"); folder != "" {
		return folder, nil
	}
	build := exec.Command(filepath.Join("..", "..", "hack", "cluster", "kubernetes", "build.sh"), "apiserver")
	build.Stderr = progress
	output, err := build.Output()
	return strings.TrimSpace(string(output)), err
}

// newNamespace makes a namespace of the test's own, with the service account
// that its pods run as (no controller manager makes it here). It stays: without
// a controller manager nothing would empty it.
func newNamespace(labels map[string]string) string {
	GinkgoHelper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels}}
	Expect(k8sClient.Create(ctx, namespace)).To(Succeed())
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace.Name, Name: "default"}}
	Expect(k8sClient.Create(ctx, account)).To(Succeed())
	return namespace.Name
}

var _ = Describe("the suite", func() {
	It("serves the RateLimitPolicy resource", func() {
		list := &v1alpha1.RateLimitPolicyList{}
		Expect(k8sClient.List(ctx, list, client.InNamespace(newNamespace(nil)))).To(Succeed())
		Expect(list.Items).To(BeEmpty(), fmt.Sprintf("found %d policies in a fresh namespace", len(list.Items)))
	})
})
