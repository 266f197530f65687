package link

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	lru "k8s.io/apimachinery/pkg/util/cache"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create

// Reviewer asks the API server whose token it is.
type Reviewer interface {
	Create(ctx context.Context, review *authenticationv1.TokenReview, options metav1.CreateOptions) (*authenticationv1.TokenReview, error)
}

// Bounds on what is remembered of tokens.
const (
	maxTokenBytes  = 16 << 10
	maxKnownTokens = 32768
	maxRefused     = 4096
	refusedFor     = 5 * time.Second
	reviewTimeout  = 5 * time.Second
	// maxReviews at once: after a restart every sidecar asks, and an API server
	// that is asked by all at once answers nobody in time.
	maxReviews      = 32
	podNameExtra    = "authentication.kubernetes.io/pod-name"
	podUIDExtra     = "authentication.kubernetes.io/pod-uid"
	serviceAccounts = "system:serviceaccount:"
)

// How old a review may be. A pod's token ends with the pod, which every request
// looks up, so that what a review finds later is only that the service account
// is gone or that the cluster's keys were replaced. Of others we know nothing.
const (
	podTokenKnownFor = 10 * time.Minute
	knownFor         = time.Minute
)

// errUnauthenticated means that the token proves nothing to us.
var errUnauthenticated = errors.New("the token is not valid for audience " + ruleset.Audience)

// caller is who a token speaks for.
type caller struct {
	username string
	// pod that the token is bound to; its UID is empty for an unbound token.
	pod types.NamespacedName
	uid types.UID
}

// tokens reviews tokens and remembers the answers by their SHA-256.
type tokens struct {
	reviewer Reviewer
	now      func() time.Time
	known    *lru.LRUExpireCache
	refused  *lru.LRUExpireCache
	flights  singleflight.Group
	// reviews has a value for each that is under way.
	reviews chan struct{}
}

// review is an answer that is remembered.
type review struct {
	caller
	at time.Time
}

func newTokens(reviewer Reviewer) *tokens {
	return &tokens{
		reviewer: reviewer,
		now:      time.Now,
		known:    lru.NewLRUExpireCache(maxKnownTokens),
		refused:  lru.NewLRUExpireCache(maxRefused),
		reviews:  make(chan struct{}, maxReviews),
	}
}

// knows says whether authenticate would answer without the API server.
func (t *tokens) knows(token string, longest time.Duration) bool {
	known, ok := t.known.Get(sha256.Sum256([]byte(token)))
	return ok && t.now().Sub(known.(review).at) < longest
}

// authenticate says whose token it is, as the API server said no longer than
// longest ago. errUnauthenticated: nobody's. Any other error: the API server did
// not say.
func (t *tokens) authenticate(ctx context.Context, token string, longest time.Duration) (caller, error) {
	if token == "" || len(token) > maxTokenBytes {
		return caller{}, errUnauthenticated
	}
	key := sha256.Sum256([]byte(token))
	if known, ok := t.known.Get(key); ok && t.now().Sub(known.(review).at) < longest {
		return known.(review).caller, nil
	}
	if _, ok := t.refused.Get(key); ok {
		return caller{}, errUnauthenticated
	}
	if ctx.Err() != nil { // the one that asked is gone: its turn is another's
		return caller{}, ctx.Err()
	}
	select {
	case t.reviews <- struct{}{}:
		defer func() { <-t.reviews }()
	case <-ctx.Done():
		return caller{}, ctx.Err()
	}
	// The review outlives a caller that goes away: others may wait for it.
	answer, err, _ := t.flights.Do(string(key[:]), func() (any, error) {
		if known, ok := t.known.Get(key); ok && t.now().Sub(known.(review).at) < longest {
			return known.(review).caller, nil // reviewed while this one waited
		}
		reviewing, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		found, err := t.review(reviewing, token)
		switch {
		case errors.Is(err, errUnauthenticated):
			t.refused.Add(key, struct{}{}, refusedFor)
		case err == nil:
			if remembered := min(spread(podTokenKnownFor), expiry(token).Sub(t.now())); remembered > 0 {
				t.known.Add(key, review{found, t.now()}, remembered)
			}
		}
		return found, err
	})
	if ctx.Err() != nil {
		return caller{}, ctx.Err()
	}
	return answer.(caller), err
}

// spread shortens a time by up to a quarter: what was reviewed at the same time,
// after a restart, is not reviewed again at the same time.
func spread(d time.Duration) time.Duration { return d - rand.N(d/4) }

func (t *tokens) review(ctx context.Context, token string) (caller, error) {
	answer, err := t.reviewer.Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: []string{ruleset.Audience}},
	}, metav1.CreateOptions{})
	if err != nil {
		return caller{}, fmt.Errorf("asking the API server whose token it is: %w", err)
	}
	// An API server that ignores audiences answers without them.
	if !answer.Status.Authenticated || !slices.Contains(answer.Status.Audiences, ruleset.Audience) {
		return caller{}, errUnauthenticated
	}
	found := caller{username: answer.Status.User.Username}
	account, ok := strings.CutPrefix(found.username, serviceAccounts)
	names, uids := answer.Status.User.Extra[podNameExtra], answer.Status.User.Extra[podUIDExtra]
	if ok && len(names) == 1 && len(uids) == 1 {
		namespace, _, _ := strings.Cut(account, ":")
		found.pod = types.NamespacedName{Namespace: namespace, Name: names[0]}
		found.uid = types.UID(uids[0])
	}
	return found, nil
}

// expiry reads when a reviewed token ends; a token that does not say may be
// remembered as long as any.
func expiry(token string) time.Time {
	const never = 1 << 40
	var claims struct {
		Expires int64 `json:"exp"`
	}
	claims.Expires = never
	if parts := strings.Split(token, "."); len(parts) == 3 {
		if payload, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(payload, &claims) // one without "exp" keeps never
		}
	}
	return time.Unix(claims.Expires, 0)
}
