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

// quotasOf lists the quotas that takes ask for, in their order.
func quotasOf(takes []Take) ([]quota, error) {
	quotas := make([]quota, 0, 2*len(takes))
	for i := range takes {
		t := &takes[i]
		if err := check(t); err != nil {
			return nil, fmt.Errorf("taking of service %q in namespace %q: %w", t.Service, t.Namespace, err)
		}
		tag := t.tag()
		// Two takes of one key would need one limit, and each has its own.
		if slices.ContainsFunc(quotas, func(q quota) bool { return q.tag == tag }) {
			return nil, fmt.Errorf("taking of service %q in namespace %q: "+
				"one identity is asked for twice in a request; ask once, with the sum as cost", t.Service, t.Namespace)
		}
		for _, limit := range t.Limits {
			quotas = append(quotas, quota{
				take: i, limit: limit, cost: max(t.Cost, 1), tag: tag,
				key: keyIn(tag, limit),
			})
		}
	}
	return quotas, nil
}

func (t *Take) tag() string { return t.Namespace + "/" + t.Service + ":" + t.Identity }

// keyIn is the key of a limit's log among those of a tag.
func keyIn(tag string, limit ruleset.Limit) string {
	return KeyPrefix + tag + "}:" + strconv.FormatInt(limit.WindowMillis, 10)
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
