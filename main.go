// Command operator is Weir's operator: it injects sidecars into pods, gives
// them their rules, says in the status of policies what they enforce, and makes
// the schedules and the workers of periodic tasks. As `operator check` it asks
// an installation whether it works, as `operator dashboard` it serves the page
// on port 5555.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"time"
	_ "time/tzdata" // the image has no time zones

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/webhook"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers"
	"github.com/weir-dev/weir/controllers/certs"
	"github.com/weir-dev/weir/controllers/check"
	"github.com/weir-dev/weir/controllers/injection"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/manifests"
	"github.com/weir-dev/weir/controllers/store"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/dashboard"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/tracing"
)

// version is set by the build.
var version = "dev"

// certificatesTimeout is how long the operator waits for certificates that
// somebody else makes: less than its liveness probe does.
const certificatesTimeout = 20 * time.Second

// The Services of the operator, whose names its certificate is for.
const (
	webhookService      = "weir-webhook-0"
	otherWebhookService = "weir-webhook-1"
	linkService         = "weir-link"
)

// options are the flags and what the pod's environment says.
type options struct {
	namespace, serviceAccount, podIP string

	metricsAddress, healthAddress string
	profileAddress                string
	listenHost                    string
	webhookPort, linkPort         int
	leaderElection                bool
	sidecarImage                  string
	sidecarImagePullPolicy        string
	workerImage                   string
	workerImagePullPolicy         string
	brokerFiles                   controllers.BrokerFiles
	certificateSecret             string
	authorityLife, leafLife       time.Duration
	traces                        manifests.Traces
	settings                      link.Settings
	storeUsers                    string
	storeUserRotation             time.Duration
}

func parse() (options, zap.Options) {
	o := options{
		namespace:      cmp.Or(os.Getenv("POD_NAMESPACE"), "weir-system"),
		serviceAccount: cmp.Or(os.Getenv("POD_SERVICE_ACCOUNT"), "weir-operator"),
		podIP:          os.Getenv("POD_IP"),
	}
	flag.StringVar(&o.metricsAddress, "metrics-address", ":8080", "address of /metrics; 0 turns it off")
	flag.StringVar(&o.healthAddress, "health-address", ":8081", "address of /healthz and /readyz")
	flag.StringVar(&o.profileAddress, "profile-address", "0", "loopback address of /debug/pprof, for kubectl port-forward, as 127.0.0.1:6060; 0 turns it off")
	flag.StringVar(&o.listenHost, "listen-host", "", "address that webhook and link listen on; empty: all")
	flag.IntVar(&o.webhookPort, "webhook-port", 9443, "port of the admission webhook")
	flag.IntVar(&o.linkPort, "link-port", 9444, "port of the link, which sidecars ask for their rules")
	flag.BoolVar(&o.leaderElection, "leader-elect", true, "let only one of several replicas write status")
	flag.StringVar(&o.sidecarImage, "sidecar-image", "weir-sidecar:"+version, "image that injection adds to pods")
	flag.StringVar(&o.sidecarImagePullPolicy, "sidecar-image-pull-policy", "", "its pull policy: Always, IfNotPresent or Never; empty for Kubernetes' default")
	flag.StringVar(&o.settings.StoreURLFile, "store-url-file", "", "file with the URL of Redis, redis:// or rediss://; read again when it changes")
	flag.StringVar(&o.settings.StoreCAFile, "store-ca-file", "", "file with PEM certificates to verify a rediss:// server with, beside the system's")
	flag.BoolVar(&o.settings.StoreInsecureSkipVerify, "store-insecure-skip-verify", false, "do not verify a rediss:// server's certificate")
	flag.DurationVar(&o.settings.StoreTimeout, "store-timeout", 100*time.Millisecond, "longest time that a sidecar waits for Redis to decide on a request")
	flag.StringVar(&o.storeUsers, "store-users", string(store.Auto), "users in Redis for each namespace, so that a sidecar's credential reaches no other namespace: auto, where the URL's user may make them; always, sidecars have no Redis otherwise; never, all have the URL's user")
	flag.DurationVar(&o.storeUserRotation, "store-user-rotation", 24*time.Hour, "how long the sidecars of a namespace have the same user in Redis, in whole seconds; it is removed after twice as long")
	flag.StringVar(&o.workerImage, "worker-image", "weir-worker:"+version, "image that enqueues PeriodicTasks and runs them")
	flag.StringVar(&o.workerImagePullPolicy, "worker-image-pull-policy", "", "its pull policy: Always, IfNotPresent or Never; empty for Kubernetes' default")
	flag.StringVar(&o.brokerFiles.URL, "broker-url-file", "", "file with the URL of the Redis that holds the queues of PeriodicTasks; while it is absent, the store's holds them if its URL has no password")
	flag.StringVar(&o.brokerFiles.CA, "broker-ca-file", "", "file with PEM certificates to verify that Redis with, beside the system's")
	flag.StringVar(&o.settings.HostRootsFile, "host-roots-file", "", "file with PEM certificates to verify the hosts of intercepting policies with, beside the usual ones; read again when it changes")
	flag.StringVar(&o.certificateSecret, "certificate-secret", "", "Secret of the operator's namespace in which somebody else, such as cert-manager, makes and renews the certificate of webhook and link: tls.crt, tls.key, ca.crt; empty: the operator makes its own")
	flag.DurationVar(&o.authorityLife, "authority-life", 2*365*24*time.Hour, "how long an interception authority is valid; the next is made after half of it")
	flag.DurationVar(&o.leafLife, "leaf-life", 6*time.Hour, "how long a certificate to intercept with is valid; the next is asked for after two thirds of it")
	flag.StringVar(&o.traces.Endpoint, "traces-endpoint", "", "URL of an OpenTelemetry collector, OTLP over HTTP, like http://collector:4318, for spans of what sidecars decide and of tasks; empty: none")
	flag.Float64Var(&o.traces.Ratio, "traces-ratio", 0.01, "of the traces that begin at a sidecar or a task, how many are recorded, 0 to 1; others are recorded where whoever began them does")
	flag.StringVar(&o.settings.LinkAddress, "link-address", "", "host:port at which sidecars reach the link (default weir-link.<namespace>.svc:9444)")
	logging := zap.Options{}
	logging.BindFlags(flag.CommandLine)
	flag.Parse()
	if o.traces.Endpoint != "" {
		o.settings.Tracing = &ruleset.Tracing{Endpoint: o.traces.Endpoint, Ratio: o.traces.Ratio}
	}
	o.settings.LinkAddress = cmp.Or(o.settings.LinkAddress, linkService+"."+o.namespace+".svc:"+strconv.Itoa(o.linkPort))
	return o, logging
}

