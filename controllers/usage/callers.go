package usage

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"sync"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

func (s *Server) callers(ctx context.Context, q *asked) (any, error) {
	part, next, named, err := partOf(ctx, s, q, func(r *report.Report) []report.Caller { return r.Callers })
	if err != nil {
		return nil, err
	}
	found := Callers{Callers: make([]TopCaller, len(part)), Continue: next}
	failed := make([]error, len(part))
	var asking sync.WaitGroup // at the same time: the limiter asks Redis for many together
	for i, caller := range part {
		found.Callers[i] = TopCaller{Name: named(caller.Identity), Asked: caller.Asked, Limited: caller.Limited}
		if len(caller.Identity) <= limiter.MaxIdentityBytes { // else no sidecar said so
			asking.Go(func() {
				found.Callers[i].Standing, _, failed[i] = s.standing(ctx, q.policy, caller.Identity)
			})
		}
	}
	asking.Wait()
	for _, err := range failed {
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (s *Server) refusals(ctx context.Context, q *asked) (any, error) {
	part, next, named, err := partOf(ctx, s, q, func(r *report.Report) []report.Refusal { return r.Refusals })
	if err != nil {
		return nil, err
	}
	found := Refusals{Refusals: make([]Refusal, len(part)), Continue: next}
	for i, r := range part {
		found.Refusals[i] = Refusal{
			Name: named(r.Identity), At: r.At.UTC(), Requests: r.Requests, Window: metav1.Duration{Duration: r.Window}, Pod: r.Pod, Observed: r.Observed,
		}
		if !r.Frees.IsZero() {
			frees := r.Frees.UTC()
			found.Refusals[i].Frees = &frees
		}
	}
	return found, nil
}

// partOf is the wanted page of something that a report lists, and how whoever
// asks is told callers' names.
func partOf[T any](ctx context.Context, s *Server, q *asked, list func(*report.Report) []T) (part []T, next string, named func(string) Name, err error) {
	page, err := q.page()
	if err != nil {
		return nil, "", nil, err
	}
	happened, err := s.report(ctx, q.policy)
	if err != nil {
		return nil, "", nil, err
	}
	if part, next, err = ranked(page, list(&happened)); err != nil {
		return nil, "", nil, err
	}
	named, err = s.naming(ctx, q)
	return part, next, named, err
}

// naming says how callers are named to whoever asks.
func (s *Server) naming(ctx context.Context, q *asked) (func(identity string) Name, error) {
	allowed, err := s.may(ctx, q.who, attempt{q.policy.Namespace, q.policy.Name, "get", "status"})
	if err != nil {
		return nil, s.unsaid(err)
	}
	key, err := s.key.read(ctx, s.options.Key)
	if err != nil {
		return nil, fmt.Errorf("reading the key of callers' pseudonyms: %w", err)
	}
	if allowed && !s.options.HideNames {
		return func(identity string) Name { return nameOfCaller(key, q.policy, identity) }, nil
	}
	return func(identity string) Name { return Name{Pseudonym: pseudonym(key, q.policy, identity)} }, nil
}

// nameOfCaller is its identity, or a pseudonym where that is no text: JSON would name
// somebody else.
func nameOfCaller(key []byte, policy *v1alpha1.RateLimitPolicy, identity string) Name {
	if !utf8.ValidString(identity) {
		return Name{Pseudonym: pseudonym(key, policy, identity)}
	}
	return Name{Identity: &identity}
}

func pseudonym(key []byte, policy *v1alpha1.RateLimitPolicy, identity string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(policy.Namespace + "/" + policy.ServiceName() + ":" + identity))
	return "caller-" + hex.EncodeToString(mac.Sum(nil)[:8])
}

// unnamed is what a caller is called in events and logs, which others read than
// those who may know who it is.
func (s *Server) unnamed(ctx context.Context, policy *v1alpha1.RateLimitPolicy, identity string) string {
	if identity == "" {
		return "all unnamed callers"
	}
	key, err := s.key.read(ctx, s.options.Key)
	if err != nil {
		s.options.Logger.Error(err, "cannot read the key of callers' pseudonyms")
		return "a caller"
	}
	return pseudonym(key, policy, identity)
}

// pseudonyms keeps the key that they are made with.
type pseudonyms struct {
	mu  sync.Mutex
	key []byte
	at  time.Time
}

// keyKnownFor is how long a key is in use that was replaced.
const keyKnownFor = time.Minute

func (p *pseudonyms) read(ctx context.Context, read func(context.Context) ([]byte, error)) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.key != nil && time.Since(p.at) < keyKnownFor {
		return p.key, nil
	}
	key, err := read(ctx)
	if err != nil {
		return nil, err
	}
	p.key, p.at = key, time.Now()
	return key, nil
}

// reports is where they are read.
type reports struct {
	mu         sync.Mutex
	store      ruleset.Store
	connection *limiter.Connection // nil: none yet
}

// reportTimeout bounds one exchange with Redis, whose timeout is a decision's.
const reportTimeout = 2 * time.Second

// in is a connection to the store in force.
func (r *reports) in(store *ruleset.Store) (*limiter.Connection, error) {
	if store == nil {
		return nil, problem(http.StatusServiceUnavailable, "Redis did not say: no store is known yet.")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connection != nil && r.store == *store {
		return r.connection, nil
	}
	patient := *store
	patient.TimeoutMillis = reportTimeout.Milliseconds()
	next, err := limiter.Connect(patient)
	if err != nil {
		return nil, problem(http.StatusServiceUnavailable, "The store cannot be used: %v", err)
	}
	if before := r.connection; before != nil {
		time.AfterFunc(requestTimeout, before.Close) // others may be reading
	}
	r.store, r.connection = *store, next
	return next, nil
}

func (r *reports) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.connection != nil {
		r.connection.Close()
	}
}

// report is what happened at a policy.
func (s *Server) report(ctx context.Context, policy *v1alpha1.RateLimitPolicy) (report.Report, error) {
	connection, err := s.reports.in(s.options.Store())
	if err != nil {
		return report.Report{}, err
	}
	happened, err := report.Read(ctx, connection.Client(), policy.Namespace, policy.ServiceName())
	if err != nil {
		return report.Report{}, s.unread(connection, err)
	}
	return happened, nil
}

func (s *Server) unread(connection *limiter.Connection, err error) error {
	return s.unanswered(connection.Explain(err))
}
