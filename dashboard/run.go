package dashboard

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers"
	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Config is how the dashboard is run.
type Config struct {
	// Address of the page; MetricsAddress and HealthAddress, 0: none.
	Address, MetricsAddress, HealthAddress string
	// Broker and Store are files with the Redis of the queues, and of the limits.
	Broker, Store controllers.BrokerFiles
	// Certificate and Key of the page; empty: it is served without TLS.
	Certificate, Key string
	// SessionKeyFile has what cookies are sealed with; empty: a new key.
	SessionKeyFile string
	// BehindTLS: browsers reach it over HTTPS.
	BehindTLS bool
	// The header in which a proxy names the user, and that of the user's groups;
	// what the proxy proves itself with.
	ForwardedUser, ForwardedGroups         string
	ForwardedSecretFile, ForwardedClientCA string
	// MaxTasks that are listed.
	MaxTasks int
	// HideCallers: nobody sees who callers are.
	HideCallers bool
	// Operator is the host:port of the operator's link.
	Operator string
	// StoreTimeout bounds asking the limiter's Redis about one caller.
	StoreTimeout time.Duration
	// StoreInsecureSkipVerify turns verification of its certificate off.
	StoreInsecureSkipVerify bool
}

// Main is `operator dashboard`: it runs until ctx ends, and returns the exit code.
func Main(ctx context.Context, args []string, stderr io.Writer) int {
	flags := flag.NewFlagSet("operator dashboard", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var c Config
	c.bind(flags)
	logging := zap.Options{}
	logging.BindFlags(flags)
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctrl.SetLogger(zap.New(zap.UseFlagOptions(&logging)))
	restConfig, err := ctrl.GetConfig()
	if err == nil {
		err = Run(ctx, restConfig, c)
	}
	if err != nil {
		ctrl.Log.Error(err, "the dashboard ends")
		return 1
	}
	return 0
}

func (c *Config) bind(flags *flag.FlagSet) {
	flags.StringVar(&c.Address, "address", DefaultAddress, "address of the page")
	flags.StringVar(&c.MetricsAddress, "metrics-address", ":8080", "address of /metrics; 0 turns it off")
	flags.StringVar(&c.HealthAddress, "health-address", ":8081", "address of /healthz and /readyz")
	flags.StringVar(&c.Store.URL, "store-url-file", "", "file with the URL of the limiter's Redis")
	flags.StringVar(&c.Store.CA, "store-ca-file", "", "file with PEM certificates to verify it with, beside the system's")
	flags.StringVar(&c.Broker.URL, "broker-url-file", "", "file with the URL of the Redis that holds the queues of PeriodicTasks; while it is absent, the store's holds them if its URL has no password")
	flags.StringVar(&c.Broker.CA, "broker-ca-file", "", "file with PEM certificates to verify that Redis with, beside the system's")
	flags.StringVar(&c.Certificate, "tls-cert-file", "", "file with the page's certificate; empty: no TLS, as behind kubectl port-forward")
	flags.StringVar(&c.Key, "tls-key-file", "", "file with its key")
	flags.StringVar(&c.SessionKeyFile, "session-key-file", "", "file with 32 bytes or more that cookies are sealed with, the same for all replicas; empty: a new key, so that a restart ends sessions")
	flags.BoolVar(&c.BehindTLS, "behind-tls", false, "browsers reach the page over HTTPS though it is not served here: cookies are for HTTPS only")
	flags.StringVar(&c.ForwardedUser, "forwarded-user-header", "", "header in which a trusted proxy names the user, as X-Forwarded-User; empty: none is believed")
	flags.StringVar(&c.ForwardedGroups, "forwarded-groups-header", "", "header in which it names the user's groups")
	flags.StringVar(&c.ForwardedSecretFile, "forwarded-secret-file", "", "file with what the proxy sends as "+secretHeader+" to prove itself")
	flags.StringVar(&c.ForwardedClientCA, "forwarded-client-ca-file", "", "file with PEM authorities of the proxy's client certificate; needs TLS")
	flags.BoolVar(&c.HideCallers, "hide-callers", false, "show nobody who callers are: pseudonyms instead, which are the same for the same caller until the session key changes")
	flags.DurationVar(&c.StoreTimeout, "store-timeout", time.Second, "longest time to wait for the limiter's Redis")
	flags.BoolVar(&c.StoreInsecureSkipVerify, "store-insecure-skip-verify", false, "do not verify a rediss:// server's certificate")
	flags.StringVar(&c.Operator, "operator", "weir-link.weir-system.svc:9444", "host:port of the operator's link, which says which pods enforce a policy")
	flags.IntVar(&c.MaxTasks, "max-tasks", tasks.DefaultLimit, "tasks that are listed; the oldest that have ended are forgotten first")
}

// check names the flag that cannot be obeyed.
func (c *Config) check() error {
	switch {
	case (c.Certificate == "") != (c.Key == ""):
		return errors.New("--tls-cert-file and --tls-key-file belong together")
	case c.ForwardedClientCA != "" && c.Certificate == "":
		return errors.New("--forwarded-client-ca-file needs --tls-cert-file: without TLS nobody shows a certificate")
	case c.ForwardedUser != "" && c.ForwardedSecretFile == "" && c.ForwardedClientCA == "":
		return errors.New("--forwarded-user-header needs --forwarded-secret-file or --forwarded-client-ca-file: whoever reaches the page could name any user")
	case c.MaxTasks < 1000 || c.MaxTasks > 5_000_000:
		return fmt.Errorf("--max-tasks is %d: want 1000 to 5000000", c.MaxTasks)
	}
	return nil
}

// Run serves the page until ctx ends.
func Run(ctx context.Context, restConfig *rest.Config, c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	logger := ctrl.Log.WithName("dashboard")
	mgr, err := ctrl.NewManager(restConfig, ctrl.Options{
		Scheme: scheme, Cache: cacheOptions(), Logger: logger,
		Metrics: metricsserver.Options{BindAddress: c.MetricsAddress}, HealthProbeBindAddress: c.HealthAddress,
	})
	if err != nil {
		return fmt.Errorf("setting the manager up: %w", err)
	}
	api, err := kubernetes.NewForConfig(restConfig)
	if err != nil {
		return fmt.Errorf("reaching the API server: %w", err)
	}
	options, err := c.options(mgr, api, logger)
	if err != nil {
		return err
	}
	var changed atomic.Uint64
	if err := countChanges(ctx, mgr.GetCache(), &changed); err != nil {
		return err
	}
	options.Changed = changed.Load
	pulse := &pulse{api: api, logger: logger}
	options.Cluster = pulse.silentSince
	page, err := New(options)
	if err != nil {
		return err
	}
	listener, err := c.listen()
	if err != nil {
		return err
	}
	for _, runnable := range []manager.Runnable{options.Tasks, pulse, serve(page.Handler(), listener)} {
		if err := mgr.Add(runnable); err != nil {
			return err
		}
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return err
	}
	logger.Info("serving the page", "address", listener.Addr().String())
	return mgr.Start(ctx)
}

// options of a Server, as far as they follow from the configuration.
func (c *Config) options(mgr ctrl.Manager, api kubernetes.Interface, logger logr.Logger) (Options, error) {
	c.Store.Open = true
	broker := &controllers.Broker{Files: []controllers.BrokerFiles{c.Broker, c.Store}, Clock: clock.RealClock{}, Logger: logger.WithName("broker")}
	reader := mgr.GetCache()
	options := Options{
		Reader: reader, API: api, Recorder: mgr.GetEventRecorder("weir-dashboard"), Broker: broker.Client, BehindTLS: c.BehindTLS, Logger: logger,
		Forwarded: Forwarded{UserHeader: c.ForwardedUser, GroupsHeader: c.ForwardedGroups, Certificate: c.ForwardedClientCA != ""},
	}
	for file, to := range map[string]*[]byte{c.SessionKeyFile: &options.SessionKey, c.ForwardedSecretFile: &options.Forwarded.Secret} {
		if file == "" {
			continue
		}
		text, err := link.ReadSetting(file)
		if err != nil || text == "" {
			return options, fmt.Errorf("reading %s: %w", file, cmpErr(err, errors.New("it is absent or empty")))
		}
		*to = []byte(text)
	}
	if options.SessionKey == nil {
		options.SessionKey = make([]byte, 32)
		_, _ = rand.Read(options.SessionKey) // never fails
	}
	options.HideCallers = c.HideCallers
	options.Usage = usage.New(usage.Options{
		Client: mgr.GetClient(), API: api, Recorder: options.Recorder, Store: c.store(logger), HideNames: c.HideCallers,
		Pods:   (&operator{address: c.Operator, config: mgr.GetConfig(), reader: mgr.GetAPIReader()}).pods,
		Key:    func(context.Context) ([]byte, error) { return options.SessionKey, nil },
		Logger: logger.WithName("usage"),
	})
	options.Tasks = tasks.NewWatcher(tasks.Options{
		Broker: broker.Client, Limit: c.MaxTasks, Logger: logger.WithName("tasks"),
		Queues: func() []string { return queuesOf(reader) },
	})
	return options, nil
}

// storeInterval is how often the store's files are read.
const storeInterval = 2 * time.Second

// store is the limiter's Redis that the files name now.
func (c *Config) store(logger logr.Logger) func() *ruleset.Store {
	var mu sync.Mutex
	var last *ruleset.Store
	var readAt time.Time
	return func() *ruleset.Store {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(readAt) < storeInterval {
			return last
		}
		readAt = time.Now()
		address, err := link.ReadSetting(c.Store.URL)
		authorities, caErr := link.ReadSetting(c.Store.CA)
		switch {
		case err != nil || caErr != nil:
			logger.Error(errors.Join(err, caErr), "the store's settings stay as they were")
		case address == "":
			last = nil
		default:
			last = &ruleset.Store{URL: address, CABundle: authorities, InsecureSkipVerify: c.StoreInsecureSkipVerify, TimeoutMillis: c.StoreTimeout.Milliseconds()}
		}
		return last
	}
}

func cmpErr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// queuesOf the PeriodicTasks in the cache.
func queuesOf(reader client.Reader) []string {
	list := &v1alpha1.PeriodicTaskList{}
	if err := reader.List(context.Background(), list, client.UnsafeDisableDeepCopy); err != nil {
		return nil
	}
	queues := make([]string, 0, len(list.Items))
	for i := range list.Items {
		queues = append(queues, list.Items[i].Spec.Task.Queue)
	}
	return queues
}

// cacheOptions keep of Jobs those of PeriodicTasks, and of them what is shown.
func cacheOptions() cache.Options {
	ofTasks, err := labels.NewRequirement(v1alpha1.LabelPeriodicTask, selection.Exists, nil)
	if err != nil {
		panic(err) // the label is a constant
	}
	return cache.Options{
		DefaultTransform: cache.TransformStripManagedFields(),
		ByObject: map[client.Object]cache.ByObject{&batchv1.Job{}: {
			Label: labels.NewSelector().Add(*ofTasks),
			Transform: func(object any) (any, error) {
				job, ok := object.(*batchv1.Job)
				if !ok {
					return object, nil
				}
				return &batchv1.Job{
					TypeMeta: job.TypeMeta,
					ObjectMeta: metav1.ObjectMeta{
						Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
						Labels: job.Labels, CreationTimestamp: job.CreationTimestamp,
					},
					Status: batchv1.JobStatus{Conditions: job.Status.Conditions},
				}, nil
			},
		}},
	}
}

// countChanges counts what changes in the cache.
func countChanges(ctx context.Context, c cache.Cache, changed *atomic.Uint64) error {
	count := func() { changed.Add(1) }
	for _, object := range []client.Object{&v1alpha1.RateLimitPolicy{}, &v1alpha1.PeriodicTask{}, &batchv1.Job{}} {
		informer, err := c.GetInformer(ctx, object, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watching what is shown: %w", err)
		}
		if _, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { count() }, UpdateFunc: func(any, any) { count() }, DeleteFunc: func(any) { count() },
		}); err != nil {
			return fmt.Errorf("watching what is shown: %w", err)
		}
	}
	return nil
}

