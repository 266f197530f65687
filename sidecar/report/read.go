package report

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/limiter"
)

// Report is what happened at a policy, at all its pods.
type Report struct {
	// Recent is of the last two minutes, in buckets of 2 s, Hour in buckets of 1 m.
	Recent, Hour Series
	// Callers of the last ten minutes, who asked most first.
	Callers []Caller
	// Refusals, the latest first; at most a few of each pod and two seconds.
	Refusals []Refusal
}

// Series are counts of equal times.
type Series struct {
	// Begin of the first bucket.
	Begin time.Time
	Step  time.Duration
	// Buckets, the oldest first. The last is under way.
	Buckets []Counts
}

// Counts of requests.
type Counts struct {
	Admitted int64
	// Limited were refused, or would have been by a policy that observes.
	Limited int64
	// WithoutRedis were decided while Redis did not: from the pod's share (they are
	// admitted or limited, too) or, passed or refused, uncounted.
	WithoutRedis int64
}

// Caller is one of those who asked most. Units are costs of requests; of a caller
// that is not among a pod's 64 with the most, some are missing.
type Caller struct {
	// Identity; empty: all unnamed callers together.
	Identity string
	// Asked for, admitted or not, and Limited of them.
	Asked, Limited int64
}

// Refusal is a request that was limited.
type Refusal struct {
	// Identity of the caller; empty: unnamed.
	Identity string
	// Requests and Window are the limit's.
	Requests int64
	Window   time.Duration
	// At is when it was, and Frees when the same would be admitted; zero: never.
	At, Frees time.Time
	// Pod that refused.
	Pod string
	// Observed: the policy only observes, and the request passed.
	Observed bool
}

// Policy names one, as the limiter does.
type Policy struct {
	Namespace, Service string
	// Lately is for how long Rates tells who asked most, at most ten minutes; 0: not.
	Lately time.Duration
}

// Rate is what happens at a policy now, in requests a second.
type Rate struct {
	Admitted, Limited, WithoutRedis float64
	// Callers who asked most lately, maxLately at most; what was limited is not told.
	Callers []Caller
}

const (
	// Of what is read: maxDigits of a counter, and maxTextBytes of a refusal, with
	// the longest names. A caller has limiter.MaxIdentityBytes.
	maxDigits    = 20
	maxTextBytes = 8 << 10
	// maxLately callers of a Rate.
	maxLately = 4
	// rateBuckets are those that a Rate is the mean of, 10 s; lag is how long after
	// its end a bucket has all counts.
	rateBuckets = 5
	lag         = 1500 * time.Millisecond
)

//go:embed read.lua
var readSource string

var readScript = redis.NewScript(readSource)

// Read says what happened at a policy. It sends one script, with EVALSHA or EVAL,
// which calls HMGET, ZREVRANGE and LRANGE. The error is Redis's: see
// limiter.Connection's Explain.
func Read(ctx context.Context, client redis.UniversalClient, namespace, service string) (Report, error) {
	return read(ctx, client, namespace, service, time.Now())
}

func read(ctx context.Context, client redis.UniversalClient, namespace, service string, now time.Time) (Report, error) {
	base := baseOf(namespace, service)
	recent, hour := seconds.window(base, now), minutes.window(base, now)
	var sets []string
	minute := minutes.bucket(now)
	for back := range int64(callersSpan / time.Minute) {
		sets = append(sets, minuteKey(base, askedOf, minute-back), minuteKey(base, limitedOf, minute-back))
	}
	hashes := slices.Concat(recent.keys, hour.keys)
	found, err := lists(readScript.Run(ctx, client, slices.Concat(hashes, sets, []string{refusalsKey(base)}), arguments(len(hashes), len(sets), maxKept, allSlots)...))
	if err != nil {
		return Report{}, err
	}
	asked, refused := map[string]int64{}, map[string]int64{}
	for i := 0; i < len(sets); i += 2 {
		found[len(hashes)+i].addTo(asked)
		found[len(hashes)+i+1].addTo(refused)
	}
	return Report{
		Recent: recent.series(found, allSlots), Hour: hour.series(found[len(recent.keys):], allSlots),
		Callers: callersOf(asked, refused), Refusals: refusalsOf(found[len(hashes)+len(sets)]),
	}, nil
}

// Rates says what happens at some policies now, in their order: the mean of ten
// seconds that ended a moment ago. It sends a script for each, in one pipeline.
func Rates(ctx context.Context, client redis.UniversalClient, policies []Policy) ([]Rate, error) {
	return rates(ctx, client, policies, time.Now())
}

