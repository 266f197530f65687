package usage

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/programming"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies,verbs=list;watch
// +kubebuilder:rbac:groups=weir.dev,resources=ratelimitpolicies/status,verbs=patch

// Reasons of the events on policies.
const (
	EventReset   = "QuotaReset"
	EventGranted = "QuotaGranted"
	EventRevoked = "QuotaRevoked"
)

func (s *Server) usage(ctx context.Context, q *asked) (any, error) {
	identity, err := q.identity()
	if err != nil {
		return nil, err
	}
	s.options.Logger.Info(q.who.Username+" read the usage of "+s.unnamed(ctx, q.policy, identity), "namespace", q.policy.Namespace, "policy", q.policy.Name)
	return s.usageOf(ctx, q.policy, identity)
}

// usageOf says how it is with a caller.
func (s *Server) usageOf(ctx context.Context, policy *v1alpha1.RateLimitPolicy, identity string) (any, error) {
	standing, grant, err := s.standing(ctx, policy, identity)
	if err != nil {
		return nil, err
	}
	found := Usage{Namespace: policy.Namespace, Policy: policy.Name, Service: policy.ServiceName(), Identity: identity, Standing: standing}
	if grant != nil {
		found.Grant = &Grant{grant.Identity, grant.Requests, grant.Until, grant.By, grant.Reason}
	}
	return found, nil
}

// standing asks Redis how it is with a caller, whose grant is part of that.
func (s *Server) standing(ctx context.Context, policy *v1alpha1.RateLimitPolicy, identity string) (Standing, *v1alpha1.Grant, error) {
	limits, grant := limitsOf(policy, identity, time.Now())
	if len(limits) == 0 {
		return Standing{Unlimited: true, Admitted: true}, nil, nil
	}
	if err := s.useStore(); err != nil {
		return Standing{}, nil, err
	}
	decision, err := s.limiter.Remaining(ctx, []limiter.Take{takeOf(policy, identity, limits)})
	if err != nil {
		return Standing{}, nil, s.unanswered(err)
	}
	found := Standing{Admitted: decision.Admitted}
	if !decision.Admitted {
		found.RetryAfterSeconds = decision.RetryAfter.Seconds()
	}
	for _, quota := range decision.Quotas {
		found.Limits = append(found.Limits, Limit{
			Requests: quota.Limit.Requests, Window: metav1.Duration{Duration: quota.Limit.Window()},
			Used: max(quota.Limit.Requests-quota.Remaining, 0), Remaining: quota.Remaining, FreesAfterSeconds: quota.Reset.Seconds(),
		})
	}
	return found, grant, nil
}

