package limiter

import (
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxPressing bounds the takes that are known to press. Others are asked for one by one.
	maxPressing = 1024
	// maxAhead bounds the logs of the leases that go along with one call: each, and the one
	// before that is settled, keeps Redis from others for some 50 µs.
	maxAhead = 32
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
	// looking lets one call at a time look at them.
	looking sync.Mutex

	mu     sync.Mutex          // may be locked while a shard is
	hashes map[uint64]struct{} // nil: nobody is noted, since no call can serve several
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
	if p.hashes == nil || len(p.hashes) >= maxPressing {
		return false
	}
	p.hashes[hash] = struct{}{}
	p.sooner(0)
	return true
}

func (p *pressing) drop(hash uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.hashes, hash)
}

func (p *pressing) all() []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.hashes))
}

// sooner notes that one needs Redis at a time.
func (p *pressing) sooner(at int64) {
	for due := p.due.Load(); at < due && !p.due.CompareAndSwap(due, at); due = p.due.Load() {
	}
}

// deny notes that this process has refused takes of an entry by itself. When it does
// so again they press: a lone client that heeds Retry-After comes back once.
func (m *memory) deny(e *entry, hash uint64, now int64) {
	e.denied = now
	e.asked++
	if e.denials++; e.denials%32 == 2 && !e.pressing && leaseLength(e.takes) > 0 { // of more than maxPressing, not each asks for room
		e.pressing = m.pressing.add(hash)
	}
}

// needs is until when this process can decide takes of an entry by itself, or nearly:
// leases that end together are renewed together.
func (e *entry) needs() int64 {
	if l := e.lease; l != nil && l.left > 0 {
		return l.end - l.length/32
	}
	return e.until
}

// pace is twice as many takes as come in a length of time, since callers are not even.
func (e *entry) pace(now, length int64) int64 {
	return min(2*int64(e.asked)*length/max(now-e.at, 1)+1, maxLeaseTakes)
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
	return (slice - now%max(slice/2, 1)) / 1000 * 1000 // in whole microseconds, as the script counts
}

// ahead hands over the leases that pressing takes need, with so many logs at most. Each
// is to be learnt, or failed.
func (m *memory) ahead(most int) (leases []*ahead) {
	p, now := &m.pressing, m.now()
	if now < p.due.Load() || most <= 0 || !p.looking.TryLock() {
		return nil
	}
	defer p.looking.Unlock()
	p.due.Store(math.MaxInt64)
	for _, hash := range p.all() {
		s, e := m.at(hash)
		switch {
		case e == nil || !e.pressing || e.calm(now):
			p.drop(hash)
		case e.asking: // whoever asks will hear when it needs Redis again
		case e.needs() > now:
			p.sooner(e.needs())
		case len(e.states) > most:
			p.sooner(now)
		default:
			most -= len(e.states)
			leases = append(leases, m.aheadOf(e, request{start: now, length: aheadLength(sliceLength(e.takes), now), hash: hash}))
		}
		s.mu.Unlock()
	}
	return leases
}

// calm has takes press no more that have not been asked for lately, or not been refused.
func (e *entry) calm(now int64) bool {
	if now-e.seen > 2*sliceLength(e.takes) || now-e.denied > leaseLength(e.takes) {
		e.pressing = false
	}
	return !e.pressing
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
