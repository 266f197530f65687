package runner

import (
	"errors"
	"math/rand/v2"
	"time"

	"github.com/weir-dev/weir/worker/celery"
)

// delay until a call that failed for the (retries+1)th time runs again: the
// policy's, doubled for each retry up to its maximum, less up to half of it at
// random, so that calls that failed together do not come back together. An
// error that knows its time gets that, and up to a tenth more.
func delay(policy celery.RetryPolicy, retries int, err error) time.Duration {
	if known, is := errors.AsType[*RetryAfter](err); is && known.Delay > 0 {
		return known.Delay + random(known.Delay/10)
	}
	longest := policy.InitialBackoff
	for range retries {
		if longest <= 0 {
			break // retries are the message's word, and can be any number
		}
		if longest *= 2; longest >= policy.MaxBackoff {
			break
		}
	}
	if policy.MaxBackoff > 0 {
		longest = min(longest, policy.MaxBackoff)
	}
	return longest - random(longest/2)
}

// random is a duration from 0 to below d.
func random(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d) //nolint:gosec // jitter
}
