package limiter

import "time"

// maxNotes bounds what one call of the script notes, less what the last of its
// commands does: slices, or the units of an exact log. Redis takes some µs for each.
const maxNotes = 2048

// TakeLocally decides while Redis does not: from this process's share of each
// limit, which is the limit divided by the take's Sharers, rounded down, and at
// least 1. What this process admitted within the window before counts, whoever
// decided it. All or nothing; Redis is told as soon as it answers. It writes the
// Decision's Quotas into the memory of a slice, if it is large enough. The
// error is Take's of a take that is wrong.
func (l *Limiter) TakeLocally(takes []Take, quotas []Quota) (Decision, error) {
	d, err := l.decideLocally(takes, quotas, true)
	if err == nil {
		l.metrics.decideLocally(d.Admitted)
	}
	return d, err
}

// RemainingLocally says what TakeLocally would answer, and takes nothing.
func (l *Limiter) RemainingLocally(takes []Take) (Decision, error) {
	return l.decideLocally(takes, nil, false)
}

func (l *Limiter) decideLocally(takes []Take, quotas []Quota, take bool) (Decision, error) {
	asked, err := quotasOf(nil, takes)
	if err != nil {
		return Decision{}, err
	}
	recorder := newRecorder(l.audit)
	if b := l.acquire(); b != nil {
		b.memory.fold(takes)
		recorder = b.memory.recorder
		b.calls.Done()
	}
	d := l.ledger.decide(takes, asked, quotas, take)
	if take && d.Admitted && recorder != nil {
		recorder.shared(takes, d, l.ledger.now())
		recorder.flush()
	}
	return d, nil
}

// fold ends a lease of the takes that can be used no more, so that the ledger
// knows how it was used.
func (m *memory) fold(takes []Take) {
	s, e := m.at(m.hash(takes))
	defer s.mu.Unlock()
	if e == nil || e.lease == nil {
		return
	}
	if now := m.now(); e.lease.left == 0 || now >= e.lease.end || !e.is(takes) {
		m.later(m.end(e, now))
	}
}

// report tells Redis what was admitted without it, a bounded number of slices at
// a time. It is false when Redis did not take it all: the rest is told later,
// until it has left its window. What open breakers keep waits, but for the one
// that is given.
func (b *backend) report(probed *breaker) (told bool) {
	b.reporting.Lock()
	defer b.reporting.Unlock()
	ledger := b.memory.ledger
	reports := ledger.owed(func(key string) bool {
		k := b.breakerOf(key)
		return k == probed || k.away.Load() == nil
	})
	for len(reports) > 0 {
		batch, n := b.notes(reports)
		if len(batch) > 0 {
			batch[0].deadline = time.Now().Add(b.store.Timeout())
			if b.alone().call(batch) != nil {
				ledger.again(reports)
				return false
			}
		}
		reports = reports[n:]
	}
	return true
}

// notes are the commands for as many of the reports as one call tells.
func (b *backend) notes(reports []*report) (batch []*command, told int) {
	most, work, now := maxBatch, int64(0), b.memory.ledger.now()
	if b.cluster { // they may lie on several nodes
		most = 1
	}
	for told < len(reports) && len(batch) < most && work < maxNotes {
		if c := reports[told].command(now); c != nil {
			batch = append(batch, c)
			work += c.work()
		}
		told++
	}
	return batch, told
}

// work is how many entries Redis writes for a note.
func (c *command) work() (entries int64) {
	for _, u := range c.uses {
		if c.quotas[0].limit.Requests > exactRequests {
			entries++
		} else {
			entries += u.takes
		}
	}
	return entries
}
