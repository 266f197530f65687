package programming

import (
	"math/bits"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// Shares says whether the sidecars that enforce a policy divide its limits among
// themselves while the store does not answer.
func Shares(policy *v1alpha1.RateLimitPolicy) bool {
	return policy.Spec.OnStoreFailure == v1alpha1.OnStoreFailureLocal || policy.Spec.OnStoreFailure == ""
}

// Coarse rounds a number of sidecars up, by less than an eighth: it is exact up to
// 16, and from there one of eight numbers an octave. So a service that grows to
// 10,000 pods is 90 numbers, and one that is scaled a little mostly not.
func Coarse(n int64) int64 {
	step := int64(1) << max(bits.Len64(uint64(max(n-1, 0)))-4, 0) //nolint:gosec // not negative
	return (n + step - 1) / step * step
}
