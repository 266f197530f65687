// Package access asks the API server who somebody is (TokenReview) and what they
// may (SubjectAccessReview): the rights of people who ask Weir are those that
// Kubernetes gives them.
package access

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

const (
	// MaxTokenBytes of a token that is asked about.
	MaxTokenBytes = 16 << 10
	// knownFor is how long an answer of the API server is taken to hold, and
	// maxKnown how many are kept.
	knownFor = 10 * time.Second
	maxKnown = 16384
	// reviewTimeout bounds asking the API server.
	reviewTimeout = 5 * time.Second
	// maxAsking bounds the questions under way.
	maxAsking = 8
)

// ErrUnauthenticated: the API server accepts no such token.
var ErrUnauthenticated = errors.New("the API server does not accept the token")

// User is somebody whom the API server, or somebody trusted, has named.
type User = authenticationv1.UserInfo

// Attempt is what somebody wants to do with resources of the group weir.dev.
// Namespace "" is all of them, Name "" any.
type Attempt struct{ Namespace, Resource, Subresource, Name, Verb string }

// Reviewer asks the API server and, unless it is made by Fresh, remembers what it
// said for ten seconds.
type Reviewer struct {
	api   kubernetes.Interface
	grace time.Duration
	known *lru.LRUExpireCache // of keys -> answer; nil: nothing is remembered
	// asking has a value for each question to the API server that is under way.
	asking chan struct{}
}

type answer struct {
	user *User // of a token; nil: not accepted
	may  bool
	at   time.Time
}

// New returns a Reviewer. While the API server does not answer, what it said
// before holds for so long as grace.
func New(api kubernetes.Interface, grace time.Duration) *Reviewer {
	return &Reviewer{api: api, grace: grace, known: lru.NewLRUExpireCache(maxKnown), asking: make(chan struct{}, maxAsking)}
}

// Fresh returns a Reviewer that asks each time.
func Fresh(api kubernetes.Interface) *Reviewer {
	return &Reviewer{api: api, asking: make(chan struct{}, maxAsking)}
}

// Identify says whose token it is; ErrUnauthenticated when nobody's. Another
// error: the API server did not say.
func (r *Reviewer) Identify(ctx context.Context, token string) (*User, error) {
	if token == "" || len(token) > MaxTokenBytes {
		return nil, ErrUnauthenticated
	}
	found, err := r.ask(ctx, sha256.Sum256([]byte("token\x00"+token)), func(ctx context.Context) (answer, error) {
		// Without audiences it is the API server's own: a person's token, not a
		// sidecar's.
		review, err := r.api.AuthenticationV1().TokenReviews().Create(ctx,
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		if err != nil {
			return answer{}, fmt.Errorf("asking the API server whose token it is: %w", err)
		}
		if !review.Status.Authenticated {
			return answer{}, nil
		}
		return answer{user: &review.Status.User}, nil
	})
	if err == nil && found.user == nil {
		err = ErrUnauthenticated
	}
	return found.user, err
}

// May says whether a user may. An error: the API server did not say.
func (r *Reviewer) May(ctx context.Context, user *User, wanted Attempt) (bool, error) {
	about, err := json.Marshal([]any{user, wanted})
	if err != nil {
		return false, err
	}
	found, err := r.ask(ctx, sha256.Sum256(about), func(ctx context.Context) (answer, error) {
		extra := map[string]authorizationv1.ExtraValue{}
		for name, values := range user.Extra {
			extra[name] = authorizationv1.ExtraValue(values)
		}
		review, err := r.api.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: wanted.Resource,
					Subresource: wanted.Subresource, Verb: wanted.Verb, Namespace: wanted.Namespace, Name: wanted.Name,
				},
			},
		}, metav1.CreateOptions{})
		switch {
		case err != nil:
			return answer{}, fmt.Errorf("asking the API server what a user may: %w", err)
		case !review.Status.Allowed && review.Status.EvaluationError != "":
			return answer{}, errors.New("asking the API server what a user may: " + review.Status.EvaluationError)
		}
		return answer{may: review.Status.Allowed}, nil
	})
	return found.may, err
}

// ask returns what is known, or what the API server says now.
func (r *Reviewer) ask(ctx context.Context, key [sha256.Size]byte, review func(context.Context) (answer, error)) (answer, error) {
	known, isKnown := r.recall(key)
	if isKnown && time.Since(known.at) < knownFor {
		return known, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case r.asking <- struct{}{}:
		defer func() { <-r.asking }()
	case <-ctx.Done():
		return answer{}, ctx.Err()
	}
	found, err := review(ctx)
	if err != nil && isKnown && r.grace > 0 {
		return known, nil
	}
	if err == nil && r.known != nil {
		found.at = time.Now()
		r.known.Add(key, found, max(knownFor, r.grace))
	}
	return found, err
}

func (r *Reviewer) recall(key [sha256.Size]byte) (answer, bool) {
	if r.known == nil {
		return answer{}, false
	}
	value, is := r.known.Get(key)
	known, _ := value.(answer)
	return known, is
}
