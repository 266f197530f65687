package usage

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Paths that the API has. openapi.json says all about it.
const (
	// Prefix is that of a policy's paths: /{namespace}/{policy}, and below.
	Prefix       = "/v1/policies/"
	policiesPath = "/v1/policies"
	documentPath = "/v1/openapi.json"
)

// Paths are the patterns of an http.ServeMux that a Server answers.
func Paths() []string { return []string{policiesPath, Prefix, documentPath} }

// Policies is what GET /v1/policies answers.
type Policies struct {
	// Policies, ordered by namespace/name.
	Policies []Policy `json:"policies"`
	// Continue is the parameter of that name of the request for the next page;
	// absent: this is the last.
	Continue string `json:"continue,omitempty"`
	// Missing says why there are no rates and series; absent: there are.
	Missing string `json:"missing,omitempty"`
}

// Policy is one, and what happens at it. What GET /v1/policies/{namespace}/{policy}
// answers has Recent, Hour and Conditions, too.
type Policy struct {
	Namespace string  `json:"namespace"`
	Policy    string  `json:"policy"`
	Service   string  `json:"service"`
	Direction string  `json:"direction"`
	Mode      string  `json:"mode"`
	Limits    []Quota `json:"limits"`
	// State is Ready, why it is not (a reason of the policy's condition Ready), or
	// Unknown while the operator has not looked at it; Message is its sentence.
	State   string `json:"state"`
	Message string `json:"message,omitempty"`
	Ready   bool   `json:"ready"`
	// Degraded: some of its sidecars have no answer from Redis.
	Degraded bool      `json:"degraded"`
	Pods     PodCounts `json:"pods"`
	// Rates of now; absent: Redis did not say.
	Rates *Rates `json:"rates,omitempty"`
	// MostUsed is the limit of which most is used now, by one of the four callers that
	// asked most within the policy's longest window, of at most ten minutes; in lists
	// only, and absent while nobody asked.
	MostUsed *Use `json:"mostUsed,omitempty"`
	// Recent is of the last two minutes, Hour of the last hour; the last count of
	// each is not complete.
	Recent     *Series     `json:"recent,omitempty"`
	Hour       *Series     `json:"hour,omitempty"`
	Conditions []Condition `json:"conditions,omitempty"`
	// Missing says why there are no rates and series; absent: there are.
	Missing string `json:"missing,omitempty"`
}

// Quota is one limit of a policy.
type Quota struct {
	Requests int64           `json:"requests"`
	Window   metav1.Duration `json:"window"`
}

// PodCounts of a policy.
type PodCounts struct {
	Selected  int32 `json:"selected"`
	Enforcing int32 `json:"enforcing"`
	// Degraded have no answer from Redis; rounded up above 16.
	Degraded int32 `json:"degraded"`
}

// Pods is what GET …/pods answers: those that a policy selects, by name; those that
// do not enforce it as it is, or are without Redis or silent, are first.
type Pods struct {
	// Generation of the policy that is to be enforced.
	Generation int64     `json:"generation"`
	States     PodStates `json:"states"`
	Pods       []Pod     `json:"pods"`
	Continue   string    `json:"continue,omitempty"`
}

// PodStates count a policy's pods, all of them.
type PodStates struct {
	Selected        int32 `json:"selected"`
	Enforcing       int32 `json:"enforcing"`
	Pending         int32 `json:"pending"`
	Rejected        int32 `json:"rejected"`
	NotIntercepting int32 `json:"notIntercepting"`
	NotConnected    int32 `json:"notConnected"`
	NoSidecar       int32 `json:"noSidecar"`
	// Of those above, as Troubled, which are listed first.
	WithoutRedis int32 `json:"withoutRedis"`
	Silent       int32 `json:"silent"`
	Troubled     int32 `json:"troubled"`
}

// Pod is one that a policy selects.
type Pod struct {
	Pod string `json:"pod"`
	// State is one of those above. What a pod has acknowledged it enforces until it
	// acknowledges something else, also while it is silent.
	State string `json:"state"`
	// Generation of the policy that it enforces; absent: none, or it has not said so.
	Generation int64 `json:"generation,omitempty"`
	// Since when it says so; absent: it has said nothing.
	Since *time.Time `json:"since,omitempty"`
	// Since when its sidecar has no answer from Redis, and has not asked the
	// operator for rules; absent: it has.
	WithoutRedisSince *time.Time `json:"withoutRedisSince,omitempty"`
	SilentSince       *time.Time `json:"silentSince,omitempty"`
	// Message says why it rejected the policy.
	Message string `json:"message,omitempty"`
}

// Use is what one caller, of whom no more is told, has used of a limit.
type Use struct {
	Requests int64           `json:"requests"`
	Window   metav1.Duration `json:"window"`
	Used     int64           `json:"used"`
}

