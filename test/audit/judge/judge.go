package judge

import (
	"cmp"
	"container/heap"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weir-dev/weir/sidecar/audit"
)

// Span is a time from which to which, in microseconds of Redis's clock.
type Span struct{ From, To int64 }

// maxLease, or a sixth of the window, is how long a lease goes on that Redis has
// lost, in microseconds.
const maxLease = 10_000_000

// Options say what befell Redis.
type Options struct {
	// Lost are the times around each loss of acknowledged writes. A window that
	// meets one, or begins within a lease's length after, may hold the limit once
	// more for each.
	Lost []Span
	// Shares allow in a window with admissions from shares limit + sharers ×
	// share, and sharers × share if there are no others. Without, they count like
	// all others.
	Shares bool
	// Told are times when Redis decided again and had been told of all admissions
	// from shares. A window in which such a time lies between the last share and
	// the last grant must hold to the limit, with the shares in it.
	Told []int64
}

// Verdict is what the records say.
type Verdict struct {
	Quotas int
	// Admitted units, by whom.
	Admitted map[audit.Source]int64
	// Untimed units had no bounds narrower than their window and were not judged.
	Untimed int64
	// Fullest window that the limit alone bounds; FullestExcused of those
	// that Options allow more.
	Fullest, FullestExcused Window
	Violations              []Violation
}

// Window is one with its units, and its limit.
type Window struct {
	Units, Limit int64
	// Most is what is allowed, not less than Limit.
	Most int64
}

// Share of the limit.
func (w Window) Share() float64 {
	if w.Limit == 0 {
		return 0
	}
	return float64(w.Units) / float64(w.Limit)
}

// Violation is a window that was surely over.
type Violation struct {
	Service      string
	Caller       uint64
	WindowMillis int64
	// From is excluded, To included.
	From, To int64
	Window
	// Crowded: too many for any choice of their times, although no window
	// surely contains them all.
	Crowded bool
	// Records of the window, the first ones if there are many.
	Records []audit.Record
}

// maxRecords of a violation.
const maxRecords = 20

// String is a sentence and the records.
func (v Violation) String() string {
	var b strings.Builder
	how := "in"
	if v.Crowded {
		how = "crowded at the end of"
	}
	fmt.Fprintf(&b, "%s, caller %x: %d units %s (%d, %d], at most %d are allowed", v.Service, v.Caller, v.Units, how, v.From, v.To, v.Most)
	for i := range v.Records {
		b.WriteString("\n    ")
		b.Write(v.Records[i].Append(nil)[:len(v.Records[i].Append(nil))-1])
	}
	return b.String()
}

// Judge looks at every window. The Records are in another order afterwards.
func (r *Records) Judge(options Options) Verdict {
	v := Verdict{Quotas: len(r.quotas), Admitted: map[audit.Source]int64{}}
	order := slices.SortedFunc(maps.Keys(r.quotas), func(a, b quota) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.caller, b.caller), cmp.Compare(a.window, b.window))
	})
	for _, q := range order {
		all := r.quotas[q]
		for i := range all {
			v.Admitted[all[i].source] += int64(all[i].cost)
		}
		window := q.window * 1000
		timed := slices.DeleteFunc(slices.Clone(all), func(a admission) bool {
			if a.width >= window {
				v.Untimed += int64(a.cost)
				return true
			}
			return false
		})
		j := judging{options: options, window: window, verdict: &v}
		found := j.contained(timed)
		if found == nil {
			found = j.crowded(timed)
		}
		if found == nil {
			continue
		}
		found.Service, found.Caller, found.WindowMillis = r.services[q.service], q.caller, q.window
		for i := range timed {
			a := &timed[i]
			if a.latest() > found.From && a.earliest <= found.To && len(found.Records) < maxRecords {
				found.Records = append(found.Records, r.record(q, a))
			}
		}
		v.Violations = append(v.Violations, *found)
	}
	return v
}

// judging one quota.
type judging struct {
	options Options
	window  int64 // microseconds
	verdict *Verdict
}

// contained looks at the windows that end with each admission's latest time, and
// returns the worst that is over.
func (j *judging) contained(all []admission) (worst *Violation) {
	slices.SortFunc(all, func(a, b admission) int {
		return cmp.Or(cmp.Compare(a.latest(), b.latest()), cmp.Compare(a.limit, b.limit))
	})
	byEarliest := make([]int32, len(all))
	for i := range byEarliest {
		byEarliest[i] = int32(i)
	}
	slices.SortFunc(byEarliest, func(a, b int32) int { return cmp.Compare(all[a].earliest, all[b].earliest) })
	var units int64
	var grants, shares latestGrants
	for i := range all {
		x := all[i].latest()
		for len(byEarliest) > 0 && all[byEarliest[0]].earliest <= x-j.window {
			units -= int64(all[byEarliest[0]].cost)
			byEarliest = byEarliest[1:]
		}
		units += int64(all[i].cost)
		in := &grants
		if all[i].source == audit.Share {
			in = &shares
		}
		heap.Push(in, &all[i])
		w := j.allow(grants.top(x-j.window), shares.top(x-j.window), x)
		w.Units = units
		j.note(w)
		if units > w.Most && (worst == nil || units-w.Most > worst.Units-worst.Most) {
			worst = &Violation{Window: w, From: x - j.window, To: x}
		}
	}
	return worst
}

