package limiter

import (
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxEntries bounds a memory, to some 100 MiB. Takes beyond go to Redis.
	maxEntries = 256 << 10
	shardCount = 16
	// A refusal is remembered for as long as it surely holds, but not longer than
	// this: Redis may lose what it counted. Where others hold leases they may give
	// them back. When it is refused again, it is for twice as long, so often.
	maxDenial, denialDoubled             = 10 * time.Second, 1
	maxLeasedDenial, leasedDenialDoubled = time.Second, 2
)

// memory is what this process can decide by itself: takes that it has leases
// for, and those that were refused and cannot be admitted yet. It belongs to
// one store.
type memory struct {
	seed maphash.Seed
	// now is a clock in nanoseconds that never steps.
	now    func() int64
	shards [shardCount]shard
	// pressing are to be asked for ahead.
	pressing pressing
	// ledger is told what was admitted.
	ledger *ledger
	// recorder, too, if there is one.
	recorder *recorder

	mu sync.Mutex
	// over are leases to settle: with the next takes; and alone without.
	over, alone []*command
}

// maxOver bounds the leases that wait to be settled. Of more, what was not used
// leaves with its window.
const maxOver = 64 << 10

type shard struct {
	mu      sync.Mutex // guards the entries, too
	entries map[uint64]*entry
	// seen once, lately, and when: most callers of many come no second time, and need
	// no entry.
	seen map[uint64]int64
	// last are the takes of the entry made last: the next one's are often of the same
	// service, whose name and limits they share.
	last []Take
}

// entry is what is known of some takes that were asked for together.
type entry struct {
	takes []Take
	// seen is when they were last asked for.
	seen int64
	// lease is the one in use; want the takes that the next one should have, and
	// asking whether it is asked for.
	lease  *lease
	want   int64
	asking bool
	// refused again so often, each time when that before had run out, while others
	// held leases or did not.
	leased  bool
	refused uint8
	// pressing: it is asked for on and on though it was refused. asked is how often since Redis was
	// heard, of which so many were refused, and denied when it was refused last, all by this process alone.
	pressing bool
	denials  uint16
	asked    uint32
	denied   int64
	// states of the quotas at a time; refused until another.
	states []state
	at     int64
	until  int64
	// first is the memory of what most entries have one of.
	first struct {
		take  [1]Take
		state [1]state
	}
}

// state of a quota, as in Quota.
type state struct {
	remaining         int64
	reset, retryAfter time.Duration
}

func newMemory(ledger *ledger, recorder *recorder) *memory {
	m := &memory{seed: maphash.MakeSeed(), now: ledger.now, ledger: ledger, recorder: recorder}
	m.pressing.due.Store(math.MaxInt64)
	return m
}

func (m *memory) hash(takes []Take) uint64 {
	var h maphash.Hash
	h.SetSeed(m.seed)
	for i := range takes {
		t := &takes[i]
		h.WriteString(t.Namespace)
		h.WriteByte('/')
		h.WriteString(t.Service)
		h.WriteByte(':')
		h.WriteString(t.Identity)
		h.WriteByte(byte(t.Cost))
		h.WriteByte(0)
	}
	return h.Sum64()
}

// at locks the shard of some takes' hash and returns it with their entry, if any.
func (m *memory) at(hash uint64) (*shard, *entry) {
	s := &m.shards[hash%shardCount]
	s.mu.Lock()
	return s, s.entries[hash]
}

// names reports whether the entry is of these takes, whatever their limits.
func (e *entry) names(takes []Take) bool {
	if len(e.takes) != len(takes) {
		return false
	}
	for i := range takes {
		a, b := &e.takes[i], &takes[i]
		if a.Namespace != b.Namespace || a.Service != b.Service || a.Identity != b.Identity || max(a.Cost, 1) != max(b.Cost, 1) {
			return false
		}
	}
	return true
}

// is reports whether the entry is of these takes.
func (e *entry) is(takes []Take) bool {
	if !e.names(takes) {
		return false
	}
	for i := range takes {
		a, b := &e.takes[i], &takes[i]
		if !slices.Equal(a.Limits, b.Limits) || (a.Sharers > 0) != (b.Sharers > 0) {
			return false
		}
	}
	return true
}