func (c *Config) listen() (net.Listener, error) {
	listener, err := net.Listen("tcp", c.Address)
	if err != nil {
		return nil, fmt.Errorf("listening for browsers: %w", err)
	}
	if c.Certificate == "" {
		return listener, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	// Read for each connection: certificates are renewed in place.
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		certificate, err := tls.LoadX509KeyPair(c.Certificate, c.Key)
		return &certificate, err
	}
	if _, err := config.GetCertificate(nil); err != nil {
		return nil, fmt.Errorf("reading the page's certificate: %w", err)
	}
	if c.ForwardedClientCA != "" {
		pem, err := os.ReadFile(c.ForwardedClientCA)
		if err != nil {
			return nil, fmt.Errorf("reading the authorities of the proxy: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
		if !config.ClientCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("the file of --forwarded-client-ca-file holds no certificate: want PEM, -----BEGIN CERTIFICATE-----")
		}
	}
	return tls.NewListener(listener, config), nil
}

func serve(handler http.Handler, listener net.Listener) manager.Runnable {
	return manager.RunnableFunc(func(ctx context.Context) error {
		// Streams end with ctx.
		server := &http.Server{
			Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
			BaseContext: func(net.Listener) context.Context { return ctx },
		}
		answered := make(chan struct{})
		context.AfterFunc(ctx, func() {
			defer close(answered)
			last, cancel := context.WithTimeout(context.Background(), 3*time.Second)
			defer cancel()
			_ = server.Shutdown(last) // what is left is cut off
		})
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		<-answered
		return nil
	})
}

// pulse asks every few seconds whether the API server answers.
type pulse struct {
	api    kubernetes.Interface
	logger logr.Logger
	silent atomic.Pointer[time.Time]
}

const pulseInterval = 3 * time.Second

// Start asks until ctx ends.
func (p *pulse) Start(ctx context.Context) error {
	ticker := time.NewTicker(pulseInterval)
	defer ticker.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, pulseInterval)
		err := p.api.Discovery().RESTClient().Get().AbsPath("/version").Do(asking).Error()
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && p.silent.Swap(nil) != nil:
			p.logger.Info("the API server answers again")
		case err != nil && p.silent.Load() == nil:
			now := time.Now()
			p.silent.Store(&now)
			p.logger.Error(err, "the API server does not answer")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *pulse) silentSince() time.Time {
	if since := p.silent.Load(); since != nil {
		return *since
	}
	return time.Time{}
}