func rates(ctx context.Context, client redis.UniversalClient, policies []Policy, now time.Time) ([]Rate, error) {
	end := seconds.bucket(now.Add(-lag)) // is under way, or has not all counts
	wanted := make([]int64, 0, rateBuckets)
	for back := range int64(rateBuckets) {
		wanted = append(wanted, (end-1-back)%slots)
	}
	found, err := several(ctx, client, policies, wanted, func(p Policy) asked {
		base := baseOf(p.Namespace, p.Service)
		return asked{seconds.between(base, end-rateBuckets, end-1), callersKeys(base, now, p.Lately)}
	})
	if err != nil {
		return nil, err
	}
	result := make([]Rate, len(policies))
	for i, answer := range found {
		var sum Counts
		for _, counts := range answer.Buckets {
			sum.add(counts)
		}
		over := float64(rateBuckets) * seconds.step.Seconds()
		callers := callersOf(answer.callers, nil)
		result[i] = Rate{float64(sum.Admitted) / over, float64(sum.Limited) / over, float64(sum.WithoutRedis) / over, callers[:min(len(callers), maxLately)]}
	}
	return result, nil
}

// Hours are the last hours of some policies, in their order, in buckets of 1 m. It
// sends a script for each, in one pipeline.
func Hours(ctx context.Context, client redis.UniversalClient, policies []Policy) ([]Series, error) {
	now := time.Now()
	found, err := several(ctx, client, policies, allSlots, func(p Policy) asked {
		return asked{window: minutes.window(baseOf(p.Namespace, p.Service), now)}
	})
	hours := make([]Series, len(found))
	for i := range found {
		hours[i] = found[i].Series
	}
	return hours, err
}

// asked is what is wanted of a policy: counters, and who asked most.
type asked struct {
	window
	sets []string
}

func (a *asked) all() []string { return slices.Concat(a.keys, a.sets) }

// answer is what was found.
type answer struct {
	Series
	callers map[string]int64
}

// callersKeys are the sets of the callers of some time until now.
func callersKeys(base string, now time.Time, lately time.Duration) (keys []string) {
	if lately <= 0 {
		return nil
	}
	last, first := minutes.bucket(now), minutes.bucket(now.Add(-min(lately, callersSpan-time.Minute)))
	for minute := first; minute <= last; minute++ {
		keys = append(keys, minuteKey(base, askedOf, minute))
	}
	return keys
}

// several reads counters of several policies.
func several(ctx context.Context, client redis.UniversalClient, policies []Policy, wanted []int64, of func(Policy) asked) ([]answer, error) {
	if len(policies) == 0 {
		return nil, nil
	}
	wants, replies := make([]asked, len(policies)), make([]*redis.Cmd, len(policies))
	ask := func(run func(redis.Pipeliner, int)) error {
		_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i := range policies {
				run(pipe, i)
			}
			return nil
		})
		return err
	}
	for i, policy := range policies {
		wants[i] = of(policy)
	}
	err := ask(func(pipe redis.Pipeliner, i int) {
		replies[i] = readScript.EvalSha(ctx, pipe, wants[i].all(), arguments(len(wants[i].keys), len(wants[i].sets), maxLately, wanted)...)
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		err = ask(func(pipe redis.Pipeliner, i int) {
			replies[i] = readScript.Eval(ctx, pipe, wants[i].all(), arguments(len(wants[i].keys), len(wants[i].sets), maxLately, wanted)...)
		})
	}
	if err != nil {
		return nil, err
	}
	result := make([]answer, len(policies))
	for i := range policies {
		found, err := lists(replies[i])
		if err != nil {
			return nil, err
		}
		result[i] = answer{wants[i].series(found, wanted), map[string]int64{}}
		for _, set := range found[len(wants[i].keys):] {
			set.addTo(result[i].callers)
		}
	}
	return result, nil
}

var allSlots = func() []int64 {
	all := make([]int64, slots)
	for i := range all {
		all[i] = int64(i)
	}
	return all
}()

// arguments of the script, which reads those slots of the hashes, and so many of
// each set.
func arguments(hashes, sets, most int, wanted []int64) []any {
	arguments := []any{hashes, sets, most, maxRefusals, maxDigits, limiter.MaxIdentityBytes, maxTextBytes}
	for _, slot := range wanted {
		for i := range counters {
			arguments = append(arguments, fieldOf(slot, counters[i]))
		}
	}
	return arguments
}

// window is a part of a ring.
type window struct {
	*ring
	first, last int64 // buckets
	keys        []string
}