// answer decides without Redis, if it can. It writes into the memory of quotas.
func (m *memory) answer(takes []Take, quotas []Quota) (decision Decision, decided bool) {
	hash := m.hash(takes)
	s, e := m.at(hash)
	defer s.mu.Unlock()
	if e == nil || !e.is(takes) {
		return Decision{}, false
	}
	now := m.now()
	e.seen = now
	switch {
	case e.lease != nil && e.lease.use(now):
		e.asked++
		if e.pressing && e.lease.left == 0 {
			m.pressing.sooner(e.until)
		}
		decision.Admitted = true
		decision.Quotas = e.quotasAt(quotas[:0], now, true)
		m.recorder.leased(e, decision.Quotas, now)
	case now < e.until && (e.lease == nil || e.lease.left == 0):
		m.deny(e, hash, now)
		decision.Quotas = e.quotasAt(quotas[:0], now, false)
		decision.RetryAfter = retryAfter(decision.Quotas)
	default:
		return Decision{}, false
	}
	return decision, true
}

// quotasAt appends the quotas as far as they are known. What is left of the lease
// remains to be taken here, if they are admitted.
func (e *entry) quotasAt(quotas []Quota, now int64, admitted bool) []Quota {
	passed := time.Duration(now - e.at)
	for i := range e.takes {
		for _, limit := range e.takes[i].Limits {
			s := &e.states[len(quotas)]
			q := Quota{Take: i, Limit: limit, Remaining: s.remaining, Reset: max(s.reset-passed, 0), RetryAfter: s.retryAfter}
			if e.lease != nil {
				q.Remaining += e.lease.left * max(e.takes[i].Cost, 1)
			}
			switch {
			case admitted:
				q.RetryAfter = 0
			case q.RetryAfter > 0:
				q.RetryAfter = max(q.RetryAfter-passed, 1)
			}
			quotas = append(quotas, q)
		}
	}
	return quotas
}

// request is what a take asks of Redis for the memory's sake.
type request struct {
	// want so many more takes for a lease of a length in nanoseconds.
	want, length int64
	// settle an ended lease, before the take; nil: none.
	settle *command
	start  int64
	hash   uint64
}

// asks says what to ask of Redis beside the takes.
func (m *memory) asks(takes []Take) request {
	hash := m.hash(takes)
	s, e := m.at(hash)
	defer s.mu.Unlock()
	r := request{start: m.now(), length: leaseLength(takes), hash: hash}
	switch {
	case e == nil:
		if e = s.again(&r, takes); e == nil {
			return r
		}
	case !e.is(takes):
		if e.names(takes) { // the limits have changed
			r.settle = m.end(e, r.start)
			delete(s.entries, hash)
		}
		return r
	}
	since := r.start - e.seen
	e.seen = r.start
	if e.asking || e.lease != nil && e.lease.left > 0 && r.start < e.lease.end { // another has just brought it
		return r
	}
	r.settle = m.end(e, r.start)
	if e.pressing {
		r.length = aheadLength(sliceLength(takes), r.start)
	}
	if r.length > 0 && since < r.length {
		e.asking = true
		switch r.want = e.want; {
		case e.pressing:
			r.want = e.pace(r.start, r.length)
		case r.want == 0: // as many as come at this pace
			r.want = min(max(r.length/max(since, 1), 1), firstLease(takes))
		}
	}
	return r
}

// again makes an entry of takes that may have a lease and were seen before; it is nil,
// and they are seen, the first time.
func (s *shard) again(r *request, takes []Take) *entry {
	if r.length == 0 {
		return nil
	}
	if before, is := s.seen[r.hash]; is {
		delete(s.seen, r.hash)
		return s.remember(r.hash, takes, before)
	}
	if s.seen == nil {
		s.seen = map[uint64]int64{}
	}
	if len(s.seen) < maxEntries/shardCount {
		s.seen[r.hash] = r.start
	}
	return nil
}