// check names the flag that cannot be obeyed.
func (o *options) check() error {
	for name, policy := range map[string]string{"sidecar": o.sidecarImagePullPolicy, "worker": o.workerImagePullPolicy} {
		switch corev1.PullPolicy(policy) {
		case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
		default:
			return fmt.Errorf("--%s-image-pull-policy is %q: want Always, IfNotPresent or Never", name, policy)
		}
	}
	if o.profileAddress != "0" && !loopback(o.profileAddress) {
		return fmt.Errorf("--profile-address is %q: want 0, or an address of loopback as 127.0.0.1:6060, since profiles show what is in memory", o.profileAddress)
	}
	if o.settings.StoreTimeout < time.Millisecond || o.settings.StoreTimeout > 10*time.Second {
		return fmt.Errorf("--store-timeout is %v: want 1ms to 10s", o.settings.StoreTimeout)
	}
	if o.certificateSecret == certs.DefaultSecretName {
		return fmt.Errorf("--certificate-secret is %s, which is the operator's own: name another", o.certificateSecret)
	}
	if _, err := store.ParseMode(o.storeUsers); err != nil {
		return fmt.Errorf("--store-users is %w", err)
	}
	if o.storeUserRotation < store.MinRotation || o.storeUserRotation > store.MaxRotation || o.storeUserRotation%time.Second != 0 {
		return fmt.Errorf("--store-user-rotation is %v: want %v to %v, in whole seconds", o.storeUserRotation, store.MinRotation, store.MaxRotation)
	}
	if o.leafLife < time.Minute || o.authorityLife < 2*o.leafLife {
		return fmt.Errorf("--leaf-life is %v and --authority-life %v: want at least 1m, and at least twice as long", o.leafLife, o.authorityLife)
	}
	if !(o.traces.Ratio >= 0 && o.traces.Ratio <= 1) { // NaN is neither
		return fmt.Errorf("--traces-ratio is %v: want 0 to 1", o.traces.Ratio)
	}
	if _, err := tracing.TracesURL(o.traces.Endpoint); err != nil && o.traces.Endpoint != "" {
		return fmt.Errorf("--traces-endpoint: %w", err)
	}
	if _, _, err := net.SplitHostPort(o.settings.LinkAddress); err != nil {
		return fmt.Errorf("--link-address is %q: want host:port", o.settings.LinkAddress)
	}
	return nil
}