// window of the ring's span until now.
func (r *ring) window(base string, now time.Time) window {
	last := r.bucket(now)
	return r.between(base, last-int64(r.span/r.step)+1, last)
}

func (r *ring) between(base string, first, last int64) window {
	w := window{ring: r, first: first, last: last}
	for block := first / slots; block <= last/slots; block++ {
		key, _ := r.place(base, block*slots)
		w.keys = append(w.keys, key)
	}
	return w
}

// series from what the script found in the window's hashes at some slots.
func (w *window) series(found []texts, wanted []int64) Series {
	series := Series{Begin: w.begin(w.first), Step: w.step, Buckets: make([]Counts, w.last-w.first+1)}
	for i := range w.keys {
		for n, slot := range wanted {
			bucket := (w.first/slots+int64(i))*slots + slot
			if values := found[i]; bucket >= w.first && bucket <= w.last && len(values) >= (n+1)*len(counters) {
				at := values[n*len(counters):]
				series.Buckets[bucket-w.first] = Counts{at.number(0), at.number(1), at.number(2)}
			}
		}
	}
	return series
}

func (c *Counts) add(other Counts) {
	c.Admitted += other.Admitted
	c.Limited += other.Limited
	c.WithoutRedis += other.WithoutRedis
}

// texts are what the script found at one key; nil is one that is not there, or too
// long.
type texts []any

// number is one of them, or 0.
func (t texts) number(i int) int64 {
	text, _ := t[i].(string)
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n > maxCount {
		return 0
	}
	return max(n, 0)
}

// addTo adds members and their scores.
func (t texts) addTo(sums map[string]int64) {
	for i := 0; i+1 < len(t); i += 2 {
		member, ok := t[i].(string)
		text, _ := t[i+1].(string)
		score, err := strconv.ParseFloat(text, 64)
		if ok && err == nil && score >= 1 && score < maxCount {
			sums[member] += int64(score)
		}
	}
}

// maxCount that is believed: sums of some fit.
const maxCount = 1 << 53

// lists are the script's answer.
func lists(reply *redis.Cmd) ([]texts, error) {
	found, err := reply.Slice()
	if err != nil {
		return nil, err
	}
	result := make([]texts, len(found))
	for i, list := range found {
		elements, ok := list.([]any)
		if !ok {
			return nil, fmt.Errorf("reading reports: the script answered with a %T", list)
		}
		result[i] = elements
	}
	return result, nil
}

// callersOf sorts who asked most to the front.
func callersOf(asked, limited map[string]int64) []Caller {
	callers := make([]Caller, 0, len(asked))
	for identity, units := range asked {
		// Those refused may be kept where those asked for are not, by others' count.
		callers = append(callers, Caller{identity, max(units, limited[identity]), limited[identity]})
		delete(limited, identity)
	}
	for identity, units := range limited {
		callers = append(callers, Caller{identity, units, units})
	}
	slices.SortFunc(callers, func(a, b Caller) int {
		return cmp.Or(cmp.Compare(b.Asked, a.Asked), cmp.Compare(b.Limited, a.Limited), cmp.Compare(a.Identity, b.Identity))
	})
	return callers
}

// kept is a Refusal as Redis has it, in JSON; times are in milliseconds.
type kept struct {
	// Identity is bytes: a caller's name may be any.
	Identity []byte `json:"i"`
	Requests int64  `json:"n"`
	Window   int64  `json:"w"`
	At       int64  `json:"t"`
	Frees    int64  `json:"f,omitempty"`
	Pod      string `json:"p"`
	Observed bool   `json:"o,omitempty"`
}

// latest time that JSON has, in milliseconds.
var latest = time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC).UnixMilli()

// believed says whether a sidecar may have written it.
func (k *kept) believed() bool {
	return k.Requests >= 1 && k.Window >= 1 && k.Window <= maxCount/1_000 && k.At >= 0 && max(k.At, k.Frees) <= latest
}

func refusalsOf(found texts) []Refusal {
	var refusals []Refusal
	for _, element := range found {
		text, _ := element.(string)
		var k kept
		if json.Unmarshal([]byte(text), &k) != nil || !k.believed() {
			continue
		}
		r := Refusal{
			Identity: string(k.Identity), Requests: k.Requests, Window: time.Duration(k.Window) * time.Millisecond,
			At: time.UnixMilli(k.At), Pod: k.Pod, Observed: k.Observed,
		}
		if k.Frees > 0 {
			r.Frees = time.UnixMilli(k.Frees)
		}
		refusals = append(refusals, r)
	}
	slices.SortStableFunc(refusals, func(a, b Refusal) int { return b.At.Compare(a.At) })
	return refusals
}
