package usage

import (
	"context"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/limiter"
)

// window answers for a caller whom whoever asks can name.
func (s *Server) window(ctx context.Context, q *asked) (any, error) {
	identity, err := q.identity()
	if err != nil {
		return nil, err
	}
	s.noteLook(q, s.unnamed(ctx, q.policy, identity))
	return s.windowOf(ctx, q.policy, identity, Name{Identity: &identity})
}

// noteLook says who looks at whom, once in a while: a page looks every two seconds.
func (s *Server) noteLook(q *asked, caller string) {
	look := [4]string{q.who.Username, q.policy.Namespace, q.policy.Name, caller}
	if at, known := s.looks.Get(look); known && time.Since(at.(time.Time)) < looksNotedEvery {
		return
	}
	s.looks.Add(look, time.Now())
	s.options.Logger.Info(q.who.Username+" read the window of "+caller, "namespace", q.policy.Namespace, "policy", q.policy.Name)
}

const (
	looksNotedEvery = 10 * time.Minute
	maxLooks        = 1024
)

// caller answers for one whom lists named by a pseudonym.
func (s *Server) caller(ctx context.Context, q *asked) (any, error) {
	named, err := s.naming(ctx, q)
	if err != nil {
		return nil, err
	}
	identity, err := s.whose(ctx, q.policy, q.PathValue("pseudonym"))
	if err != nil {
		return nil, err
	}
	return s.windowOf(ctx, q.policy, identity, named(identity))
}

// whose a pseudonym is, among those whom lists name.
func (s *Server) whose(ctx context.Context, policy *v1alpha1.RateLimitPolicy, wanted string) (string, error) {
	key, err := s.key.read(ctx, s.options.Key)
	if err != nil {
		return "", fmt.Errorf("reading the key of callers' pseudonyms: %w", err)
	}
	happened, err := s.report(ctx, policy)
	if err != nil {
		return "", err
	}
	var all []string
	for _, c := range happened.Callers {
		all = append(all, c.Identity)
	}
	for _, r := range happened.Refusals {
		all = append(all, r.Identity)
	}
	for _, g := range policy.Status.Grants {
		all = append(all, g.Identity)
	}
	for _, identity := range all {
		if len(identity) <= limiter.MaxIdentityBytes && pseudonym(key, policy, identity) == wanted {
			return identity, nil
		}
	}
	return "", problem(http.StatusNotFound, "No caller of this pseudonym is among those that asked most in the last ten minutes, were refused lately, or have a grant.")
}

// windowOf says how it is with a caller and since when, with what people did to
// its quota for those who are told its name.
func (s *Server) windowOf(ctx context.Context, policy *v1alpha1.RateLimitPolicy, identity string, name Name) (any, error) {
	standing, grant, err := s.standing(ctx, policy, identity)
	if err != nil {
		return nil, err
	}
	found := CallerWindow{Name: name, Standing: standing}
	if limits, _ := limitsOf(policy, identity, time.Now()); len(limits) > 0 {
		windows, err := s.limiter.Windows(ctx, takeOf(policy, identity, limits))
		if err != nil {
			return nil, s.unanswered(err)
		}
		for _, w := range windows {
			found.Windows = append(found.Windows, Window{
				Requests: w.Limit.Requests, Window: metav1.Duration{Duration: w.Limit.Window()},
				Begin: w.Begin.UTC(), StepSeconds: w.Step.Seconds(), Units: w.Units, Reserved: w.Reserved,
			})
		}
	}
	if name.Identity == nil {
		return found, nil
	}
	if grant != nil {
		found.Grant = &Grant{grant.Identity, grant.Requests, grant.Until, grant.By, grant.Reason}
	}
	for _, reset := range policy.Status.Resets {
		if reset.Identity == identity {
			found.Reset = &Reset{At: reset.At.UTC(), By: reset.By}
		}
	}
	return found, nil
}
