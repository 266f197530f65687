package limiter

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"
)

const (
	// localSlices of a window: in the ledger a unit counts to the end of the slice
	// in which it was taken.
	localSlices = 32
	// maxLogs bounds a ledger's logs, to some 10 MiB, and 70 at the very most.
	maxLogs    = 64 << 10
	ledgerPart = 64 // maps, each swept by itself
	// maxReports bounds what waits to be told to Redis.
	maxReports = 64 << 10
)

// ledger is what this process admitted lately, whoever decided it, for each
// identity and window: a sliding window of this process alone, on a clock that
// never steps. From it takes are decided while Redis does not.
type ledger struct {
	seed maphash.Seed
	now  func() int64 // nanoseconds

	mu   sync.Mutex
	logs [ledgerPart]map[uint64]*log
	held int // logs
	// shared are the logs, by service and window, of identities for which there
	// was no room.
	shared map[uint64]*log
	// local is what was admitted here and Redis has not been told of.
	local map[string]*report
	// telling are reports that were on their way to Redis.
	telling []*report
}

func newLedger() *ledger {
	start := time.Now()
	return &ledger{
		seed: maphash.MakeSeed(), now: func() int64 { return int64(time.Since(start)) },
		shared: map[uint64]*log{}, local: map[string]*report{},
	}
}

// log of the units that one identity took in a window, by slices.
type log struct {
	window, slice int64 // nanoseconds
	cells         []cell
	units         int64
	first         [1]cell // the memory of the only one, as with most identities
}

// cell is the units of a slice, which ends at its number times its length.
type cell struct{ slice, units int64 }

func newLog(window int64) *log {
	return &log{window: window, slice: (window + localSlices - 1) / localSlices}
}

// read forgets what has left the window, and returns what is in it.
func (l *log) read(now int64) int64 {
	gone := 0
	for gone < len(l.cells) && l.cells[gone].slice*l.slice <= now-l.window {
		l.units -= l.cells[gone].units
		gone++
	}
	if gone > 0 {
		l.cells = append(l.cells[:0], l.cells[gone:]...)
	}
	return l.units
}

// add counts units taken at a time, which may have passed.
func (l *log) add(at, units int64) {
	slice := (at + l.slice - 1) / l.slice
	i := len(l.cells)
	for i > 0 && l.cells[i-1].slice > slice {
		i--
	}
	l.units += units
	if i > 0 && l.cells[i-1].slice == slice {
		l.cells[i-1].units += units
		return
	}
	if l.cells == nil {
		l.cells = l.first[:0]
	}
	l.cells = append(l.cells, cell{})
	copy(l.cells[i+1:], l.cells[i:])
	l.cells[i] = cell{slice, units}
}

// leaves is the time until the unit of a rank, from 0, leaves the window.
func (l *log) leaves(rank, now int64) time.Duration {
	for _, c := range l.cells {
		if rank -= c.units; rank < 0 {
			return time.Duration(c.slice*l.slice + l.window - now)
		}
	}
	return 0
}

// hash names the log of a take and a window; of no identity: the shared one.
func (g *ledger) hash(t *Take, window int64, shared bool) uint64 {
	var h maphash.Hash
	h.SetSeed(g.seed)
	h.WriteString(t.Namespace)
	h.WriteByte('/')
	h.WriteString(t.Service)
	h.WriteByte(':')
	if !shared {
		h.WriteString(t.Identity)
		h.WriteByte('}')
	}
	for range 8 {
		h.WriteByte(byte(window))
		window >>= 8
	}
	return h.Sum64()
}

// find returns the log of a take and a window, in nanoseconds: nil when nothing
// is known and none is to be made. Who has none while others have been counted
// together is one of these, as far as can be known. The caller holds g.mu.
func (g *ledger) find(t *Take, window, now int64, create bool) *log {
	name := g.hash(t, window, false)
	part := g.logs[name%ledgerPart]
	if l := part[name]; l != nil {
		return l
	}
	if len(g.shared) > 0 || g.held >= maxLogs {
		common := g.hash(t, window, true)
		l := g.shared[common]
		if l == nil && create && g.held >= maxLogs {
			l = newLog(window)
			g.shared[common] = l
		}
		if l != nil && (l.read(now) > 0 || g.held >= maxLogs) {
			return l
		}
	}
	if !create {
		return nil
	}
	l := newLog(window)
	if part == nil {
		part = map[uint64]*log{}
		g.logs[name%ledgerPart] = part
	}
	part[name] = l
	g.held++
	return l
}

// record counts what Redis admitted, so many times a number of nanoseconds ago.
func (g *ledger) record(takes []Take, times, ago int64) {
	for i := range takes {
		t := &takes[i]
		if t.Sharers == 0 {
			continue
		}
		g.mu.Lock()
		now := g.now()
		for _, limit := range t.Limits {
			l := g.find(t, int64(limit.Window()), now, true)
			l.read(now)
			l.add(now-ago, times*max(t.Cost, 1))
		}
		g.mu.Unlock()
	}
}