// Rates are requests a second: the mean of the last ten seconds.
type Rates struct {
	Admitted float64 `json:"admitted"`
	// Limited were refused, or would have been by a policy that observes.
	Limited float64 `json:"limited"`
	// WithoutRedis were decided while Redis did not; those of a sidecar's share are
	// admitted or limited, too.
	WithoutRedis float64 `json:"withoutRedis"`
}

// Series are counts of requests, the oldest first, each of as many seconds.
type Series struct {
	Begin        time.Time `json:"begin"`
	StepSeconds  int64     `json:"stepSeconds"`
	Admitted     []int64   `json:"admitted"`
	Limited      []int64   `json:"limited"`
	WithoutRedis []int64   `json:"withoutRedis"`
}

// Condition of a policy's status.
type Condition struct {
	Type    string      `json:"type"`
	Status  string      `json:"status"`
	Reason  string      `json:"reason"`
	Message string      `json:"message"`
	Since   metav1.Time `json:"since"`
}

// Callers is what GET …/callers answers: those that asked most in the last ten
// minutes, whoever did first.
type Callers struct {
	Callers  []TopCaller `json:"callers"`
	Continue string      `json:"continue,omitempty"`
}

// Name of a caller: Identity for those who may read the policy's status, else, and
// where that is no UTF-8, a Pseudonym, which is the same for the same caller of a policy.
type Name struct {
	// Identity; empty: all unnamed callers together.
	Identity  *string `json:"identity,omitempty"`
	Pseudonym string  `json:"pseudonym,omitempty"`
}

// TopCaller is one of those that asked most, and how it is with it now.
type TopCaller struct {
	Name
	// Asked are the units of the last ten minutes, and Limited those of them that
	// were refused. A request is one unit, but for those that say otherwise.
	Asked   int64 `json:"asked"`
	Limited int64 `json:"limited"`
	Standing
}

// Refusals is what GET …/refusals answers: some of the last hour, the latest first.
type Refusals struct {
	Refusals []Refusal `json:"refusals"`
	Continue string    `json:"continue,omitempty"`
}

// Refusal is a request that was limited.
type Refusal struct {
	Name
	At time.Time `json:"at"`
	// Requests and Window are the limit's.
	Requests int64           `json:"requests"`
	Window   metav1.Duration `json:"window"`
	// Frees is when the same would be admitted; absent: never.
	Frees *time.Time `json:"frees,omitempty"`
	Pod   string     `json:"pod"`
	// Observed: the policy only observes, and the request passed.
	Observed bool `json:"observed,omitempty"`
}

// Usage is what GET …/usage?identity= answers: how it is with one caller now.
// Nothing is taken.
type Usage struct {
	Namespace string `json:"namespace"`
	Policy    string `json:"policy"`
	Service   string `json:"service"`
	// Identity of the caller; empty: all unnamed callers together.
	Identity string `json:"identity"`
	Standing
	// Grant is part of the limits; absent: none.
	Grant *Grant `json:"grant,omitempty"`
}

// Standing is how it is with a caller.
type Standing struct {
	// Unlimited: the policy limits nothing for this caller, and there is no more
	// to say.
	Unlimited bool `json:"unlimited,omitempty"`
	// Admitted says whether a request would be now, and RetryAfterSeconds when it
	// would be if not; absent when it would.
	Admitted          bool    `json:"admitted"`
	RetryAfterSeconds float64 `json:"retryAfterSeconds,omitempty"`
	Limits            []Limit `json:"limits,omitempty"`
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

// CallerWindow is what GET …/window?identity= and GET …/callers/{pseudonym} answer:
// how it is with one caller now, and when what it has used was admitted.
type CallerWindow struct {
	Name
	Standing
	// Windows of the limits, in their order.
	Windows []Window `json:"windows,omitempty"`
	// Grant and Reset, the last one, are told with the caller's identity; absent:
	// none is known.
	Grant *Grant `json:"grant,omitempty"`
	Reset *Reset `json:"reset,omitempty"`
}

// Window is what counts of one limit, and since when, the oldest first: at most 51
// buckets. What a bucket has is free a window after it.
type Window struct {
	Requests int64           `json:"requests"`
	Window   metav1.Duration `json:"window"`
	// Begin of the first bucket, and the length of each. The last is under way.
	Begin       time.Time `json:"begin"`
	StepSeconds float64   `json:"stepSeconds"`
	Units       []int64   `json:"units"`
	// Reserved by sidecars, which may use them.
	Reserved int64 `json:"reserved"`
}

// Reset is one that somebody did.
type Reset struct {
	At time.Time `json:"at"`
	By string    `json:"by,omitempty"`
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
