package proxy

import (
	"math/bits"
	"time"
)

// histogram counts latencies in buckets whose width is a 64th of their power of
// two: a quantile is at most 1.6 % too high.
type histogram struct {
	counts [(65 - stepBits) << stepBits]uint32
	total  int
}

const stepBits = 6

func (h *histogram) add(latency time.Duration) {
	h.counts[bucket(uint64(max(latency, 0)))]++
	h.total++
}

// bucket of a number of nanoseconds. Below 64 each has its own.
func bucket(nanos uint64) int {
	shift := max(bits.Len64(nanos)-1-stepBits, 0)
	if nanos < 1<<stepBits {
		return int(nanos)
	}
	return shift<<stepBits + int(nanos>>shift)
}

// last is the highest number of nanoseconds of a bucket.
func last(bucket int) uint64 {
	if bucket < 1<<stepBits {
		return uint64(bucket)
	}
	shift := bucket>>stepBits - 1
	first := uint64(bucket-shift<<stepBits) << shift
	return first + 1<<shift - 1
}

// quantile is the latency that the part q of all does not exceed; 0 without any.
func (h *histogram) quantile(q float64) time.Duration {
	wanted := int(q * float64(h.total))
	seen := 0
	for i, count := range h.counts {
		seen += int(count)
		if count > 0 && seen >= wanted {
			return time.Duration(last(i))
		}
	}
	return 0
}
