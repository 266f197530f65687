package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/weir-dev/weir/api/v1alpha1"
)

const (
	systemNamespace = "weir-system"
	serviceAccount  = "weir-operator"
	operatorUser    = "system:serviceaccount:" + systemNamespace + ":" + serviceAccount
)

// auditPolicy has the API server write down every call of the operator, once.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
- {level: Metadata, users: ["` + operatorUser + `"]}
- {level: None}
`

// controlPlane is the API server with what an installation has in it, but for
// the operator. Its limits on requests are the defaults; our own come from an
// administrator, who is exempt.
type controlPlane struct {
	environment *envtest.Environment
	config      *rest.Config
	client      client.WithWatch
	typed       *kubernetes.Clientset
	audit       string
}

func startControlPlane(ctx context.Context, o Options, folder string) (_ *controlPlane, err error) {
	policy, audit := filepath.Join(folder, "audit.yaml"), filepath.Join(folder, "audit.log")
	if err := os.WriteFile(policy, []byte(auditPolicy), 0o600); err != nil {
		return nil, err
	}
	c := &controlPlane{audit: audit, environment: &envtest.Environment{
		BinaryAssetsDirectory:    o.Assets,
		CRDDirectoryPaths:        []string{filepath.Join(o.Root, "config", "crd", "bases")},
		ErrorIfCRDPathMissing:    true,
		ControlPlaneStartTimeout: time.Minute,
		ControlPlaneStopTimeout:  time.Minute,
	}}
	c.environment.ControlPlane.GetAPIServer().Configure().
		Set("audit-policy-file", policy).Set("audit-log-path", audit)
	defer func() {
		if err != nil {
			err = errors.Join(err, c.environment.Stop())
		}
	}()
	if c.config, err = c.environment.Start(); err != nil {
		return nil, fmt.Errorf("starting kube-apiserver and etcd: %w", err)
	}
	c.config.QPS = -1
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return nil, err
	}
	if c.client, err = client.NewWithWatch(c.config, client.Options{Scheme: scheme}); err != nil {
		return nil, err
	}
	binary := rest.CopyConfig(c.config)
	binary.ContentType, binary.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	if c.typed, err = kubernetes.NewForConfig(binary); err != nil {
		return nil, err
	}
	for _, file := range []string{
		"operator/namespace.yaml", "rbac/serviceaccount.yaml", "rbac/role.yaml", "rbac/leader_election.yaml", "rbac/bindings.yaml",
	} {
		if err := c.apply(ctx, filepath.Join(o.Root, "config", file)); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *controlPlane) stop() error { return c.environment.Stop() }

// apply creates the objects of a file.
func (c *controlPlane) apply(ctx context.Context, file string) error {
	return documents(file, func(decode func(any) error) error {
		object := &unstructured.Unstructured{}
		if err := decode(object); err != nil {
			return err
		}
		return c.client.Create(ctx, object)
	})
}

// applyWebhook creates the webhook configuration with a URL in the place of
// the Service; the operator itself writes the authority.
func (c *controlPlane) applyWebhook(ctx context.Context, o Options, url string) error {
	return documents(filepath.Join(o.Root, "config", "webhook", "mutatingwebhookconfiguration.yaml"), func(decode func(any) error) error {
		configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
		if err := decode(configuration); err != nil {
			return err
		}
		for i := range configuration.Webhooks {
			configuration.Webhooks[i].ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: &url}
		}
		return c.client.Create(ctx, configuration)
	})
}

func documents(file string, each func(decode func(any) error) error) error {
	text, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = text.Close() }()
	decoder := yaml.NewYAMLOrJSONDecoder(text, 4096)
	for {
		err := each(decoder.Decode)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("applying %s: %w", file, err)
		}
	}
}