// end ends the lease and says how to settle it; nil when there is none. The next
// one should be for half as many takes again as this one was used for, since
// callers are not even, or, if it was used up, for as many as that pace would
// have used.
func (m *memory) end(e *entry, now int64) *command {
	l := e.lease
	if l == nil {
		return nil
	}
	uses, used := l.uses()
	for _, u := range uses {
		at := min(l.begin+u.within*1000, now)
		m.ledger.record(e.takes, u.takes, now-at)
	}
	if e.want = used + used/2; now < l.end {
		times := min(max(l.length/max(now-l.begin, 1), 2), maxLeaseGrowth)
		e.want = min(times*used, maxLeaseTakes)
	}
	if l.left > 0 { // what is given back may be taken again
		e.until = 0
	}
	e.lease = nil
	quotas, err := quotasOf(nil, e.takes)
	if err != nil {
		return nil // they were taken
	}
	return &command{verb: verbSettle, id: l.id, quotas: quotas, uses: uses, length: l.length}
}

// remember makes an entry, if there is room.
func (s *shard) remember(hash uint64, takes []Take, seen int64) *entry {
	if len(s.entries) >= maxEntries/shardCount {
		return nil
	}
	if s.entries == nil {
		s.entries = map[uint64]*entry{}
	}
	e, quotas := &entry{seen: seen}, 0
	e.takes = append(e.first.take[:0], takes...)
	for i := range e.takes {
		t := &e.takes[i]
		quotas += len(t.Limits)
		t.Identity = strings.Clone(t.Identity)
		if i < len(s.last) && s.last[i].Namespace == t.Namespace && s.last[i].Service == t.Service && slices.Equal(s.last[i].Limits, t.Limits) {
			t.Namespace, t.Service, t.Limits = s.last[i].Namespace, s.last[i].Service, s.last[i].Limits
			continue
		}
		t.Namespace, t.Service, t.Limits = strings.Clone(t.Namespace), strings.Clone(t.Service), slices.Clone(t.Limits)
	}
	e.states = slices.Grow(e.first.state[:0], quotas)[:quotas]
	s.entries[hash], s.last = e, e.takes
	return e
}

// learn notes what Redis has answered to a request.
func (m *memory) learn(takes []Take, r request, c *command, d Decision) {
	var leased int64
	if d.Admitted {
		leased = c.reply[1]
		if c.verb == verbTake {
			m.ledger.record(takes, 1, 0)
		}
	}
	s, e := m.at(r.hash)
	defer s.mu.Unlock()
	now := m.now()
	if e == nil && !d.Admitted && d.RetryAfter > 0 {
		e = s.remember(r.hash, takes, now)
	}
	if e == nil || !e.is(takes) {
		if leased > 0 {
			m.later(c.unused())
		}
		return
	}
	if r.want > 0 {
		e.asking = false
	}
	e.hear(r.start, now, d, c.reply[1] == 1 || len(c.quotas) < len(d.Quotas)) // of a cluster, others' leases are not told of
	if leased > 0 {
		m.later(m.end(e, now)) // one that came meanwhile
		e.lease = &lease{id: c.id, begin: r.start, end: r.start + r.length - r.length/256, length: r.length, left: leased}
		if m.recorder != nil {
			e.lease.counted = &counted{times: c.times(), read: c.read}
		}
	}
	if e.pressing {
		m.pressing.sooner(e.needs())
	}
}

// hear keeps a decision that was asked for at a time, where others have leases or not.
func (e *entry) hear(asked, now int64, d Decision, leased bool) {
	for i := range d.Quotas {
		q := &d.Quotas[i]
		e.states[i] = state{q.Remaining, q.Reset, q.RetryAfter}
	}
	longest, doubled := maxDenial, uint8(denialDoubled)
	if leased {
		longest, doubled = maxLeasedDenial, leasedDenialDoubled
	}
	switch {
	case d.Admitted || leased != e.leased:
		e.refused = 0
	case e.until > 0 && asked >= e.until: // others were asked for along with the one before
		e.refused = min(e.refused+1, doubled)
	}
	e.at, e.until, e.leased, e.asked, e.denials = now, 0, leased, 0, 0
	switch {
	case d.Admitted:
		if last := e.last(); last > 0 {
			e.until = asked + int64(min(last, maxLeasedDenial))
		}
	case d.RetryAfter > 0:
		e.until = asked + int64(min(d.RetryAfter, longest<<e.refused))
	}
}

