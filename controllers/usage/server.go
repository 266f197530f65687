package usage

import (
	"context"
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
	"k8s.io/utils/lru"
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

// Options of a Server; those without "nil" are required.
type Options struct {
	// Client reads policies from the cache and writes their status.
	Client client.Client
	// API is asked who may what.
	API      kubernetes.Interface
	Recorder Recorder
	// Store in force now; nil: none.
	Store func() *ruleset.Store
	// Key makes callers' pseudonyms; the same at every replica.
	Key func(context.Context) ([]byte, error)
	// HideNames gives everybody pseudonyms.
	HideNames bool
	// Pods of a policy; nil: nobody says. Its errors are for people where they are
	// a problem that was answered with.
	Pods func(context.Context, *v1alpha1.RateLimitPolicy, PodQuery) (Pods, error)
	// Authorities of people's client certificates; nil: none is accepted.
	Authorities *ClientAuthorities
	Logger      logr.Logger
}

const (
	// maxAtOnce bounds the requests under way of those who may.
	maxAtOnce      = 16
	maxBodyBytes   = 8 << 10
	requestTimeout = 10 * time.Second
)

// Server answers at Paths.
type Server struct {
	options Options
	access  *access.Reviewer
	limiter *limiter.Limiter
	// busy has a value for each request under way of somebody who may.
	busy    chan struct{}
	mux     *http.ServeMux
	reports reports
	key     pseudonyms
	// looks that were noted lately, and when.
	looks *lru.Cache
}

// New returns a Server. It reaches Redis when it is asked.
func New(options Options) *Server {
	s := &Server{
		options: options, access: access.New(options.API, 0), busy: make(chan struct{}, maxAtOnce), mux: http.NewServeMux(), looks: lru.New(maxLooks),
		limiter: limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)}), // the operator looks after the store elsewhere
	}
	for _, r := range routes {
		s.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, request *http.Request) {
			found, err := s.serve(request, &r)
			answer(w, found, err)
		})
	}
	s.mux.HandleFunc("GET "+documentPath, serveDocument)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, nil, problem(http.StatusNotFound, "Paths are "+policiesPath+", "+Prefix+"{namespace}/{policy}, and below that pods, usage, window, callers, refusals, resets and grants: "+documentPath+" says which methods they have."))
	})
	return s
}

// route is what one method of a path does, for those who may use a verb on a
// subresource of policies, or on policies themselves.
type route struct {
	method, path      string
	verb, subresource string
	do                func(*Server, context.Context, *asked) (any, error)
}

const policyPath = Prefix + "{namespace}/{policy}"

var routes = []route{
	{"GET", policiesPath, "list", "", (*Server).policies},
	{"GET", policyPath, "get", "", (*Server).policy},
	{"GET", policyPath + "/pods", "get", "", (*Server).pods},
	{"GET", policyPath + "/usage", "get", "usage", (*Server).usage},
	{"GET", policyPath + "/callers", "list", "usage", (*Server).callers},
	{"GET", policyPath + "/window", "get", "usage", (*Server).window},
	{"GET", policyPath + "/callers/{pseudonym}", "list", "usage", (*Server).caller},
	{"GET", policyPath + "/refusals", "list", "usage", (*Server).refusals},
	{"POST", policyPath + "/resets", "create", "resets", (*Server).reset},
	{"GET", policyPath + "/grants", "list", "grants", (*Server).grants},
	{"POST", policyPath + "/grants", "create", "grants", (*Server).grant},
	{"DELETE", policyPath + "/grants", "delete", "grants", (*Server).revoke},
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	connection := http.NewResponseController(w)
	deadline := time.Now().Add(requestTimeout)
	_ = connection.SetReadDeadline(deadline)
	_ = connection.SetWriteDeadline(deadline)
	s.mux.ServeHTTP(w, r)
}

