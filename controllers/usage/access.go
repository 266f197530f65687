package usage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
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
	maxTokenBytes = 16 << 10
	// knownFor is how long an answer of the API server is taken to hold, and
	// maxKnown how many are kept.
	knownFor = 10 * time.Second
	maxKnown = 4096
	// reviewTimeout bounds asking the API server.
	reviewTimeout = 5 * time.Second
	// maxAsking bounds the questions under way.
	maxAsking = 8
)

// attempt is what somebody wants to do.
type attempt struct{ namespace, policy, verb, subresource string }

// access asks the API server who it is and whether they may.
type access struct {
	api   kubernetes.Interface
	known *lru.LRUExpireCache // of question
	// asking has a value for each question to the API server that is under way.
	asking chan struct{}
}

type question struct {
	token [sha256.Size]byte
	attempt
}

// verdict of the API server.
type verdict struct {
	user   string
	status int // http.StatusOK, StatusUnauthorized or StatusForbidden
}

func newAccess(api kubernetes.Interface) *access {
	return &access{api: api, known: lru.NewLRUExpireCache(maxKnown), asking: make(chan struct{}, maxAsking)}
}

// allow says who it is and whether they may. An error: the API server did not say.
func (a *access) allow(r *http.Request, wanted attempt) (verdict, error) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxTokenBytes {
		return verdict{status: http.StatusUnauthorized}, nil
	}
	asked := question{sha256.Sum256([]byte(token)), wanted}
	if known, ok := a.known.Get(asked); ok {
		return known.(verdict), nil
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
	defer cancel()
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return verdict{}, ctx.Err()
	}
	found, err := a.ask(ctx, token, wanted)
	if err == nil {
		a.known.Add(asked, found, knownFor)
	}
	return found, err
}

func (a *access) ask(ctx context.Context, token string, wanted attempt) (verdict, error) {
	// Without audiences it is the API server's own: a person's token, not a
	// sidecar's.
	review, err := a.api.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return verdict{}, fmt.Errorf("asking the API server whose token it is: %w", err)
	}
	if !review.Status.Authenticated {
		return verdict{status: http.StatusUnauthorized}, nil
	}
	user := review.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for name, values := range user.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	answer, err := a.api.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: "ratelimitpolicies",
				Subresource: wanted.subresource, Verb: wanted.verb, Namespace: wanted.namespace, Name: wanted.policy,
			},
		},
	}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return verdict{}, fmt.Errorf("asking the API server what a user may: %w", err)
	case !answer.Status.Allowed && answer.Status.EvaluationError != "":
		return verdict{}, errors.New("asking the API server what a user may: " + answer.Status.EvaluationError)
	case !answer.Status.Allowed:
		return verdict{user.Username, http.StatusForbidden}, nil
	}
	return verdict{user.Username, http.StatusOK}, nil
}