// allow says what a window that ends at x may hold, with the last grant and the last
// share in it.
func (j *judging) allow(grant, share *admission, x int64) Window {
	if grant != nil && share != nil && j.told(share.granted, grant.granted) {
		share = nil
	}
	var w Window
	if grant != nil {
		w.Limit = int64(grant.limit)
	}
	if share != nil && (grant == nil || j.options.Shares) {
		w.Limit = max(w.Limit, int64(share.limit))
	}
	w.Most = w.Limit
	if share != nil && j.options.Shares {
		limit, sharers := int64(share.limit), max(int64(share.sharers), 1)
		if grant == nil {
			w.Most = 0
		}
		w.Most += sharers * max(limit/sharers, 1)
	}
	for _, lost := range j.options.Lost {
		if x >= lost.From && x-j.window < lost.To+min(maxLease, j.window/6) {
			w.Most += w.Limit
		}
	}
	return w
}

// told reports whether Redis was told of all shares up to the last one before the
// last grant.
func (j *judging) told(share, grant int64) bool {
	return slices.ContainsFunc(j.options.Told, func(t int64) bool { return share <= t && t <= grant })
}

func (j *judging) note(w Window) {
	fullest := &j.verdict.Fullest
	if w.Most > w.Limit {
		fullest = &j.verdict.FullestExcused
	}
	if w.Share() > fullest.Share() {
		*fullest = w
	}
}

// latestGrants is a heap of admissions, the last granted on top: of those that
// were granted at the same time the one with the largest limit, which may be the last.
type latestGrants []*admission

func (g latestGrants) Len() int { return len(g) }
func (g latestGrants) Less(a, b int) bool {
	return g[a].granted > g[b].granted || g[a].granted == g[b].granted && g[a].limit > g[b].limit
}
func (g latestGrants) Swap(a, b int) { g[a], g[b] = g[b], g[a] }
func (g *latestGrants) Push(a any)   { *g = append(*g, a.(*admission)) }
func (g *latestGrants) Pop() any {
	last := (*g)[len(*g)-1]
	*g = (*g)[:len(*g)-1]
	return last
}

// top is the last grant of those that are after a time; nil: there is none.
func (g *latestGrants) top(after int64) *admission {
	for len(*g) > 0 && (*g)[0].earliest <= after {
		heap.Pop(g)
	}
	if len(*g) == 0 {
		return nil
	}
	return (*g)[0]
}

// crowded looks for a choice of times, where one limit held for all and nothing
// excuses more.
func (j *judging) crowded(all []admission) *Violation {
	if len(all) == 0 || len(j.options.Lost) > 0 {
		return nil
	}
	points := true
	for i := range all {
		if all[i].limit != all[0].limit || all[i].source == audit.Share && j.options.Shares {
			return nil
		}
		points = points && all[i].width == 0
	}
	if points {
		return nil // contained has looked
	}
	limit := int64(all[0].limit)
	earliest := times(all, func(a *admission) int64 { return a.earliest })
	latest := times(all, (*admission).latest)
	// placed are the units of before, in order; those of rank below first left are done.
	var placed []units
	for rest := int64(0); len(earliest) > 0; {
		e, l := &earliest[0], &latest[0]
		n := min(e.n, l.n)
		at := e.at
		if rest >= limit { // the unit so many before
			n = min(n, placed[0].n)
			at = max(at, placed[0].at+j.window)
			if placed[0].n -= n; placed[0].n == 0 {
				placed = placed[1:]
			}
			rest -= n
		} else {
			n = min(n, limit-rest)
		}
		if at > l.at {
			return &Violation{Crowded: true, From: l.at - j.window, To: l.at, Window: Window{Units: limit + 1, Limit: limit, Most: limit}}
		}
		placed = append(placed, units{at, n})
		rest += n
		if e.n -= n; e.n == 0 {
			earliest = earliest[1:]
		}
		if l.n -= n; l.n == 0 {
			latest = latest[1:]
		}
	}
	return nil
}

// units at a time.
type units struct{ at, n int64 }

// times of all units, in order.
func times(all []admission, of func(*admission) int64) []units {
	list := make([]units, len(all))
	for i := range all {
		list[i] = units{of(&all[i]), int64(all[i].cost)}
	}
	slices.SortFunc(list, func(a, b units) int { return cmp.Compare(a.at, b.at) })
	return list
}
