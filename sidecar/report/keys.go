package report

import (
	"slices"
	"strconv"
	"time"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// commands that a Recorder sends.
var commands = []string{"hincrby", "pexpire", "zincrby", "zremrangebyrank", "lpush", "ltrim"}

// Rights are limiter.Rights for a user whose sidecars have a Recorder, too: all
// that a sidecar does in Redis.
func Rights(namespace string, store ruleset.Store) ([]string, error) {
	rights, err := limiter.Rights(namespace, store)
	if err != nil {
		return nil, err
	}
	for _, command := range commands {
		if right := "+" + command; !slices.Contains(rights, right) {
			rights = append(rights, right)
		}
	}
	return rights, nil
}

const (
	// maxKept callers of a minute: a small sorted set, as Redis keeps it.
	maxKept = 128
	// maxRefusals that are kept.
	maxRefusals = 50
	// refusalsLife is how long they are kept after the last.
	refusalsLife = time.Hour
	// callersSpan is for how long callers are told, and callersLife how long a
	// minute of theirs is kept.
	callersSpan = 10 * time.Minute
	callersLife = callersSpan + 2*time.Minute
)

// ring is a row of hashes with equal buckets.
type ring struct {
	name string
	// step is a bucket's length, and each hash has as many as slots: with three
	// counters, as many fields as Redis keeps in a small one.
	step time.Duration
	// span is what is told, and life how long a hash is kept after it was written.
	span, life time.Duration
}

const slots = 30

var (
	seconds = ring{"seconds", 2 * time.Second, 2 * time.Minute, 4 * time.Minute}
	minutes = ring{"minutes", time.Minute, time.Hour, 95 * time.Minute}
)

// bucket in which a time is, counted from 1970.
func (r *ring) bucket(at time.Time) int64 { return at.UnixMilli() / r.step.Milliseconds() }

// begin of a bucket.
func (r *ring) begin(bucket int64) time.Time { return time.UnixMilli(bucket * r.step.Milliseconds()) }

// place of a bucket: its hash, and which of the hash's it is.
func (r *ring) place(base string, bucket int64) (key string, slot int64) {
	return base + r.name + ":" + strconv.FormatInt(bucket/slots, 10), bucket % slots
}

// baseOf the keys of a policy. It is no key of the limiter's: those have a colon
// where this has a brace.
func baseOf(namespace, service string) string {
	return limiter.KeyPrefix + namespace + "/" + service + "}:"
}

// minuteKey is one of a minute's callers.
func minuteKey(base, what string, minute int64) string {
	return base + what + ":" + strconv.FormatInt(minute, 10)
}

const (
	askedOf   = "callers"
	limitedOf = "limited"
)

func refusalsKey(base string) string { return base + "refusals" }

// counters of a bucket, by the letter of their fields.
const counters = "alw"

func fieldOf(slot int64, counter byte) string {
	return strconv.FormatInt(slot, 10) + string(counter)
}
