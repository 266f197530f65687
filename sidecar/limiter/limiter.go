package limiter

import (
	"errors"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// ErrStore is wrapped by every error of Take and Remaining that means "Redis
// did not decide within the store timeout". The caller then does what the
// policy's onStoreFailure says.
var ErrStore = errors.New("the store did not decide")

// Take asks for Cost units of one identity's quota of a service. All its
// limits must admit.
type Take struct {
	Namespace string
	Service   string
	// Identity is the caller's name; empty for all unnamed callers together.
	Identity string
	// Limits with distinct windows, at least one.
	Limits []ruleset.Limit
	// Cost in units; 0 means 1.
	Cost int64
}

// Decision answers some takes together: all were admitted, or none was.
type Decision struct {
	Admitted bool
	// RetryAfter is 0 when admitted. Otherwise it is when the same takes would
	// be admitted, if nobody else took meanwhile: not a microsecond earlier.
	// Negative when they never would (a cost above a limit).
	RetryAfter time.Duration
	// Quotas has one entry for each limit of each take, in their order.
	Quotas []Quota
}

// Quota is the state of one limit of one take after the decision.
type Quota struct {
	// Take is the index of the take.
	Take  int
	Limit ruleset.Limit
	// Remaining units that could be taken now.
	Remaining int64
	// Reset is the time until Remaining grows; 0 when nothing is taken.
	Reset time.Duration
	// RetryAfter is the time until this limit alone would admit the take; 0
	// when it admits now, negative when it never would.
	RetryAfter time.Duration
}