// loopback says whether only this pod reaches an address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && net.ParseIP(host).IsLoopback()
}

// gcPercent is GOGC where the environment has none: most of the operator's
// memory is what it holds for each sidecar, and little is allocated, so that
// two fifths of the usual head room costs next to no CPU.
const gcPercent = 40

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		os.Exit(check.Main(ctrl.SetupSignalHandler(), os.Args[2:], os.Stdout))
	}
	if len(os.Args) > 1 && os.Args[1] == "dashboard" {
		os.Exit(dashboard.Main(ctrl.SetupSignalHandler(), os.Args[2:], os.Stderr))
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	o, logging := parse()
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	if err := run(ctrl.SetupSignalHandler(), o); err != nil {
		ctrl.Log.Error(err, "the operator ends")
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) error {
	if err := o.check(); err != nil {
		return err
	}
	ctrl.Log.Info("starting", "version", version, "namespace", o.namespace)
	restConfig, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	// Secrets are read and written directly, never through a cache.
	direct, err := client.New(restConfig, client.Options{Scheme: scheme})
	if err != nil {
		return fmt.Errorf("reaching the API server: %w", err)
	}
	keeper, err := certificates(ctx, direct, o)
	if err != nil {
		return err
	}
	serving := func(config *tls.Config) { config.GetCertificate = keeper.GetCertificate }
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme:                        scheme,
		Cache:                         controllers.CacheOptions(),
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		HealthProbeBindAddress:        o.healthAddress,
		PprofBindAddress:              o.profileAddress,
		WebhookServer:                 webhook.NewServer(webhook.Options{Host: o.listenHost, Port: o.webhookPort, TLSOpts: []func(*tls.Config){serving}}),
		LeaderElection:                o.leaderElection,
		LeaderElectionID:              "weir-operator",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		// A leader that crashed is succeeded in ten seconds. Only status waits for that.
		LeaseDuration: ptr.To(10 * time.Second),
		RenewDeadline: ptr.To(7 * time.Second),
	})
	if err != nil {
		return fmt.Errorf("setting the manager up: %w", err)
	}
	if err := wire(ctx, mgr, direct, keeper, o); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

// certificates are there before anything is served.
func certificates(ctx context.Context, direct client.Client, o options) (*certs.Keeper, error) {
	linkHost, _, err := net.SplitHostPort(o.settings.LinkAddress)
	if err != nil {
		return nil, err
	}
	names := certs.ServiceNames(o.namespace, webhookService, otherWebhookService, linkService)
	if !slices.Contains(names, linkHost) {
		names = append(names, linkHost)
	}
	keeper := certs.New(certs.Options{
		Client:      direct,
		Namespace:   o.namespace,
		WebhookName: certs.DefaultWebhookName,
		DNSNames:    names,
		External:    o.certificateSecret,
		Logger:      ctrl.Log.WithName("certificates"),
	})
	return keeper, keeper.Await(ctx, certificatesTimeout)
}

