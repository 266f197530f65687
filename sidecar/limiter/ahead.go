package limiter

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPressing bounds the takes that are known to press. Others are asked for one by one.
	maxPressing = 1024
	// maxAhead of them go along with one call, which keeps Redis from others for some 10 µs each.
	maxAhead = 64
	// windowSlices is in how many slices take.lua counts.
	windowSlices = 200
)

// pressing are the takes that are asked for on and on while they are refused. All may
// be admitted again when a slice ends, and the slices of windows of one length end
// together. The first call after that brings along, for each of them, a lease of what
// is expected of it in the time of a slice: one call serves all.
type pressing struct {
	// due is when one of them may need Redis again, at the earliest.
	due atomic.Int64

	mu     sync.Mutex
	hashes []uint64
}

// ahead is a lease that goes along with others' takes.
type ahead struct {
	command
	takes   []Take
	request request
}

// add notes takes, if there is room.
func (p *pressing) add(hash uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.hashes) == maxPressing {
		return false
	}
	p.hashes = append(p.hashes, hash)
	p.sooner(0)
	return true
}

// sooner notes that one needs Redis at a time.
func (p *pressing) sooner(at int64) {
	for due := p.due.Load(); at < due && !p.due.CompareAndSwap(due, at); due = p.due.Load() {
	}
}

// deny notes that this process has refused takes of an entry by itself. When it does
// so again they press: who heeds Retry-After comes back once.
func (m *memory) deny(e *entry, hash uint64, now int64) {
	e.denied = now
	if e.asked++; e.asked%32 == 2 && !e.pressing && leaseLength(e.takes) > 0 { // of more than maxPressing, not each asks for room
		e.pressing = m.pressing.add(hash)
	}
}

// needs is until when this process can decide takes of an entry by itself, or nearly:
// leases that end together are renewed together.
func (e *entry) needs(now int64) int64 {
	if l := e.lease; l != nil && l.left > 0 && now < l.end-l.length/32 {
		return max(l.end-l.length/32, e.until)
	}
	return e.until
}

// pace is twice as many takes as come in a length of time, since callers are not even.
func (e *entry) pace(now, length int64) int64 {
	return 2*min(int64(e.asked), maxLeaseTakes)*length/max(now-e.at, 1) + 1
}

// sliceLength is that of the shortest window of some takes, in nanoseconds.
func sliceLength(takes []Take) int64 {
	length := maxLeaseLength
	for i := range takes {
		for _, limit := range takes[i].Limits {
			length = min(length, limit.Window()/windowSlices)
		}
	}
	return length.Truncate(time.Microsecond).Nanoseconds()
}

// aheadLength is that of a lease ahead, of a slice at most. All of one slice end together.
func aheadLength(slice, now int64) int64 {
	return slice - now%max(slice/2, 1)
}

// ahead hands over the leases that pressing takes need, so many at most. Each is to be
// learnt, or failed.
func (m *memory) ahead(most int) (leases []*ahead) {
	p, now := &m.pressing, m.now()
	if now < p.due.Load() || most <= 0 {
		return nil
	}
	p.mu.Lock()
	hashes := p.hashes
	p.hashes = nil
	p.due.Store(math.MaxInt64)
	p.mu.Unlock()
	press := make([]uint64, 0, len(hashes))
	for _, hash := range hashes {
		s, e := m.at(hash)
		if e != nil && e.pressing {
			slice := sliceLength(e.takes)
			switch needs := e.needs(now); {
			case now-e.seen > 2*slice || now-e.denied > leaseLength(e.takes):
				e.pressing = false
			case e.asking: // whoever asks will hear when it needs Redis again
			case needs > now:
				p.sooner(needs)
			case len(leases) == most:
				p.sooner(now)
			default:
				leases = append(leases, m.aheadOf(e, request{start: now, length: aheadLength(slice, now), hash: hash}))
			}
			if e.pressing {
				press = append(press, hash)
			}
		}
		s.mu.Unlock()
	}
	p.mu.Lock()
	p.hashes = append(press, p.hashes...)
	p.mu.Unlock()
	return leases
}

// aheadOf asks for a lease of an entry's takes.
func (m *memory) aheadOf(e *entry, r request) *ahead {
	r.want, r.settle, e.asking = e.pace(r.start, r.length), m.end(e, r.start), true
	quotas, _ := quotasOf(nil, e.takes) // they were asked for before
	return &ahead{
		command: command{verb: verbLease, id: newID(), quotas: quotas, settle: r.settle, want: r.want, length: r.length},
		takes:   e.takes, request: r,
	}
}

// bring learns what Redis has answered to leases that went along.
func (m *memory) bring(leases []*ahead) {
	for _, a := range leases {
		d := Decision{Admitted: a.admitted(), Quotas: make([]Quota, len(a.quotas))}
		for n := range d.Quotas {
			d.Quotas[n] = a.quota(n)
		}
		d.RetryAfter = retryAfter(d.Quotas)
		m.learn(a.takes, a.request, &a.command, d)
	}
}