// share of a limit that one of its sidecars admits by itself.
func share(limit, sharers int64) int64 { return max(limit/max(sharers, 1), 1) }

// decide takes from the shares, all or nothing, or only says what it would do.
func (g *ledger) decide(takes []Take, asked []quota, states []Quota, take bool) Decision {
	d := Decision{Admitted: true, Quotas: states[:0]}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	for i := range asked {
		state := g.state(&takes[asked[i].take], &asked[i], now)
		d.Admitted = d.Admitted && state.RetryAfter == 0
		d.Quotas = append(d.Quotas, state)
	}
	d.RetryAfter = retryAfter(d.Quotas)
	if !d.Admitted || !take {
		return d
	}
	for i := range asked {
		q, state := &asked[i], &d.Quotas[i]
		l := g.find(&takes[q.take], int64(q.limit.Window()), now, true)
		l.add(now, q.cost)
		state.Remaining -= q.cost
		state.Reset = l.leaves(0, now)
		g.owe(q, now)
	}
	return d
}

// state of a quota's share. The caller holds g.mu.
func (g *ledger) state(t *Take, q *quota, now int64) Quota {
	most, held := share(q.limit.Requests, t.Sharers), int64(0)
	l := g.find(t, int64(q.limit.Window()), now, false)
	if l != nil {
		held = l.read(now)
	}
	state := Quota{Take: q.take, Limit: q.limit, Remaining: max(most-held, 0)}
	if held > 0 {
		state.Reset = l.leaves(max(held-most, 0), now)
	}
	switch {
	case held+q.cost <= most:
	case q.cost > q.limit.Requests:
		state.RetryAfter = -1
	case q.cost > most: // not before Redis decides
		state.RetryAfter = longestProbe
	default:
		state.RetryAfter = l.leaves(held+q.cost-most-1, now)
	}
	return state
}

// report is what one log in Redis does not know of yet.
type report struct {
	id    [idBytes]byte
	quota quota
	log   log
}

// owe has Redis told later. The caller holds g.mu.
func (g *ledger) owe(q *quota, now int64) {
	r := g.local[q.key]
	if r == nil {
		if len(g.local)+len(g.telling) >= maxReports {
			return
		}
		r = &report{quota: *q, log: *newLog(int64(q.limit.Window()))}
		r.quota.cost = 1
		g.local[q.key] = r
	}
	r.quota.limit = q.limit
	r.log.read(now)
	r.log.add(now, q.cost)
}

// owed hands over what Redis is to be told of those keys that it answers for. A
// report that may have been told has a name, and is told in the same words again.
func (g *ledger) owed(answers func(key string) bool) []*report {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.local) == 0 && len(g.telling) == 0 {
		return nil
	}
	var reports []*report
	g.telling = slices.DeleteFunc(g.telling, func(r *report) bool {
		told := answers(r.quota.key)
		if told {
			reports = append(reports, r)
		}
		return told
	})
	for key, r := range g.local {
		if answers(key) {
			r.id = newID()
			reports = append(reports, r)
			delete(g.local, key)
		}
	}
	if len(g.local) == 0 {
		g.local = map[string]*report{} // a map keeps the memory of its largest size
	}
	return reports
}

// again keeps reports that could not be told.
func (g *ledger) again(reports []*report) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.telling = append(g.telling, reports...)
}

// command tells of a report; nil when nothing of it is in the window any more.
func (r *report) command(now int64) *command {
	if r.log.read(now) == 0 {
		return nil
	}
	c := &command{verb: verbNote, id: r.id, quotas: []quota{r.quota}, length: giveLength.Nanoseconds()}
	for _, cell := range r.log.cells {
		ago := max(now-cell.slice*r.log.slice, 0)
		c.uses = append(c.uses, use{cell.units, ago / 1000})
	}
	return c
}

// sweep forgets the logs of which nothing is in the window.
func (g *ledger) sweep() {
	for part := range g.logs {
		g.mu.Lock()
		now := g.now()
		g.held -= forget(g.logs[part], now)
		if len(g.logs[part]) == 0 {
			g.logs[part] = nil // a map keeps the memory of its largest size
		}
		g.mu.Unlock()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	forget(g.shared, now)
	for key, r := range g.local {
		if r.log.read(now) == 0 {
			delete(g.local, key)
		}
	}
	g.telling = slices.DeleteFunc(g.telling, func(r *report) bool { return r.log.read(now) == 0 })
}

func forget(logs map[uint64]*log, now int64) (forgotten int) {
	for name, l := range logs {
		if l.read(now) == 0 {
			delete(logs, name)
			forgotten++
		}
	}
	return forgotten
}