// wire puts the operator's parts into the manager.
func wire(ctx context.Context, mgr ctrl.Manager, direct client.Client, keeper *certs.Keeper, o options) error {
	reviewer, err := kubernetes.NewForConfig(mgr.GetConfig())
	if err != nil {
		return fmt.Errorf("reaching the API server: %w", err)
	}
	authorities := certs.NewAuthorities(certs.AuthoritiesOptions{
		Config: mgr.GetConfig(), Client: direct, Namespace: o.namespace, Logger: ctrl.Log.WithName("authorities"),
		Life: o.authorityLife, LeafLife: o.leafLife,
	})
	rulesets := link.NewRulesets(mgr.GetCache(), authorities)
	acknowledgements := link.NewAcknowledgements()
	users := store.New(store.Options{
		Client: direct, Namespace: o.namespace, Mode: store.Mode(o.storeUsers), Rotation: o.storeUserRotation,
		Shared:     func() *ruleset.Store { return rulesets.Settings().Store },
		Namespaces: rulesets.Namespaces, Elected: mgr.Elected(), Logger: ctrl.Log.WithName("store"),
	})
	rulesets.UseUsers(users)

	settings := o.settings
	settings.CABundle, settings.Rulesets, settings.Logger = keeper.CABundle, rulesets, ctrl.Log.WithName("settings")
	settings.Refresh()

	clients := usage.NewClientAuthorities(mgr.GetAPIReader(), ctrl.Log.WithName("usage"))
	people := usage.New(usage.Options{
		Client: mgr.GetClient(), API: reviewer, Recorder: mgr.GetEventRecorder("weir-usage"),
		Store: func() *ruleset.Store { return rulesets.Settings().Store }, Authorities: clients,
		Pods:   usage.PodsFrom(mgr.GetCache(), acknowledgements),
		Key:    func(ctx context.Context) ([]byte, error) { return store.CallersKey(ctx, direct, o.namespace) },
		Logger: ctrl.Log.WithName("usage"),
	})
	server, err := link.New(link.Options{
		Address: net.JoinHostPort(o.listenHost, strconv.Itoa(o.linkPort)),
		TLS: &tls.Config{
			GetCertificate: keeper.GetCertificate, MinVersion: tls.VersionTLS13,
			// People may have one; sidecars have tokens.
			ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: clients.VerifyPeer,
		},
		Cache:            mgr.GetCache(),
		Reviewer:         reviewer.AuthenticationV1().TokenReviews(),
		Rulesets:         rulesets,
		Acknowledgements: acknowledgements,
		Operator:         link.ServiceAccountUser(o.namespace, o.serviceAccount),
		Registerer:       metrics.Registry,
		Usage:            people,
		UsagePaths:       usage.Paths(),
		Logger:           ctrl.Log.WithName("link"),
	})
	if err != nil {
		return err
	}
	peers := &link.Peers{
		Discover:         link.DiscoverPods(mgr.GetCache(), o.namespace, o.serviceAccount, o.podIP, o.linkPort),
		ServerName:       linkService + "." + o.namespace + ".svc",
		CABundle:         keeper.CABundle,
		TokenFile:        ruleset.TokenFile,
		Acknowledgements: acknowledgements,
		Logger:           ctrl.Log.WithName("peers"),
	}
	for _, runnable := range []manager.Runnable{keeper, authorities, &settings, users, clients, server, peers} {
		if err := mgr.Add(runnable); err != nil {
			return err
		}
	}

	reconciler := &controllers.RateLimitPolicyReconciler{
		Client: mgr.GetClient(), Recorder: mgr.GetEventRecorder("weir-operator"),
		Acknowledgements: acknowledgements, Authorities: authorities, Clock: clock.RealClock{},
	}
	founder := &controllers.AuthorityReconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Authorities: authorities}
	if err := errors.Join(
		reconciler.SetupWithManager(mgr), founder.SetupWithManager(mgr),
		metrics.Registry.Register(controllers.NewPolicyPods(mgr.GetCache())),
	); err != nil {
		return err
	}
	if err := wireTasks(mgr, o); err != nil {
		return err
	}
	if err := injection.SetupWithManager(ctx, mgr, injection.Config{
		Image:             o.sidecarImage,
		ImagePullPolicy:   corev1.PullPolicy(o.sidecarImagePullPolicy),
		Resources:         injection.DefaultResources(),
		OperatorNamespace: o.namespace,
	}, func(ctx context.Context, namespace string, podLabels map[string]string) (*ruleset.Ruleset, error) {
		return rulesets.Stamped(ctx, namespace, podLabels, ctrl.Log.WithName("injection"))
	}); err != nil {
		return err
	}
	return errors.Join(
		mgr.AddHealthzCheck("ping", healthz.Ping),
		mgr.AddReadyzCheck("webhook", mgr.GetWebhookServer().StartedChecker()),
		mgr.AddReadyzCheck("link", server.Ready),
	)
}

// wireTasks adds what makes PeriodicTasks.
func wireTasks(mgr ctrl.Manager, o options) error {
	store := controllers.BrokerFiles{URL: o.settings.StoreURLFile, CA: o.settings.StoreCAFile, Open: true}
	reconciler := &controllers.PeriodicTaskReconciler{
		Client:   mgr.GetClient(),
		Live:     mgr.GetAPIReader(),
		Recorder: mgr.GetEventRecorder("weir-operator"),
		Broker: &controllers.Broker{
			Files: []controllers.BrokerFiles{o.brokerFiles, store}, Clock: clock.RealClock{}, Logger: ctrl.Log.WithName("broker"),
		},
		Config: manifests.Config{Image: o.workerImage, ImagePullPolicy: corev1.PullPolicy(o.workerImagePullPolicy), Traces: o.traces},
		Clock:  clock.RealClock{},
	}
	return reconciler.SetupWithManager(mgr)
}
