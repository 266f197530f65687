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

// attempt is what somebody wants to do. An empty namespace is all, an empty
// policy any.
type attempt struct{ namespace, policy, verb, subresource string }

func (a attempt) resource() string {
	if a.subresource == "" {
		return "ratelimitpolicies"
	}
	return "ratelimitpolicies/" + a.subresource
}

// subject is who asks.
type subject struct {
	authenticationv1.UserInfo
	// proof of who it is: a hash of token or certificate.
	proof [sha256.Size]byte
}

// errUnauthenticated: nobody has proved who asks.
var errUnauthenticated = errors.New("nobody known asks")

// access asks the API server who it is and whether they may.
type access struct {
	api kubernetes.Interface
	// authorities of client certificates; nil: none is accepted.
	authorities *ClientAuthorities
	// known are subjects by their proof, nil ones where it proves nothing, and
	// whether they may, by question.
	known *lru.LRUExpireCache
	// asking has a value for each question to the API server that is under way.
	asking chan struct{}
}

type question struct {
	proof [sha256.Size]byte
	attempt
}

func newAccess(api kubernetes.Interface, authorities *ClientAuthorities) *access {
	return &access{api: api, authorities: authorities, known: lru.NewLRUExpireCache(maxKnown), asking: make(chan struct{}, maxAsking)}
}

// who asks: whose bearer token it is or, without a token, whose client
// certificate. errUnauthenticated, or: the API server did not say.
func (a *access) who(r *http.Request) (*subject, error) {
	authorization := r.Header.Get("Authorization")
	if authorization == "" && r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return a.authorities.subject(r.TLS.PeerCertificates)
	}
	scheme, token, _ := strings.Cut(authorization, " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxTokenBytes {
		return nil, errUnauthenticated
	}
	proof := sha256.Sum256([]byte(token))
	known, ok := a.known.Get(proof)
	if !ok {
		found, err := a.review(r.Context(), token, proof)
		if err != nil {
			return nil, err
		}
		a.known.Add(proof, found, knownFor)
		known = found
	}
	if found := known.(*subject); found != nil {
		return found, nil
	}
	return nil, errUnauthenticated
}

// review is nil of a token that is nobody's.
func (a *access) review(ctx context.Context, token string, proof [sha256.Size]byte) (*subject, error) {
	var answer *authenticationv1.TokenReview
	err := a.ask(ctx, func(ctx context.Context) (err error) {
		// Without audiences it is the API server's own: a person's token, not a
		// sidecar's.
		answer, err = a.api.AuthenticationV1().TokenReviews().Create(ctx,
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("asking the API server whose token it is: %w", err)
	}
	if !answer.Status.Authenticated {
		return nil, nil
	}
	return &subject{answer.Status.User, proof}, nil
}

// may says whether somebody may do something. An error: the API server did not
// say.
func (a *access) may(ctx context.Context, who *subject, wanted attempt) (bool, error) {
	asked := question{who.proof, wanted}
	if known, ok := a.known.Get(asked); ok {
		return known.(bool), nil
	}
	extra := map[string]authorizationv1.ExtraValue{}
	for name, values := range who.Extra {
		extra[name] = authorizationv1.ExtraValue(values)
	}
	var answer *authorizationv1.SubjectAccessReview
	err := a.ask(ctx, func(ctx context.Context) (err error) {
		answer, err = a.api.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: who.Username, Groups: who.Groups, UID: who.UID, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Group: v1alpha1.GroupVersion.Group, Version: v1alpha1.GroupVersion.Version, Resource: "ratelimitpolicies",
					Subresource: wanted.subresource, Verb: wanted.verb, Namespace: wanted.namespace, Name: wanted.policy,
				},
			},
		}, metav1.CreateOptions{})
		if err == nil && !answer.Status.Allowed && answer.Status.EvaluationError != "" {
			err = errors.New(answer.Status.EvaluationError)
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("asking the API server what a user may: %w", err)
	}
	a.known.Add(asked, answer.Status.Allowed, knownFor)
	return answer.Status.Allowed, nil
}

// ask asks the API server, in bounded time, and not more than so many questions at
// once.
func (a *access) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return question(ctx)
}
