package dashboard

import (
	"context"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/controllers/access"
	"github.com/weir-dev/weir/controllers/usage"
	"github.com/weir-dev/weir/dashboard/tasks"
	"github.com/weir-dev/weir/worker/celery"
)

// DefaultAddress is where people who come from Flower look.
const DefaultAddress = ":5555"

const (
	maxBodyBytes = 64 << 10
	// readingGrace is how long rights to read hold while the API server does not
	// answer.
	readingGrace = 5 * time.Minute
	// viewTimeout bounds making one view.
	viewTimeout = 10 * time.Second
)

// Recorder records an event about an object.
type Recorder interface {
	Eventf(regarding, related runtime.Object, eventType, reason, action, note string, args ...any)
}

// Options of a Server. Those without "optional" are required.
type Options struct {
	// Reader reads policies, PeriodicTasks and Jobs from a cache.
	Reader client.Reader
	// API is asked who may what.
	API      kubernetes.Interface
	Recorder Recorder
	// Tasks and the broker that they are in; the broker's error: it is away.
	Tasks  *tasks.Watcher
	Broker func() (*celery.Broker, error)
	// Usage says what happens at policies, and what is left of callers' quotas. It
	// is asked in the visitor's name.
	Usage *usage.Server
	// HideCallers: nobody sees who callers are.
	HideCallers bool
	// Cluster says since when the API server does not answer; zero: it does.
	Cluster func() (since time.Time)
	// Changed is another number when an object in the cache has changed.
	Changed func() uint64
	// SessionKey seals cookies, 32 bytes or more; optional: a new one, so that a
	// restart ends sessions.
	SessionKey []byte
	Forwarded  Forwarded
	// BehindTLS: browsers reach it over HTTPS though it is not served here.
	BehindTLS bool
	Logger    logr.Logger
}

// Server serves the page.
type Server struct {
	o      Options
	sealer *sealer
	// reading remembers what the API server said, longer while it does not answer;
	// acting asks each time.
	reading, acting *access.Reviewer
	pages           *template.Template
	mux             *http.ServeMux
	streams         streams
}

//go:embed templates
var templateFiles embed.FS

// New returns a Server.
func New(o Options) (*Server, error) {
	sealer, err := newSealer(o.SessionKey)
	if err != nil {
		return nil, err
	}
	pages, err := template.New("").Funcs(functions).ParseFS(templateFiles, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("reading the page's templates: %w", err)
	}
	s := &Server{
		o: o, sealer: sealer, pages: pages, mux: http.NewServeMux(),
		reading: access.New(o.API, readingGrace), acting: access.Fresh(o.API),
	}
	s.mux.Handle("GET /assets/", assets())
	s.mux.HandleFunc("POST /login", s.login)
	s.mux.HandleFunc("POST /logout", s.logout)
	s.mux.Handle("GET /{$}", http.RedirectHandler("/limits", http.StatusSeeOther))
	s.view("GET /limits", s.limits)
	s.view("GET /limits/{namespace}/{name}", s.limit)
	s.view("GET /limits/{namespace}/{name}/pods", s.pods)
	s.view("GET /limits/{namespace}/{name}/callers", s.caller)
	s.view("GET /limits/{namespace}/{name}/callers/{pseudonym}", s.caller)
	s.view("GET /schedules", s.schedules)
	s.view("GET /schedules/{namespace}/{name}", s.schedule)
	s.view("GET /queues", s.queues)
	s.view("GET /workers", s.workers)
	s.view("GET /tasks", s.tasks)
	s.view("GET /tasks/{id}", s.task)
	s.view("GET /dead", s.dead)
	s.action("POST /schedules/{namespace}/{name}/run", s.runNow)
	s.action("POST /limits/{namespace}/{name}/reset", s.resetCaller)
	s.action("POST /limits/{namespace}/{name}/grant", s.grantCaller)
	s.action("POST /tasks/{id}/retry", s.retry)
	s.action("POST /tasks/{id}/revoke", s.revoke)
	s.action("POST /dead/retry", s.revive)
	s.view("GET /", func(context.Context, *visitor, *http.Request) (*view, error) {
		return nil, problem(http.StatusNotFound, "There is no such page.")
	})
	return s, nil
}

// Handler serves the page, guarded.
func (s *Server) Handler() http.Handler { return guarded(s.mux) }

// failure is why somebody gets no view.
type failure struct {
	status   int
	sentence string
}

func (f *failure) Error() string { return f.sentence }

func problem(status int, format string, args ...any) error {
	return &failure{status, fmt.Sprintf(format, args...)}
}

// version is another one when a view may be another.
func (s *Server) version() [3]int64 {
	return [3]int64{int64(s.o.Tasks.Version()), int64(s.o.Changed()), s.o.Cluster().UnixNano()} //nolint:gosec // compared, not counted
}
