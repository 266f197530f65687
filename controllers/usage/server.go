package usage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/access"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Recorder records an event about an object.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any)
}

// Options of a Server; all are required.
type Options struct {
	// Client reads policies from the cache and writes their status.
	Client client.Client
	// API is asked who may what.
	API      kubernetes.Interface
	Recorder Recorder
	// Store in force now; nil: none.
	Store  func() *ruleset.Store
	Logger logr.Logger
}

const (
	// maxAtOnce bounds the requests under way of those who may.
	maxAtOnce      = 16
	maxBodyBytes   = 8 << 10
	requestTimeout = 10 * time.Second
)

// Server answers under Prefix.
type Server struct {
	options Options
	access  *access.Reviewer
	limiter *limiter.Limiter
	// busy has a value for each request under way of somebody who may.
	busy chan struct{}
	mux  *http.ServeMux
}

// New returns a Server. It reaches Redis when it is asked.
func New(options Options) *Server {
	s := &Server{
		options: options, access: access.New(options.API, 0), busy: make(chan struct{}, maxAtOnce), mux: http.NewServeMux(),
		limiter: limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)}), // the operator looks after the store elsewhere
	}
	s.handle("GET", "usage", "get", s.usage)
	s.handle("POST", "resets", "create", s.reset)
	s.handle("GET", "grants", "list", s.grants)
	s.handle("POST", "grants", "create", s.grant)
	s.handle("DELETE", "grants", "delete", s.revoke)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, nil, problem(http.StatusNotFound, "Paths are "+Prefix+"{namespace}/{policy}/usage, resets and grants."))
	})
	return s
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	connection := http.NewResponseController(w)
	deadline := time.Now().Add(requestTimeout)
	_ = connection.SetReadDeadline(deadline)
	_ = connection.SetWriteDeadline(deadline)
	defer func() { _ = connection.SetReadDeadline(time.Time{}) }()
	s.mux.ServeHTTP(w, r)
}

// asked is a request of somebody who may.
type asked struct {
	*http.Request
	user   string
	policy *v1alpha1.RateLimitPolicy
}

// failure is an answer that gives nothing.
type failure struct {
	status   int
	sentence string
}

func (f *failure) Error() string { return f.sentence }

func problem(status int, format string, args ...any) error {
	return &failure{status, fmt.Sprintf(format, args...)}
}

// handle answers one method of one subresource to those who may use the verb.
func (s *Server) handle(method, subresource, verb string, do func(context.Context, *asked) (any, error)) {
	s.mux.HandleFunc(method+" "+Prefix+"{namespace}/{policy}/"+subresource, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
		defer cancel()
		q, err := s.admit(ctx, r, attempt{r.PathValue("namespace"), r.PathValue("policy"), verb, subresource})
		if err != nil {
			answer(w, nil, err)
			return
		}
		select {
		case s.busy <- struct{}{}:
			defer func() { <-s.busy }()
		default:
			answer(w, nil, problem(http.StatusServiceUnavailable, "Too many requests are under way. Try again."))
			return
		}
		found, err := do(ctx, q)
		if failed := new(failure); err != nil && !errors.As(err, &failed) {
			s.options.Logger.Error(err, "cannot answer", "user", q.user, "verb", verb, "subresource", subresource, "namespace", q.policy.Namespace, "policy", q.policy.Name)
		}
		answer(w, found, err)
	})
}

// admit finds who asks and what for. That there is no such policy is told only to
// those who may ask.
func (s *Server) admit(ctx context.Context, r *http.Request, wanted attempt) (*asked, error) {
	found, err := s.allow(r, wanted)
	if err != nil {
		s.options.Logger.Error(err, "cannot say who may ask about usage")
		return nil, problem(http.StatusServiceUnavailable, "The API server cannot be asked who you are and what you may. Try again.")
	}
	switch found.status {
	case http.StatusUnauthorized:
		return nil, problem(found.status, "A bearer token that this cluster's API server accepts is required, such as kubectl create token makes.")
	case http.StatusForbidden:
		s.options.Logger.Info("refused", "user", found.user, "verb", wanted.verb, "subresource", wanted.subresource, "namespace", wanted.namespace, "policy", wanted.policy)
		return nil, problem(found.status, "User %s may not %s ratelimitpolicies/%s of %s in namespace %s: a Role has to allow it (apiGroups [weir.dev], resources [ratelimitpolicies/%s], verbs [%s]).",
			found.user, wanted.verb, wanted.subresource, wanted.policy, wanted.namespace, wanted.subresource, wanted.verb)
	}
	policy := &v1alpha1.RateLimitPolicy{}
	err = s.options.Client.Get(ctx, client.ObjectKey{Namespace: wanted.namespace, Name: wanted.policy}, policy)
	if apierrors.IsNotFound(err) {
		return nil, problem(http.StatusNotFound, "There is no RateLimitPolicy %s in namespace %s.", wanted.policy, wanted.namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a policy: %w", err)
	}
	return &asked{r, found.user, policy}, nil
}

// answer writes what was found, or why not.
func answer(w http.ResponseWriter, found any, err error) {
	status := http.StatusOK
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		no, ok := errors.AsType[*failure](err)
		if !ok {
			no = &failure{http.StatusInternalServerError, "The operator cannot answer; its log says why."}
		}
		switch status = no.status; status {
		case http.StatusUnauthorized:
			w.Header().Set("WWW-Authenticate", `Bearer realm="weir"`)
		case http.StatusServiceUnavailable:
			w.Header().Set("Retry-After", "1")
		}
		w.Header().Set("Content-Type", "application/problem+json")
		found = Problem{Title: http.StatusText(status), Status: status, Detail: no.sentence}
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(found) // one who is gone does not read it
}

// body reads a bounded one, strictly.
func body(r *http.Request, into any) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
	if err != nil {
		return problem(http.StatusBadRequest, "The body cannot be read.")
	}
	if len(text) > maxBodyBytes {
		return problem(http.StatusRequestEntityTooLarge, "The body has more than %d bytes.", maxBodyBytes)
	}
	return strictly(text, into)
}

// hashed names a caller where not everybody may know who it is.
func hashed(identity string) string {
	if identity == "" {
		return "all unnamed callers"
	}
	sum := sha256.Sum256([]byte(identity))
	return "caller sha256:" + hex.EncodeToString(sum[:6])
}
