package link

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// reviewer is an API server that fails, forgets audiences or takes its time:
// what the real one of test/integration does not.
type reviewer struct {
	calls  atomic.Int32
	status authenticationv1.TokenReviewStatus
	err    error
	wait   time.Duration
}

func (r *reviewer) Create(_ context.Context, review *authenticationv1.TokenReview, _ metav1.CreateOptions) (*authenticationv1.TokenReview, error) {
	r.calls.Add(1)
	time.Sleep(r.wait) // in a bubble: no real time
	review.Status = r.status
	return review, r.err
}

func podToken() authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true,
		Audiences:     []string{ruleset.Audience},
		User: authenticationv1.UserInfo{
			Username: "system:serviceaccount:shop:default",
			Extra: map[string]authenticationv1.ExtraValue{
				podNameExtra: {"web-1"},
				podUIDExtra:  {"uid-1"},
			},
		},
	}
}

func jwt(expires time.Time) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte("{}")) + "." + encode(fmt.Appendf(nil, `{"exp":%d}`, expires.Unix())) + ".signature"
}

func TestAuthenticateRemembers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason   string
		longest  time.Duration
		lives    time.Duration
		later    time.Duration
		reviewed int32
	}{
		{"within a minute the API server is not asked again", knownFor, time.Hour, 59 * time.Second, 1},
		{"after a minute it is", knownFor, time.Hour, 61 * time.Second, 2},
		{"what looks the pod up itself asks again after 7.5 to 10 minutes, not before", podTokenKnownFor, time.Hour, 7*time.Minute + 29*time.Second, 1},
		{"and then it does", podTokenKnownFor, time.Hour, 10*time.Minute + time.Second, 2},
		{"a token that ends sooner is asked about when it has ended", podTokenKnownFor, 10 * time.Second, 11 * time.Second, 2},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := &reviewer{status: podToken()}
				tokens := newTokens(fake)
				token := jwt(time.Now().Add(test.lives))
				for range 3 {
					found, err := tokens.authenticate(t.Context(), token, test.longest)
					if err != nil || found.pod.String() != "shop/web-1" || found.uid != "uid-1" {
						t.Fatalf("got %+v, %v", found, err)
					}
				}
				time.Sleep(test.later)
				if _, err := tokens.authenticate(t.Context(), token, test.longest); err != nil {
					t.Fatal(err)
				}
				if got := fake.calls.Load(); got != test.reviewed {
					t.Errorf("reviewed %d times, want %d", got, test.reviewed)
				}
			})
		})
	}
}

func TestAuthenticateRefuses(t *testing.T) {
	t.Parallel()
	otherAudience := podToken()
	otherAudience.Audiences = nil
	for _, test := range []struct {
		reason, token string
		status        authenticationv1.TokenReviewStatus
		reviewed      int32
	}{
		{"no token", "", podToken(), 0},
		{"a token of unreasonable size is not passed on", string(make([]byte, maxTokenBytes+1)), podToken(), 0},
		{"a token that the API server does not know, once in 5 s", "t", authenticationv1.TokenReviewStatus{}, 1},
		{"an answer that ignores the audience", "t", otherAudience, 1},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			fake := &reviewer{status: test.status}
			tokens := newTokens(fake)
			for range 2 {
				if _, err := tokens.authenticate(t.Context(), test.token, knownFor); !errors.Is(err, errUnauthenticated) {
					t.Errorf("got %v", err)
				}
			}
			if got := fake.calls.Load(); got != test.reviewed {
				t.Errorf("reviewed %d times, want %d", got, test.reviewed)
			}
		})
	}
}

func TestAuthenticateWithoutAPIServer(t *testing.T) {
	t.Parallel()
	fake := &reviewer{err: errors.New("connection refused")}
	tokens := newTokens(fake)
	if _, err := tokens.authenticate(t.Context(), "t", knownFor); err == nil || errors.Is(err, errUnauthenticated) {
		t.Errorf("got %v, want an error that blames no token", err)
	}
	fake.err, fake.status = nil, podToken()
	if _, err := tokens.authenticate(t.Context(), "t", knownFor); err != nil {
		t.Errorf("a failure was remembered: %v", err)
	}
}

func TestAuthenticateAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := &reviewer{status: podToken(), wait: time.Second}
		tokens := newTokens(fake)
		gone, cancel := context.WithCancel(t.Context())
		var callers sync.WaitGroup
		callers.Go(func() {
			if _, err := tokens.authenticate(gone, "t", knownFor); !errors.Is(err, context.Canceled) {
				t.Errorf("the one that went away: got %v", err)
			}
		})
		synctest.Wait()
		for range 10 {
			callers.Go(func() {
				if _, err := tokens.authenticate(t.Context(), "t", knownFor); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		callers.Wait()
		if got := fake.calls.Load(); got != 1 {
			t.Errorf("reviewed %d times, want once for all", got)
		}
	})
}

func TestAuthenticateAsksForFewAtATime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const asking = 20 * maxReviews
		fake := &reviewer{status: podToken(), wait: time.Second}
		tokens := newTokens(fake)
		began := time.Now()
		var callers sync.WaitGroup
		for i := range asking {
			callers.Go(func() {
				if _, err := tokens.authenticate(t.Context(), fmt.Sprint(i), knownFor); err != nil {
					t.Errorf("one that had to wait its turn: %v", err)
				}
			})
		}
		callers.Wait()
		if took := time.Since(began); took != asking/maxReviews*time.Second {
			t.Errorf("%d reviews of a second took %v: want %d at a time", asking, took, maxReviews)
		}
	})
}

func TestNoTokenIsReviewedForNobody(t *testing.T) {
	t.Parallel()
	fake := &reviewer{status: podToken()}
	tokens := newTokens(fake)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for i := range 100 {
		if _, err := tokens.authenticate(gone, fmt.Sprint(i), knownFor); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	if got := fake.calls.Load(); got != 0 {
		t.Errorf("reviewed %d times for those who went away", got)
	}
}

func TestSpreadKeepsReviewsApart(t *testing.T) {
	t.Parallel()
	least, most := time.Hour, time.Duration(0)
	for range 1000 {
		d := spread(time.Minute)
		least, most = min(least, d), max(most, d)
	}
	if least < 45*time.Second || most > time.Minute || most-least < 10*time.Second {
		t.Errorf("a minute is spread over %v to %v, want 45 s to 60 s", least, most)
	}
}
