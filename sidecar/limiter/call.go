package limiter

import (
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"regexp"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

//go:embed take.lua
var takeSource string

var takeScript = redis.NewScript(inlined(takeSource))

var namedNumber = regexp.MustCompile(`(?m)^ *local ([A-Z_]+) = (\d+).*$`)

// inlined is a script with its named numbers written out, line by line: Redis makes
// a script's functions with each call, and each variable that they share costs.
func inlined(script string) string {
	named := namedNumber.FindAllStringSubmatch(script, -1)
	script = namedNumber.ReplaceAllString(script, "")
	for _, n := range named {
		script = regexp.MustCompile(`\b`+n[1]+`\b`).ReplaceAllString(script, n[2])
	}
	return script
}

// The script's verbs: take, lease, peek, give, settle, note, reset.
const (
	verbTake   byte = 't'
	verbLease  byte = 'l'
	verbPeek   byte = 'p'
	verbGive   byte = 'g'
	verbSettle byte = 's'
	verbNote   byte = 'n'
	verbReset  byte = 'r'
)

// giveLength is how long a take may be given back that several nodes of a Redis
// Cluster decide.
const giveLength = 10 * time.Second

// call is one Take or Remaining on its way through the store.
type call struct {
	// caller ends when nobody waits any longer, deadline is the store's.
	caller   context.Context
	deadline time.Time
	backend  *backend
	quotas   []quota
	// groups are what one script can decide, each a list of indices into
	// quotas: one alone, unless Redis Cluster places the keys apart.
	groups [][]int
	id     [idBytes]byte
	// takes are what the memory knows the quotas by, and request what it asks
	// for.
	takes   []Take
	request request
	// decision is written group by group, in memory of the caller's, who may keep it for
	// long; times are those at which the quotas' logs have it, for a recorder.
	decision Decision
	times    []int64
	// first is the memory of what most calls need one of.
	first struct {
		command command
		quota   [1]quota
	}
}

// newCall checks takes.
func newCall(caller context.Context, takes []Take) (c *call, err error) {
	c = &call{caller: caller, takes: takes}
	c.quotas, err = quotasOf(c.first.quota[:0], takes)
	return c, err
}

// to names the store that the call goes to.
func (c *call) to(b *backend, deadline time.Time) {
	c.backend, c.deadline, c.id, c.groups = b, deadline, newID(), groupsOf(c.quotas, b.cluster)
	c.decision.Quotas = slices.Grow(c.decision.Quotas[:0], len(c.quotas))[:len(c.quotas)]
	if b.memory.recorder != nil {
		c.times = make([]int64, len(c.quotas))
	}
}

// idBytes of a take's name, as take.lua has it.
const idBytes = 9

// newID names a take: so many random bytes that a collision is out of reach, and an
// entry of a log small.
func newID() (id [idBytes]byte) {
	_, _ = rand.Read(id[:]) // never fails, see its documentation
	return id
}

// onlyGroup is that of a single quota.
var onlyGroup = [][]int{{0}}

// groupsOf splits quotas by hash tag when the store is a Redis Cluster, sorted
// so that any two calls meet the same tags in the same order.
func groupsOf(quotas []quota, cluster bool) [][]int {
	if len(quotas) == 1 {
		return onlyGroup
	}
	all := make([]int, len(quotas))
	for i := range all {
		all[i] = i
	}
	if !cluster {
		return [][]int{all}
	}
	slices.SortStableFunc(all, func(a, b int) int { return cmp.Compare(quotas[a].tag, quotas[b].tag) })
	var groups [][]int
	for start, i := 0, 1; i <= len(all); i++ {
		if i == len(all) || quotas[all[i]].tag != quotas[all[start]].tag {
			groups = append(groups, all[start:i])
			start = i
		}
	}
	return groups
}

// take takes from each group in turn. When one refuses, what the others gave is
// given back, and all say when they would admit.
func (c *call) take() (Decision, error) {
	memory := c.backend.memory
	c.request = memory.asks(c.takes)
	asked, err := c.takeGroups()
	if err != nil {
		memory.failed(c.takes, c.request, asked)
		return Decision{}, err
	}
	c.decision.Admitted = asked.admitted()
	memory.learn(c.takes, c.request, asked, c.decision)
	if c.times != nil && c.decision.Admitted {
		memory.recorder.counted(c.takes, c.decision, c.times)
	}
	return c.decision, nil
}

// takeGroups returns what was asked last.
func (c *call) takeGroups() (asked *command, err error) {
	for i, group := range c.groups {
		if asked, err = c.run(verbTake, group); err != nil {
			c.giveBack(c.groups[:i])
			return asked, err
		}
		if !asked.admitted() {
			return asked, c.refused(i)
		}
	}
	return asked, nil
}

func (c *command) admitted() bool { return c.reply[0] == 1 }

// refused ends a take that the group of an index refused.
func (c *call) refused(refusing int) error {
	for i, group := range c.groups {
		verb := verbPeek
		switch {
		case i == refusing:
			continue
		case i < refusing:
			verb = verbGive
		}
		if _, err := c.run(verb, group); err != nil {
			c.giveBack(c.groups[min(i, refusing):refusing])
			return err
		}
	}
	c.decision.RetryAfter = retryAfter(c.decision.Quotas)
	return nil
}

// peek asks every group and takes from none.
func (c *call) peek() (Decision, error) {
	c.decision.Admitted = true
	for _, group := range c.groups {
		asked, err := c.run(verbPeek, group)
		if err != nil {
			return Decision{}, err
		}
		c.decision.Admitted = c.decision.Admitted && asked.admitted()
	}
	c.decision.RetryAfter = retryAfter(c.decision.Quotas)
	return c.decision, nil
}

// giveBack returns what groups admitted although the take has failed: in the
// background, since the caller's time is over.
func (c *call) giveBack(groups [][]int) {
	if len(groups) == 0 {
		return
	}
	again := *c
	again.caller = context.WithoutCancel(c.caller)
	again.decision = Decision{Quotas: make([]Quota, len(c.quotas))}
	c.backend.calls.Go(func() {
		for _, group := range groups {
			again.deadline = time.Now().Add(c.backend.store.Timeout())
			_, _ = again.run(verbGive, group) // what cannot be given back leaves with the window
		}
	})
}

// run has the script decide over a group and notes the state of its quotas.
func (c *call) run(verb byte, group []int) (asked *command, err error) {
	started := time.Now()
	if asked = &c.first.command; len(c.groups) > 1 {
		asked = new(command)
	}
	*asked = command{verb: verb, id: c.id, quotas: c.quotas, deadline: c.deadline}
	switch {
	case len(c.groups) > 1 && verb != verbPeek:
		asked.length = giveLength.Nanoseconds()
	case verb == verbTake:
		asked.settle, asked.want = c.request.settle, c.request.want
		if asked.want > 0 {
			asked.length = c.request.length
		}
	}
	if c.backend.batch != nil { // the group is all quotas
		err = c.backend.batch.do(c.caller, asked)
	} else {
		asked.quotas = make([]quota, 0, len(group))
		for _, i := range group {
			asked.quotas = append(asked.quotas, c.quotas[i])
		}
		if until, ok := c.caller.Deadline(); ok && until.Before(asked.deadline) {
			asked.deadline = until
		}
		err = c.backend.alone().call([]*command{asked})
		if verb == verbTake && len(c.groups) == 1 && redis.IsTryAgainError(err) {
			// The slot is being moved, and its keys are on both nodes: one key is not.
			c.backend.memory.later(asked.settle)
			asked.settle, asked.want, asked.length = nil, 0, 0
			err = c.backend.alone().call([]*command{asked})
		}
	}
	if err != nil {
		if !c.hurried(started) {
			c.backend.failed(started, err, asked.quotas)
		}
		return asked, err
	}
	for n, i := range group {
		c.decision.Quotas[i] = asked.quota(n)
		if c.times != nil && asked.took() {
			c.times[i] = asked.time(n)
		}
	}
	return asked, nil
}

// took reports whether the script has taken what was asked for.
func (c *command) took() bool { return (c.verb == verbTake || c.verb == verbLease) && c.admitted() }

// quota is what the script has answered of one.
func (c *command) quota(n int) Quota {
	q := Quota{
		Take: c.quotas[n].take, Limit: c.quotas[n].limit,
		Remaining: c.reply[2+3*n], Reset: micros(c.reply[3+3*n]),
	}
	if !c.took() {
		q.RetryAfter = micros(c.reply[4+3*n])
	}
	return q
}

// hurried reports whether the caller has left the store less than its timeout
// since a time: that it did not answer says nothing then.
func (c *call) hurried(since time.Time) bool {
	until, ok := c.caller.Deadline()
	return c.caller.Err() != nil || ok && until.Before(since.Add(c.backend.store.Timeout()))
}

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// retryAfter is when every quota admits; negative when one never does.
func retryAfter(quotas []Quota) time.Duration {
	var latest time.Duration
	for _, q := range quotas {
		if q.RetryAfter < 0 {
			return q.RetryAfter
		}
		latest = max(latest, q.RetryAfter)
	}
	return latest
}
