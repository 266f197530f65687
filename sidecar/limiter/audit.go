package limiter

import (
	"sync/atomic"

	"github.com/weir-dev/weir/sidecar/audit"
)

// recorder records what is admitted with one store. A nil one records nothing.
type recorder struct {
	log *audit.Log
	// heard is what is known best of Redis's clock; nil: nothing.
	heard atomic.Pointer[reading]
}

func newRecorder(log *audit.Log) *recorder {
	if log == nil {
		return nil
	}
	return &recorder{log: log}
}

// reading is a time of Redis's clock, in microseconds, which it had between two
// of this process's, in nanoseconds.
type reading struct{ redis, from, to int64 }

// driftPart of the time that passes is how much Redis's clock may gain or lose on
// this process's meanwhile, at most: twice what NTP corrects, and a quarter of
// what a lease has to spare.
const driftPart = 1024

// at bounds Redis's time at one of this process's, after the reading.
func (r reading) at(now int64) (earliest, latest int64) {
	earliest, latest = max(now-r.to, 0), max(now-r.from, 0)
	return r.redis + (earliest-earliest/driftPart)/1000, r.redis + (latest+latest/driftPart)/1000 + 1
}

// hear keeps a reading, unless the one before agrees with it and tells more.
func (a *recorder) hear(r reading) {
	if last := a.heard.Load(); last != nil {
		earliest, latest := last.at(r.to)
		width := (r.to - r.from) / 1000
		if r.redis <= latest && earliest <= r.redis+width && latest-earliest <= width {
			return
		}
	}
	a.heard.Store(&r)
}

// recordOf a quota that a take meets; its times are to be set.
func recordOf(t *Take, limit *Quota) audit.Record {
	service := t.Namespace + "/" + t.Service
	return audit.Record{
		Service: service, Caller: audit.CallerOf(service, t.Identity), Cost: max(t.Cost, 1),
		Limit: limit.Limit.Requests, WindowMillis: limit.Limit.WindowMillis,
	}
}

// counted records what the script admitted, at the times of its logs.
func (a *recorder) counted(takes []Take, d Decision, times []int64) {
	for i := range d.Quotas {
		r := recordOf(&takes[d.Quotas[i].Take], &d.Quotas[i])
		r.Source, r.Granted, r.Earliest, r.Latest = audit.Redis, times[i], times[i], times[i]
		a.log.Append(&r)
	}
}

// leased records what is admitted from the lease of an entry, now.
func (a *recorder) leased(e *entry, quotas []Quota, now int64) {
	if a == nil {
		return
	}
	for i := range quotas {
		r := recordOf(&e.takes[quotas[i].Take], &quotas[i])
		granted := e.lease.counted.read
		granted.redis = e.lease.counted.times[i]
		r.Source, r.Granted = audit.Lease, granted.redis
		r.Earliest, r.Latest = granted.at(now)
		a.log.Append(&r)
	}
}

// shared records what is admitted from this process's share, now.
func (a *recorder) shared(takes []Take, d Decision, now int64) {
	earliest, latest := int64(0), int64(audit.Anytime)
	if last := a.heard.Load(); last != nil {
		earliest, latest = last.at(now)
	}
	for i := range d.Quotas {
		t := &takes[d.Quotas[i].Take]
		r := recordOf(t, &d.Quotas[i])
		r.Source, r.Earliest, r.Latest, r.Sharers = audit.Share, earliest, latest, t.Sharers
		a.log.Append(&r)
	}
}

// flush waits, for a bounded time, until all that was admitted is recorded.
func (a *recorder) flush() {
	if a != nil {
		a.log.Flush()
	}
}

// times at which the logs of an admitted take have it.
func (c *command) times() []int64 {
	times := make([]int64, len(c.quotas))
	for i := range times {
		times[i] = c.time(i)
	}
	return times
}

// time at which one of the logs has it.
func (c *command) time(quota int) int64 { return c.read.redis + c.reply[4+3*quota] }