// last is for how long takes of one unit that were admitted are the last, since they left
// nothing of some quota; 0 when they are not, or it is not known.
func (e *entry) last() (longest time.Duration) {
	i := 0
	for n := range e.takes {
		for range e.takes[n].Limits {
			switch s := &e.states[i]; {
			case s.remaining >= max(e.takes[n].Cost, 1):
			case e.takes[n].Cost > 1:
				return 0
			default:
				s.retryAfter = s.reset
				longest = max(longest, s.reset)
			}
			i++
		}
	}
	return longest
}

// failed notes that Redis did not answer a request. It may have granted a lease,
// and settled one: settling twice is settling once.
func (m *memory) failed(takes []Take, r request, c *command) {
	m.later(r.settle)
	if r.want == 0 {
		return
	}
	if c.want > 0 { // else it was asked again without a lease
		unused := c.unused()
		unused.alone = true // the next takes may pass the one that is given up
		m.later(unused)
	}
	s, e := m.at(r.hash)
	defer s.mu.Unlock()
	if e != nil && e.is(takes) {
		e.asking = false
	}
}

// unused settles the lease of a take that nobody used. It may wait for long, and keeps
// nothing else of the call.
func (c *command) unused() *command {
	return &command{verb: verbSettle, id: c.id, quotas: slices.Clone(c.quotas), length: c.length}
}

// later has leases settled with the next takes or the next sweep; nil: none.
func (m *memory) later(settle ...*command) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range settle {
		switch {
		case c == nil || len(m.over)+len(m.alone) >= maxOver:
		case c.alone:
			m.alone = append(m.alone, c)
		default:
			m.over = append(m.over, c)
		}
	}
}

// forgetCallers forgets what is known of some callers of a service. Their leases are settled.
func (m *memory) forgetCallers(namespace, service string, identities []string) {
	for i := range m.shards {
		s := &m.shards[i]
		s.mu.Lock()
		for hash, e := range s.entries {
			if slices.ContainsFunc(e.takes, func(t Take) bool {
				return t.Namespace == namespace && t.Service == service && slices.Contains(identities, t.Identity)
			}) {
				m.later(m.end(e, m.now()))
				delete(s.entries, hash)
			}
		}
		s.mu.Unlock()
	}
}

// sweep forgets what is over, and returns the leases to settle: those that have
// ended or been used up, or all.
func (m *memory) sweep(all bool) []*command {
	m.tidy(all)
	return m.unsettled()
}

// tidy forgets what is over, and has leases that have ended or been used up, or
// all, settled.
func (m *memory) tidy(all bool) {
	for i := range m.shards {
		m.shards[i].sweep(m, all)
	}
}

// unsettled hands over all leases to settle.
func (m *memory) unsettled() []*command {
	m.mu.Lock()
	defer m.mu.Unlock()
	over := append(m.over, m.alone...)
	m.over, m.alone = nil, nil
	return over
}

// along hands over some leases to settle that takes may bring along, so many at most.
func (m *memory) along(most int) []*command {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.over) == 0 {
		return nil
	}
	left := max(len(m.over)-most, 0)
	some := slices.Clone(m.over[left:])
	clear(m.over[left:])
	m.over = m.over[:left]
	for _, c := range some {
		c.alone = true
	}
	return some
}

func (s *shard) sweep(m *memory, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := m.now()
	for hash, e := range s.entries {
		if l := e.lease; l != nil && (all || l.left == 0 || now >= l.end) {
			m.later(m.end(e, now))
		}
		if e.lease == nil && !e.asking && now >= e.until && now-e.seen > leaseLength(e.takes) {
			delete(s.entries, hash)
		}
	}
	for hash, at := range s.seen {
		if now-at > maxLeaseLength.Nanoseconds() {
			delete(s.seen, hash)
		}
	}
	if len(s.entries) == 0 {
		s.entries, s.last = nil, nil // a map keeps the memory of its largest size
	}
	if len(s.seen) == 0 {
		s.seen = nil
	}
}
