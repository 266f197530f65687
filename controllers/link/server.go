package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// AcknowledgementsPath is where a replica asks its peer what was acknowledged
// to it.
const AcknowledgementsPath = "/v1/acknowledgements"

const (
	defaultPatience = 30 * time.Second
	// requestTimeout bounds reading a request and writing its answer.
	requestTimeout  = 10 * time.Second
	idleTimeout     = 90 * time.Second
	shutdownTimeout = 5 * time.Second
	sweepInterval   = 5 * time.Minute
	hushInterval    = 10 * time.Second
	maxHeaderBytes  = 32 << 10
	maxReportBytes  = 64 << 10
	maxConnections  = 32768
	// handshakesEach processor, at once: enough that none is idle while one of
	// them waits for another goroutine.
	handshakesEach = 8
	// maxUnreviewedBytes bounds what is kept of requests, in all, before it is
	// known whose they are.
	maxUnreviewedBytes = 64 << 20
)

// Options of a Server. Every field but Patience, Usage and UsagePaths is required.
type Options struct {
	// Address to listen on, host:port.
	Address string
	// TLS with a certificate for the link's name.
	TLS *tls.Config
	// Cache of policies and pods.
	Cache            cache.Cache
	Reviewer         Reviewer
	Rulesets         *Rulesets
	Acknowledgements *Acknowledgements
	// Operator is the user name of the operator's own service account, which
	// alone may read acknowledgements: see ServiceAccountUser.
	Operator string
	// Usage answers what people ask, at UsagePaths; nil: nobody does.
	Usage      http.Handler
	UsagePaths []string
	// Patience is how long a request is held when there is nothing to answer; 30 s by default.
	Patience   time.Duration
	Registerer prometheus.Registerer
	Logger     logr.Logger
}

// ServiceAccountUser is the user name of a service account.
func ServiceAccountUser(namespace, name string) string {
	return serviceAccounts + namespace + ":" + name
}

// Server is the link. It is a manager.Runnable that every replica runs.
type Server struct {
	options Options
	tokens  *tokens
	waiting waiting
	// unknown are requests whose tokens are to be reviewed.
	unknown   backlog
	returning *returning
	allowance *allowance
	metrics   metrics
	// unreviewed are the bytes of requests that are not authenticated yet.
	unreviewed atomic.Int64
	// complaints about reviews of tokens.
	complaints complaints
	// serving says that sidecars are answered.
	serving atomic.Bool
}

// Ready is nil while sidecars are answered; a healthz.Checker.
func (s *Server) Ready(*http.Request) error {
	if !s.serving.Load() {
		return errors.New("the link is not served yet: policies, pods or authorities are not known")
	}
	return nil
}

// New makes a Server; it neither listens nor watches.
func New(options Options) (*Server, error) {
	if options.Patience == 0 {
		options.Patience = defaultPatience
	}
	s := &Server{options: options, tokens: newTokens(options.Reviewer), allowance: newAllowance(), metrics: newMetrics(), returning: newReturning(),
		unknown: backlog{atOnce: 2 * maxReviews}}
	for _, collector := range []prometheus.Collector{s.metrics.held, s.metrics.answers, s.metrics.certificates} {
		if err := options.Registerer.Register(collector); err != nil {
			return nil, fmt.Errorf("registering the link's metrics: %w", err)
		}
	}
	return s, nil
}

// NeedLeaderElection is false: every replica answers sidecars.
func (*Server) NeedLeaderElection() bool { return false }

// Start listens and serves until ctx ends.
func (s *Server) Start(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.options.Address)
	if err != nil {
		return fmt.Errorf("listening for sidecars on %s: %w", s.options.Address, err)
	}
	return s.Serve(ctx, listener)
}

// Serve answers on a listener, which it closes, until ctx ends. Before the
// cache has synced and authorities and credentials are known it accepts nothing: a sidecar
// must never be told that it has none only because they were not read yet.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	defer func() { _ = listener.Close() }()
	if err := s.options.Rulesets.watch(ctx, s.options.Cache, s.options.Acknowledgements.Forget); err != nil {
		return err
	}
	if !s.options.Cache.WaitForCacheSync(ctx) || !s.options.Rulesets.authorities.WaitForSync(ctx) ||
		!s.options.Rulesets.users.WaitForDecision(ctx) {
		return nil // ctx ended
	}
	go s.sweep(ctx)

	config := s.options.TLS.Clone()
	config.MinVersion = tls.VersionTLS13
	// One request at a time a connection: HTTP/2 would only cost memory.
	config.NextProtos = []string{"http/1.1"}
	server := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          connectionErrors(s.options.Logger),
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		s.waiting.close()
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		_ = server.Shutdown(closing) // what is still open is cut off with the process
	}()
	s.options.Logger.Info("serving the link", "address", listener.Addr().String())
	s.serving.Store(true)
	defer s.serving.Store(false)
	s.returning.address = listener.Addr()
	go func() { _ = server.Serve(s.returning) }() // it ends with the other
	err := server.Serve(tls.NewListener(takeTurns(limit(listener, maxConnections), handshakesEach*runtime.GOMAXPROCS(0)), config))
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the link: %w", err)
	}
	<-stopped
	return nil
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+ruleset.LinkPath, s.metrics.counted(s.serveRuleset))
	mux.Handle("POST "+ruleset.CertificatePath, s.metrics.counted(s.authenticated(podTokenKnownFor, s.serveCertificate)))
	mux.Handle("GET "+AcknowledgementsPath, s.metrics.counted(s.authenticated(knownFor, s.serveAcknowledgements)))
	for _, path := range s.options.UsagePaths {
		mux.Handle(path, s.options.Usage)
	}
	return guarded(mux)
}

// sweep forgets pods whose end was not seen, and notes those that are silent.
func (s *Server) sweep(ctx context.Context) {
	ticker, hushing := time.NewTicker(sweepInterval), time.NewTicker(hushInterval)
	defer ticker.Stop()
	defer hushing.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-hushing.C:
			s.options.Acknowledgements.hush(now)
		case <-ticker.C:
			s.options.Acknowledgements.sweep(func(namespace, name string, uid types.UID) bool {
				pod := &corev1.Pod{}
				err := s.options.Cache.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, pod)
				return err == nil && pod.UID == uid
			})
		}
	}
}
