package usage

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Paths under Prefix are /{namespace}/{policy}/usage, /resets and /grants.
const Prefix = "/v1/policies/"

// Usage is what GET …/usage?identity= answers: how it is with one caller now.
// Nothing is taken.
type Usage struct {
	Namespace string `json:"namespace"`
	Policy    string `json:"policy"`
	Service   string `json:"service"`
	// Identity of the caller; empty: all unnamed callers together.
	Identity string `json:"identity"`
	// Unlimited: the policy limits nothing for this caller, and there is no more
	// to say.
	Unlimited bool `json:"unlimited,omitempty"`
	// Admitted says whether a request would be now, and RetryAfterSeconds when it
	// would be if not; absent when it would.
	Admitted          bool    `json:"admitted"`
	RetryAfterSeconds float64 `json:"retryAfterSeconds,omitempty"`
	Limits            []Limit `json:"limits,omitempty"`
	// Grant is part of the limits; absent: none.
	Grant *Grant `json:"grant,omitempty"`
}

// Limit is how it is with one of a caller's limits.
type Limit struct {
	Requests int64           `json:"requests"`
	Window   metav1.Duration `json:"window"`
	// Used are those within the window, and those that sidecars have reserved.
	Used      int64 `json:"used"`
	Remaining int64 `json:"remaining"`
	// FreesAfterSeconds is when more remains; 0: nothing is used.
	FreesAfterSeconds float64 `json:"freesAfterSeconds"`
}

// Caller is the body of POST …/resets.
type Caller struct {
	Identity *string `json:"identity"`
}

// GrantRequest is the body of POST …/grants: Requests more in each window of the
// caller's limits, until a time or for so long. Another grant of the caller is
// replaced.
type GrantRequest struct {
	Identity *string          `json:"identity"`
	Requests int32            `json:"requests"`
	Until    *metav1.Time     `json:"until,omitempty"`
	For      *metav1.Duration `json:"for,omitempty"`
	Reason   string           `json:"reason,omitempty"`
}

// Grant is one in force. DELETE …/grants?identity= ends it.
type Grant struct {
	Identity string      `json:"identity"`
	Requests int32       `json:"requests"`
	Until    metav1.Time `json:"until"`
	By       string      `json:"by,omitempty"`
	Reason   string      `json:"reason,omitempty"`
}

// Grants is what GET …/grants answers.
type Grants struct {
	Grants []Grant `json:"grants"`
}

// Problem is the body of every answer that is none of the above, as
// application/problem+json (RFC 9457).
type Problem struct {
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
}

// Bounds of a grant's time.
const (
	minGrant = time.Second
	maxGrant = 366 * 24 * time.Hour
)
