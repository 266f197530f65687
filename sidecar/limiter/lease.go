package limiter

import "time"

const (
	// exactRequests is the largest limit whose log has each unit's own time; see
	// take.lua. Leases are for larger ones only.
	exactRequests = 128
	// leasePart of the shortest window is the length of a lease, and
	// maxLeaseLength at most.
	leasePart      = 6
	maxLeaseLength = 10 * time.Second
	// maxLeaseTakes bounds a lease, far above what SHARE in take.lua leaves.
	maxLeaseTakes = 1_000_000
	// firstLeaseTakes, or firstLeasePart of the smallest limit, bounds the first
	// lease of a caller, whose pace is hardly known.
	firstLeaseTakes = 32
	firstLeasePart  = 64
	// maxLeaseGrowth bounds how many times the one before a lease is.
	maxLeaseGrowth = 16
	// leaseParts are how exactly the times of use are told.
	leaseParts = 32
)

// lease is the right to some more of the same takes, for a time: Redis has them
// in its logs as if they were used at its end.
type lease struct {
	id [idBytes]byte
	// begin and end on the memory's clock: before the grant was asked for, and
	// before it ends in Redis.
	begin, end, length int64
	left               int64
	used               *[leaseParts]int32 // by when; nil: none, as with most identities
	counted            *counted           // for a recorder, if there is one
}

// counted is at which times the logs have a lease, and when that was read.
type counted struct {
	times []int64
	read  reading
}

// use takes one of the lease.
func (l *lease) use(now int64) bool {
	if l.left == 0 || now >= l.end {
		return false
	}
	l.left--
	if l.used == nil {
		l.used = new([leaseParts]int32)
	}
	l.used[(now-l.begin)*leaseParts/l.length]++
	return true
}

// use of a lease: takes, and how many microseconds after the grant at the latest.
type use struct{ takes, within int64 }

// uses lists when the lease was used, and how often in all.
func (l *lease) uses() (uses []use, all int64) {
	if l.used == nil {
		return nil, 0
	}
	for part, takes := range l.used {
		if takes > 0 {
			uses = append(uses, use{int64(takes), int64(part+1) * l.length / leaseParts / 1000})
			all += int64(takes)
		}
	}
	return uses, all
}

// firstLease bounds the first lease of some takes.
func firstLease(takes []Take) int64 {
	bound := int64(maxLeaseTakes)
	for i := range takes {
		for _, limit := range takes[i].Limits {
			bound = min(bound, limit.Requests/firstLeasePart/max(takes[i].Cost, 1))
		}
	}
	return max(bound, firstLeaseTakes)
}

// leaseLength is how long a lease of some takes may be, in nanoseconds; 0 when
// there can be none.
func leaseLength(takes []Take) int64 {
	length := maxLeaseLength
	for i := range takes {
		for _, limit := range takes[i].Limits {
			if limit.Requests <= exactRequests {
				return 0
			}
			length = min(length, limit.Window()/leasePart)
		}
	}
	return length.Truncate(time.Microsecond).Nanoseconds()
}
