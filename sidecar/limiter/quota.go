package limiter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Bounds of a take: what a script may cost Redis, and what its arithmetic in
// doubles holds exactly.
const (
	// MaxCost is the largest cost of a take, in units: that of the largest limit.
	MaxCost = 1_000_000_000
	// MaxIdentityBytes is the largest length of an identity.
	MaxIdentityBytes = 1024

	maxRequests     = 1_000_000_000
	maxWindowMillis = 10 * 366 * 24 * 3600 * 1000
)

// KeyPrefix of every key, before the namespace. The brace begins the tag.
const KeyPrefix = "ratelimit:{"

// quota is one limit of one take, with the key of its log.
type quota struct {
	take  int
	limit ruleset.Limit
	cost  int64
	// tag is what Redis Cluster places the key by: the same for all windows of
	// an identity.
	tag string
	key string
}

// quotasOf lists the quotas that takes ask for, in their order, in the memory of a
// slice, if it is large enough.
func quotasOf(quotas []quota, takes []Take) ([]quota, error) {
	n := 0
	for i := range takes {
		n += len(takes[i].Limits)
	}
	quotas = slices.Grow(quotas[:0], n)
	for i := range takes {
		t := &takes[i]
		if err := check(t); err != nil {
			return nil, fmt.Errorf("taking of service %q in namespace %q: %w", t.Service, t.Namespace, err)
		}
		others := quotas
		for _, limit := range t.Limits {
			key, tag := t.key(limit)
			// Two takes of one key would need one limit, and each has its own.
			if slices.ContainsFunc(others, func(q quota) bool { return q.tag == tag }) {
				return nil, fmt.Errorf("taking of service %q in namespace %q: "+
					"one identity is asked for twice in a request; ask once, with the sum as cost", t.Service, t.Namespace)
			}
			quotas = append(quotas, quota{take: i, limit: limit, cost: max(t.Cost, 1), tag: tag, key: key})
		}
	}
	return quotas, nil
}

// key of a limit's log, and its tag.
func (t *Take) key(limit ruleset.Limit) (key, tag string) {
	var memory [128]byte
	text := append(memory[:0], KeyPrefix...)
	text = append(append(append(text, t.Namespace...), '/'), t.Service...)
	text = append(append(append(text, ':'), t.Identity...), "}:"...)
	end := len(text) - len("}:")
	key = string(strconv.AppendInt(text, limit.WindowMillis, 10))
	return key, key[len(KeyPrefix):end]
}

// Check says what is wrong with a take by itself, as Take would.
func Check(t Take) error { return check(&t) }

// check says what is wrong with a take. Names are checked so far as two
// different ones could otherwise share a key.
func check(t *Take) error {
	switch {
	case strings.ContainsAny(t.Namespace, "/:{}"):
		return fmt.Errorf("a namespace holds none of / : { }")
	case strings.ContainsAny(t.Service, ":{}"):
		return fmt.Errorf("a service's name holds none of : { }")
	case len(t.Identity) > MaxIdentityBytes:
		return fmt.Errorf("an identity has at most %d bytes, this has %d", MaxIdentityBytes, len(t.Identity))
	case t.Cost < 0 || t.Cost > MaxCost:
		return fmt.Errorf("a cost is from 1 to %d, or 0 for 1; this is %d", MaxCost, t.Cost)
	case len(t.Limits) == 0:
		return fmt.Errorf("there is no limit; a take that nothing limits need not be asked")
	}
	for i, limit := range t.Limits {
		switch {
		case limit.Requests < 1 || limit.Requests > maxRequests:
			return fmt.Errorf("a limit is from 1 to %d requests, this is %d", maxRequests, limit.Requests)
		case limit.WindowMillis < 1 || limit.WindowMillis > maxWindowMillis:
			return fmt.Errorf("a window is from 1 to %d ms, this is %d ms", int64(maxWindowMillis), limit.WindowMillis)
		}
		for _, other := range t.Limits[:i] {
			if other.WindowMillis == limit.WindowMillis {
				return fmt.Errorf("two limits have a window of %v; keep the smaller one", limit.Window())
			}
		}
	}
	return nil
}
