package proxy

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestLatencyIsInTheBucketThatEndsAtMostASixtyFourthAbove(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		nanos := rapid.Uint64Range(0, math.MaxInt64).Draw(t, "nanos")
		b := bucket(nanos)
		if last(b) < nanos || last(b)-nanos > nanos>>stepBits {
			t.Errorf("%d ns are in a bucket that ends at %d", nanos, last(b))
		}
		if b > 0 && last(b-1) >= nanos {
			t.Errorf("%d ns are in bucket %d, although the one before ends at %d", nanos, b, last(b-1))
		}
	})
}

func TestQuantilesAreThoseOfTheLatencies(t *testing.T) {
	t.Parallel()
	var h histogram
	if got := h.quantile(0.5); got != 0 {
		t.Errorf("the median of nothing is %v, expected 0", got)
	}
	for i := range 1000 {
		h.add(time.Duration(i+1) * time.Microsecond)
	}
	for q, want := range map[float64]time.Duration{0.5: 500 * time.Microsecond, 0.99: 990 * time.Microsecond, 1: time.Millisecond} {
		if got := h.quantile(q); got < want || got > want+want>>stepBits {
			t.Errorf("quantile %v is %v, expected %v and at most 1.6 %% more", q, got, want)
		}
	}
}
