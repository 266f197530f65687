package limiter

import (
	"slices"
	"time"
)

// model is the limiter as its promises say it, on a clock of the test's: the
// times of all units ever admitted by each key, and sums over windows of them.
type model map[string][]int64

// at is a key's own time: it does not step back with the clock.
func (m model) at(key string, now int64) int64 {
	for _, t := range m[key] {
		now = max(now, t)
	}
	return now
}

// sum counts the units of (x−window, x].
func (m model) sum(q quota, now int64) int64 {
	x, n := m.at(q.key, now), int64(0)
	for _, t := range m[q.key] {
		if t > x-q.limit.WindowMillis*1000 && t <= x {
			n++
		}
	}
	return n
}

// changes are the instants at which a key's sum can fall.
func (m model) changes(q quota, now int64) []int64 {
	changes := []int64{now}
	for _, t := range m[q.key] {
		if leaves := t + q.limit.WindowMillis*1000; leaves > now {
			changes = append(changes, leaves)
		}
	}
	slices.Sort(changes)
	return changes
}

// first is the time until a condition on a key holds, by trying every instant
// at which it can begin to; negative when it never does.
func (m model) first(q quota, now int64, holds func(instant int64) bool) time.Duration {
	for _, instant := range m.changes(q, now) {
		if holds(instant) {
			return micros(instant - now)
		}
	}
	return -1
}

func (m model) fits(q quota, now int64) bool { return m.sum(q, now)+q.cost <= q.limit.Requests }

// decide answers as Take (or Remaining, when it does not take) must.
func (m model) decide(quotas []quota, now int64, take bool) Decision {
	admitted := true
	for _, q := range quotas {
		admitted = admitted && m.fits(q, now)
	}
	if admitted && take {
		for _, q := range quotas {
			t := m.at(q.key, now)
			for range q.cost {
				m[q.key] = append(m[q.key], t)
			}
		}
	}
	decision := Decision{Admitted: admitted}
	for _, q := range quotas {
		remaining := func(instant int64) int64 { return max(0, q.limit.Requests-m.sum(q, instant)) }
		state := Quota{Take: q.take, Limit: q.limit, Remaining: remaining(now)}
		if m.sum(q, now) > 0 {
			state.Reset = m.first(q, now, func(instant int64) bool { return remaining(instant) > state.Remaining })
		}
		if !admitted || !take {
			state.RetryAfter = m.first(q, now, func(instant int64) bool { return m.fits(q, instant) })
		}
		decision.Quotas = append(decision.Quotas, state)
		switch {
		case state.RetryAfter < 0 || decision.RetryAfter < 0:
			decision.RetryAfter = -1
		default:
			decision.RetryAfter = max(decision.RetryAfter, state.RetryAfter)
		}
	}
	return decision
}
