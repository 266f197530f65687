package dashboard

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/weir-dev/weir/controllers/access"
)

// view is what one address shows.
type view struct {
	// template, and its data.
	template string
	data     any
	// title of the page; section of the menu that it is in.
	title, section string
	// every so often it may be another though nothing says so; zero: refreshInterval.
	every time.Duration
}

// frame is what every page has.
type frame struct {
	Title, Section, User, CSRF string
	// Notices say what is amiss.
	Notices []notice
	// Said is what came of an action.
	Said     string
	Status   int
	Template string
	Data     any
	Query    url.Values
	Next     string // of the login's form
	Now      time.Time
	every    time.Duration
}

type notice struct {
	Sentence string
	Since    time.Time
}

type viewer func(context.Context, *visitor, *http.Request) (*view, error)

// view serves an address: as a page, as the part of it that changes, or as a
// stream of that part.
func (s *Server) view(pattern string, make viewer) {
	s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Add("Vary", "Accept, Cookie, Authorization")
		if strings.Contains(r.Header.Get("Accept"), "text/event-stream") {
			s.stream(w, r, make)
			return
		}
		f, err := s.make(r, make)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		f.Said = s.said(w, r)
		s.write(w, "page", f)
	})
}

// make makes a view for whoever asks.
func (s *Server) make(r *http.Request, make viewer) (*frame, error) {
	ctx, cancel := context.WithTimeout(r.Context(), viewTimeout)
	defer cancel()
	v, err := s.visitor(r.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	found, err := make(ctx, v, r)
	if v.trouble != nil && err == nil && s.o.Cluster().IsZero() {
		err = v.trouble
	}
	if err != nil {
		return nil, err
	}
	return &frame{
		Title: found.title, Section: found.section, User: v.user.Username, CSRF: v.csrf, Status: http.StatusOK,
		Notices: s.notices(), Template: found.template, Data: found.data, Query: r.URL.Query(), Now: time.Now(), every: cmp.Or(found.every, refreshInterval),
	}, nil
}

func (s *Server) visitor(r *http.Request) (*visitor, error) {
	user, who, _, err := s.identify(r, s.reading)
	if err != nil {
		return nil, err
	}
	return &visitor{user: user, csrf: s.sealer.csrf(who), s: s}, nil
}

// notices of what is away.
func (s *Server) notices() []notice {
	var all []notice
	if since := s.o.Cluster(); !since.IsZero() {
		all = append(all, notice{"The API server does not answer. Policies and schedules are shown as they were last seen, and nothing can be done here until it does.", since})
	}
	down, since, reading := s.o.Tasks.Health()
	switch {
	case down != nil && strings.Contains(down.Error(), "no broker"):
		all = append(all, notice{"There is no Redis for tasks: create the Secret weir-broker in Weir's namespace, with a key url like redis://host:6379/0.", since})
	case down != nil:
		all = append(all, notice{"Redis does not answer. Tasks, queues and workers are shown as they were last seen.", since})
	case reading:
		all = append(all, notice{fmt.Sprintf("Reading what Redis has: %s tasks so far.", number(s.o.Tasks.Len())), time.Time{}})
	}
	return all
}

// render makes the HTML of a template, in which nothing is hidden.
func (s *Server) render(name string, f *frame) ([]byte, error) {
	var page bytes.Buffer
	if err := s.pages.ExecuteTemplate(&page, name, &rendered{f, s}); err != nil {
		return nil, fmt.Errorf("making the page %s: %w", f.Template, err)
	}
	return shown(page.Bytes()), nil
}

func (s *Server) write(w http.ResponseWriter, name string, f *frame) {
	page, err := s.render(name, f)
	if err != nil {
		s.o.Logger.Error(err, "cannot make a page")
		http.Error(w, "The page cannot be made; the dashboard's log says why.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(f.Status)
	_, _ = w.Write(page) // one who is gone does not read it
}

// refuse says why there is no view. Who has not said who they are is asked.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, errNobody):
		s.askWho(w, r, r.URL.RequestURI(), "")
		return
	case errors.Is(err, access.ErrUnauthenticated):
		s.askWho(w, r, r.URL.RequestURI(), "The API server does not accept the token any more: it has expired. Sign in again.")
		return
	}
	failed, is := errors.AsType[*failure](err)
	if !is {
		s.o.Logger.Error(err, "cannot answer", "path", r.URL.Path)
		failed = &failure{http.StatusServiceUnavailable, "The API server cannot be asked who you are and what you may. Try again in a moment."}
		if s.o.Cluster().IsZero() && !errors.Is(err, context.DeadlineExceeded) {
			failed.sentence = "The page cannot be made: " + err.Error()
		}
	}
	s.write(w, "page", &frame{
		Title: http.StatusText(failed.status), Status: failed.status, Notices: s.notices(), Template: "problem", Data: failed.sentence, Query: r.URL.Query(),
	})
}

func (s *Server) askWho(w http.ResponseWriter, _ *http.Request, next, why string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="weir"`)
	s.write(w, "login", &frame{Title: "Sign in", Status: http.StatusUnauthorized, Next: local(next), Data: why})
}

const (
	// maxStreams at once, and of one user.
	maxStreams       = 500
	maxStreamsOfUser = 50
	// streamInterval is how often a view is made again, at most; refreshInterval
	// at least: rights and times change by themselves.
	streamInterval  = time.Second
	lookInterval    = 100 * time.Millisecond
	refreshInterval = 10 * time.Second
	writeTimeout    = 15 * time.Second
)

// stream sends the part of a view that changes whenever it is another.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, make viewer) {
	v, err := s.visitor(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if !s.streams.open(v.user.Username) {
		http.Error(w, "Too many pages are open.", http.StatusServiceUnavailable)
		return
	}
	defer s.streams.close(v.user.Username)
	connection := http.NewResponseController(w)
	_ = connection.SetReadDeadline(time.Time{}) // nothing more is read
	begun := false
	var last []byte
	var version [3]int64
	var madeAt time.Time
	every := refreshInterval
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		now := time.Now()
		if changed := s.version(); now.Sub(madeAt) >= every || changed != version && now.Sub(madeAt) >= streamInterval {
			version, madeAt = changed, now
			f, err := s.make(r, make)
			if err != nil && !begun {
				s.refuse(w, r, err)
				return
			}
			if err != nil {
				_, _ = fmt.Fprint(w, "event: end\ndata:\n\n")
				_ = connection.Flush()
				return
			}
			every = f.every
			part, err := s.render("view", f)
			if err != nil {
				s.o.Logger.Error(err, "cannot make a page")
				return
			}
			_ = connection.SetWriteDeadline(now.Add(writeTimeout))
			if !begun {
				w.Header().Set("Content-Type", "text/event-stream")
				w.Header().Set("X-Accel-Buffering", "no")
				begun = true
			}
			message := ":\n\n" // it is there still
			if !bytes.Equal(part, last) {
				last = part
				text, _ := json.Marshal(map[string]string{"title": string(shown([]byte(f.Title))), "view": string(part)})
				message = "event: view\ndata: " + string(text) + "\n\n"
			}
			if _, err := fmt.Fprint(w, message); err != nil || connection.Flush() != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// rendered is a frame with its view's template executed in it.
type rendered struct {
	*frame
	s *Server
}

// part executes another template with the same frame.
func (r *rendered) part(name string) (template.HTML, error) {
	var out bytes.Buffer
	err := r.s.pages.ExecuteTemplate(&out, name, r)
	return template.HTML(out.String()), err //nolint:gosec // html/template made it
}