// asked is a request of somebody who may.
type asked struct {
	*http.Request
	who *access.User
	// policy that the path names; nil: none.
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

// serve answers those who may.
func (s *Server) serve(r *http.Request, to *route) (any, error) {
	ctx, cancel := context.WithTimeout(r.Context(), requestTimeout)
	defer cancel()
	wanted := attempt{r.PathValue("namespace"), r.PathValue("policy"), to.verb, to.subresource}
	if wanted.policy == "" {
		wanted.namespace = r.URL.Query().Get("namespace")
	}
	q, err := s.admit(ctx, r, wanted)
	if err != nil {
		return nil, err
	}
	select {
	case s.busy <- struct{}{}:
		defer func() { <-s.busy }()
	default:
		return nil, problem(http.StatusServiceUnavailable, "Too many requests are under way. Try again.")
	}
	found, err := to.do(s, ctx, q)
	if failed := new(failure); err != nil && !errors.As(err, &failed) && r.Context().Err() == nil {
		s.options.Logger.Error(err, "cannot answer", "user", q.who.Username, "verb", wanted.verb, "resource", wanted.resource(), "namespace", wanted.namespace, "policy", wanted.policy)
	}
	return found, err
}

// admit finds the policy for somebody who may.
func (s *Server) admit(ctx context.Context, r *http.Request, wanted attempt) (*asked, error) {
	who, err := s.who(r)
	if errors.Is(err, access.ErrUnauthenticated) {
		return nil, problem(http.StatusUnauthorized, "A bearer token that this cluster's API server accepts is required, such as kubectl create token makes, or a client certificate that it accepts.")
	}
	if err != nil {
		return nil, s.unsaid(err)
	}
	allowed, err := s.may(ctx, who, wanted)
	if err != nil {
		return nil, s.unsaid(err)
	}
	if !allowed {
		s.options.Logger.Info("refused", "user", who.Username, "verb", wanted.verb, "resource", wanted.resource(), "namespace", wanted.namespace, "policy", wanted.policy)
		return nil, forbidden(who, wanted)
	}
	q := &asked{Request: r, who: who}
	if wanted.policy == "" {
		return q, nil
	}
	q.policy = &v1alpha1.RateLimitPolicy{}
	err = s.options.Client.Get(ctx, client.ObjectKey{Namespace: wanted.namespace, Name: wanted.policy}, q.policy)
	if apierrors.IsNotFound(err) {
		return nil, problem(http.StatusNotFound, "There is no RateLimitPolicy %s in namespace %s.", wanted.policy, wanted.namespace)
	}
	if err != nil {
		return nil, fmt.Errorf("reading a policy: %w", err)
	}
	return q, nil
}

// unsaid is the answer while the API server does not say who may what.
func (s *Server) unsaid(err error) error {
	s.options.Logger.Error(err, "cannot say who may ask about usage")
	return problem(http.StatusServiceUnavailable, "The API server cannot be asked who you are and what you may. Try again.")
}

// forbidden says which rule would allow it.
func forbidden(who *access.User, wanted attempt) error {
	of, where, kind := "", "in all namespaces", "ClusterRole"
	if wanted.policy != "" {
		of = " of " + wanted.policy
		if wanted.subresource == "" {
			of = " " + wanted.policy
		}
	}
	hint := ", or name one in which you may by the parameter namespace"
	if wanted.namespace != "" {
		where, kind, hint = "in namespace "+wanted.namespace, "Role", ""
	}
	return problem(http.StatusForbidden, "User %s may not %s %s%s %s: a %s has to allow it (apiGroups [weir.dev], resources [%s], verbs [%s])%s.",
		who.Username, wanted.verb, wanted.resource(), of, where, kind, wanted.resource(), wanted.verb, hint)
}

// answer writes what was found, or why not.
func answer(w http.ResponseWriter, found any, err error) {
	status := http.StatusOK
	w.Header().Del("Connection") // which the link closes of who is not known
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
			w.Header().Set("Connection", "close")
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