func (s *Server) reset(ctx context.Context, q *asked) (any, error) {
	var wanted Caller
	if err := body(q.Request, &wanted); err != nil {
		return nil, err
	}
	identity, err := named(wanted.Identity)
	if err != nil {
		return nil, err
	}
	limits, _ := limitsOf(q.policy, identity, time.Now())
	if len(limits) == 0 {
		return nil, problem(http.StatusConflict, "The policy limits nothing for this caller: there is nothing to reset.")
	}
	if err := s.useStore(); err != nil {
		return nil, err
	}
	caller := s.unnamed(ctx, q.policy, identity)
	err = s.limiter.Reset(ctx, takeOf(q.policy, identity, limits))
	if err != nil { // it may have done it
		s.audit(q, EventReset, "Reset", "%s tried to empty the windows of %s: %v", q.who.Username, caller, err)
		return nil, s.unanswered(err)
	}
	s.audit(q, EventReset, "Reset", "%s emptied the windows of %s", q.who.Username, caller)
	// Sidecars are told afterwards: what they ask from then on meets empty windows.
	at := metav1.NowMicro()
	err = s.edit(ctx, q.policy, func(status *v1alpha1.RateLimitPolicyStatus) error {
		status.Resets = slices.DeleteFunc(status.Resets, func(r v1alpha1.Reset) bool { return r.Identity == identity })
		if excess := len(status.Resets) + 1 - v1alpha1.MaxResets; excess > 0 {
			status.Resets = slices.Delete(status.Resets, 0, excess) // the oldest are told already
		}
		status.Resets = append(status.Resets, v1alpha1.Reset{Identity: identity, At: at, By: shortened(q.who.Username, maxUserBytes)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s.usageOf(ctx, q.policy, identity)
}

func (s *Server) grant(ctx context.Context, q *asked) (any, error) {
	var wanted GrantRequest
	if err := body(q.Request, &wanted); err != nil {
		return nil, err
	}
	granted, err := wanted.check(time.Now())
	if err != nil {
		return nil, err
	}
	caller := s.unnamed(ctx, q.policy, granted.Identity)
	granted.By = shortened(q.who.Username, maxUserBytes)
	if limits, _ := limitsOf(q.policy, granted.Identity, time.Now()); len(limits) == 0 {
		return nil, problem(http.StatusConflict, "The policy limits nothing for this caller: there is nothing to grant.")
	}
	err = s.edit(ctx, q.policy, func(status *v1alpha1.RateLimitPolicyStatus) error {
		status.Grants = slices.DeleteFunc(status.Grants, func(g v1alpha1.Grant) bool { return g.Identity == granted.Identity })
		if len(status.Grants) >= v1alpha1.MaxGrants {
			return problem(http.StatusConflict, "The policy has %d grants, which is the most: end one, or add an override to the policy.", v1alpha1.MaxGrants)
		}
		status.Grants = append(status.Grants, granted)
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.audit(q, EventGranted, "Grant", "%s granted %s %d requests more in each window until %s (%s)",
		q.who.Username, caller, granted.Requests, granted.Until.UTC().Format(time.RFC3339), cmp.Or(granted.Reason, "no reason given"))
	return Grant{granted.Identity, granted.Requests, granted.Until, granted.By, granted.Reason}, nil
}

func (s *Server) revoke(ctx context.Context, q *asked) (any, error) {
	identity, err := q.identity()
	if err != nil {
		return nil, err
	}
	caller := s.unnamed(ctx, q.policy, identity)
	err = s.edit(ctx, q.policy, func(status *v1alpha1.RateLimitPolicyStatus) error {
		before := len(status.Grants)
		status.Grants = slices.DeleteFunc(status.Grants, func(g v1alpha1.Grant) bool { return g.Identity == identity })
		if len(status.Grants) == before {
			return problem(http.StatusNotFound, "The caller has no grant.")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.audit(q, EventRevoked, "Revoke", "%s ended the grant of %s", q.who.Username, caller)
	return grantsOf(q.policy, time.Now()), nil
}

func (s *Server) grants(_ context.Context, q *asked) (any, error) {
	return grantsOf(q.policy, time.Now()), nil
}

func grantsOf(policy *v1alpha1.RateLimitPolicy, now time.Time) Grants {
	found := Grants{Grants: []Grant{}}
	for _, g := range policy.Status.Grants {
		if now.Before(g.Until.Time) {
			found.Grants = append(found.Grants, Grant{g.Identity, g.Requests, g.Until, g.By, g.Reason})
		}
	}
	return found
}

// patience with the cache: 1.2 s in all.
var patience = wait.Backoff{Steps: 6, Duration: 10 * time.Millisecond, Factor: 3, Jitter: 0.1}

// edit changes a policy's status as it is now, and leaves the new one in policy.
func (s *Server) edit(ctx context.Context, policy *v1alpha1.RateLimitPolicy, change func(*v1alpha1.RateLimitPolicyStatus) error) error {
	uid := policy.UID
	err := retry.OnError(patience, apierrors.IsConflict, func() error {
		// What the cache has may be older than what is: then there is a conflict, also
		// where nothing is to be changed.
		if err := s.options.Client.Get(ctx, client.ObjectKeyFromObject(policy), policy); err != nil {
			return err
		}
		if policy.UID != uid {
			return problem(http.StatusConflict, "The policy was made anew meanwhile.")
		}
		before := policy.DeepCopy()
		refused := change(&policy.Status)
		if refused != nil {
			before.DeepCopyInto(policy)
		}
		err := s.options.Client.Status().Patch(ctx, policy, client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{}))
		return cmp.Or(err, refused)
	})
	switch {
	case apierrors.IsNotFound(err):
		return problem(http.StatusNotFound, "The policy was deleted meanwhile.")
	case apierrors.IsConflict(err):
		return problem(http.StatusServiceUnavailable, "The policy's status is being written by others. Try again.")
	}
	return err
}

// audit says who did what.
func (s *Server) audit(q *asked, reason, action, format string, args ...any) {
	sentence := fmt.Sprintf(format, args...)
	s.options.Recorder.Eventf(q.policy, nil, corev1.EventTypeNormal, reason, action, "%s", shortened(sentence, maxNoteBytes))
	s.options.Logger.Info(sentence, "namespace", q.policy.Namespace, "policy", q.policy.Name)
}

// useStore has the limiter decide where sidecars do.
func (s *Server) useStore() error {
	if err := s.limiter.Use(s.options.Store()); err != nil {
		return problem(http.StatusServiceUnavailable, "The store cannot be used: %v", err)
	}
	return nil
}

func (s *Server) unanswered(err error) error {
	if errors.Is(err, limiter.ErrStore) {
		return problem(http.StatusServiceUnavailable, "Redis did not say: %v.", err)
	}
	return err
}

// Close ends the connections to Redis.
func (s *Server) Close() {
	s.limiter.Close()
	s.reports.close()
}

// limitsOf are a caller's limits now, with the grant that is part of them.
func limitsOf(policy *v1alpha1.RateLimitPolicy, identity string, now time.Time) ([]v1alpha1.Limit, *v1alpha1.Grant) {
	limits := programming.LimitsOf(policy, identity)
	for i := range policy.Status.Grants {
		if grant := &policy.Status.Grants[i]; grant.Identity == identity && now.Before(grant.Until.Time) && len(limits) > 0 {
			return programming.WithGrant(limits, grant), grant
		}
	}
	return limits, nil
}

// takeOf is what a sidecar asks of Redis for a request of the caller.
func takeOf(policy *v1alpha1.RateLimitPolicy, identity string, limits []v1alpha1.Limit) limiter.Take {
	take := limiter.Take{Namespace: policy.Namespace, Service: policy.ServiceName(), Identity: identity}
	for _, limit := range limits {
		take.Limits = append(take.Limits, ruleset.Limit{Requests: int64(limit.Requests), WindowMillis: limit.Window.Milliseconds()})
	}
	return take
}

// identity is the parameter, which must be there and may be empty.
func (q *asked) identity() (string, error) {
	values, there := q.URL.Query()["identity"]
	if !there || len(values) != 1 {
		return "", problem(http.StatusBadRequest, "The parameter identity is required, once: the caller as the policy's sources name it, or empty for all unnamed callers together.")
	}
	return named(&values[0])
}

func named(identity *string) (string, error) {
	if identity == nil {
		return "", problem(http.StatusBadRequest, "identity is required: the caller as the policy's sources name it, or \"\" for all unnamed callers together.")
	}
	if len(*identity) > limiter.MaxIdentityBytes {
		return "", problem(http.StatusBadRequest, "identity has at most %d bytes.", limiter.MaxIdentityBytes)
	}
	if !utf8.ValidString(*identity) {
		return "", problem(http.StatusBadRequest, "identity is no UTF-8: a caller that is named so has a pseudonym in lists, for everybody.")
	}
	return *identity, nil
}

// The API's bounds.
const (
	maxReasonRunes = 200
	maxUserBytes   = 253
	maxNoteBytes   = 1000
)

// shortened is a text as there is room for it.
func shortened(text string, most int) string {
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}

func (g *GrantRequest) check(now time.Time) (v1alpha1.Grant, error) {
	var granted v1alpha1.Grant
	identity, err := named(g.Identity)
	switch {
	case err != nil:
		return granted, err
	case g.Requests < 1 || g.Requests > v1alpha1.MaxRequests:
		return granted, problem(http.StatusBadRequest, "requests is %d: want 1 to %d, those more in each window.", g.Requests, v1alpha1.MaxRequests)
	case (g.Until == nil) == (g.For == nil):
		return granted, problem(http.StatusBadRequest, "Either until (a time, RFC 3339) or for (like \"2h\") is required.")
	case len([]rune(g.Reason)) > maxReasonRunes:
		return granted, problem(http.StatusBadRequest, "reason has at most %d characters.", maxReasonRunes)
	}
	until := now
	if g.Until != nil {
		until = g.Until.Time
	} else {
		until = until.Add(g.For.Duration)
	}
	if left := until.Sub(now); left < minGrant || left > maxGrant {
		return granted, problem(http.StatusBadRequest, "A grant lasts from %v to %v; this would last %v.", minGrant, maxGrant, left.Round(time.Second))
	}
	// The API server keeps whole seconds.
	return v1alpha1.Grant{Identity: identity, Requests: g.Requests, Until: metav1.NewTime(until.Truncate(time.Second)), Reason: g.Reason}, nil
}

// strictly decodes JSON without unknown or repeated members behind it.
func strictly(text []byte, into any) error {
	if !utf8.Valid(text) {
		return problem(http.StatusBadRequest, "The body is no UTF-8.")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return problem(http.StatusBadRequest, "The body is not what is asked for here: %v.", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return problem(http.StatusBadRequest, "The body has something behind its JSON object.")
	}
	return nil
}
