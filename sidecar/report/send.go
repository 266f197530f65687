package report

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/limiter"
)

const (
	// every is the time between two reports: a bucket's length, so that each has one of
	// every pod.
	every = 2 * time.Second
	// sendTimeout bounds one, which is dropped then.
	sendTimeout = time.Second
)

// Start sends reports until Close: each pod at a moment of its own, of every two
// seconds.
func (r *Recorder) Start() {
	r.stop, r.stopped = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(r.stopped)
		phase := every/10 + rand.N(every*8/10) // not where a bucket ends, which a timer would miss
		for {
			now := time.Now()
			next := now.Truncate(every).Add(phase)
			if !next.After(now) {
				next = next.Add(every)
			}
			select {
			case <-r.stop:
				return
			case <-time.After(next.Sub(now)):
				r.send(time.Now(), false)
			}
		}
	}()
}

// Close sends what is left, in two seconds at most, and ends the connection. What
// is counted afterwards is lost.
func (r *Recorder) Close() {
	if r.stop != nil {
		close(r.stop)
		<-r.stopped
	}
	r.send(time.Now(), true)
	if r.connection != nil {
		r.connection.Close()
	}
}

// send sends what happened since the last time, or drops it.
func (r *Recorder) send(now time.Time, last bool) {
	taken := r.taken(last)
	if len(taken) == 0 {
		return
	}
	err := r.sendAll(taken, now)
	for recording, i := range taken {
		recording.giveBack(i)
	}
	r.sent[err == nil].Inc()
	switch {
	case err != nil && !r.failing:
		r.log.Info("What happens at policies is not reported to the operator's page and API until Redis takes it.", "error", err)
	case err == nil && r.failing:
		r.log.Info("What happens at policies is reported again.")
	}
	r.failing = err != nil
}

func (r *Recorder) sendAll(taken map[*Recording]*interval, now time.Time) error {
	connection, err := r.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), sendTimeout)
	defer cancel()
	_, err = connection.Client().Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for recording, i := range taken {
			i.write(ctx, pipe, recording.policy, r.pod, now)
		}
		return nil
	})
	if err != nil {
		return connection.Explain(err)
	}
	return nil
}

// connect returns a connection to the store to use.
func (r *Recorder) connect() (*limiter.Connection, error) {
	r.mu.Lock()
	store := r.store
	r.mu.Unlock()
	if store == nil {
		return nil, limiter.ErrStore
	}
	if r.inUse != nil && *r.inUse == *store {
		return r.connection, nil
	}
	patient := *store
	patient.TimeoutMillis = sendTimeout.Milliseconds()
	next, err := limiter.ConnectOnce(patient)
	if err != nil {
		return nil, err
	}
	if r.connection != nil {
		r.connection.Close()
	}
	r.connection, r.inUse = next, store
	return next, nil
}

// write adds an interval to the policy's keys. It is of the two seconds before now,
// hence of the bucket in which their middle is.
func (i *interval) write(ctx context.Context, pipe redis.Pipeliner, policy Policy, pod string, now time.Time) {
	base := baseOf(policy.Namespace, policy.Service)
	middle := now.Add(-every / 2)
	for _, r := range []*ring{&seconds, &minutes} {
		key, slot := r.place(base, r.bucket(middle))
		for counter, count := range map[byte]int64{'a': i.Admitted, 'l': i.Limited, 'w': i.WithoutRedis} {
			if count > 0 {
				pipe.HIncrBy(ctx, key, fieldOf(slot, counter), count)
			}
		}
		pipe.PExpire(ctx, key, r.life)
	}
	minute := minutes.bucket(middle)
	i.rank(ctx, pipe, minuteKey(base, askedOf, minute), func(c *caller) int64 { return c.asked })
	i.rank(ctx, pipe, minuteKey(base, limitedOf, minute), func(c *caller) int64 { return c.limited })
	if i.refused == 0 {
		return
	}
	var refusals []any
	for n := range i.refused {
		refusals = append(refusals, i.refusals[n].text(pod))
	}
	pipe.LPush(ctx, refusalsKey(base), refusals...)
	pipe.LTrim(ctx, refusalsKey(base), 0, maxRefusals-1)
	pipe.PExpire(ctx, refusalsKey(base), refusalsLife)
}

// rank adds each caller's units to a sorted set, which keeps those with the most.
func (i *interval) rank(ctx context.Context, pipe redis.Pipeliner, key string, units func(*caller) int64) {
	some := false
	for n := range i.callers.callers {
		if c := &i.callers.callers[n]; units(c) > 0 {
			pipe.ZIncrBy(ctx, key, float64(units(c)), string(c.name))
			some = true
		}
	}
	if some {
		pipe.ZRemRangeByRank(ctx, key, 0, -maxKept-1)
		pipe.PExpire(ctx, key, callersLife)
	}
}

// text is the refusal as Redis keeps it.
func (f *refusal) text(pod string) string {
	k := kept{
		Identity: f.name, Requests: f.Requests, Window: f.Window.Milliseconds(), At: f.At.UnixMilli(), Pod: pod, Observed: f.Observed,
	}
	if !f.Frees.IsZero() {
		k.Frees = f.Frees.UnixMilli()
	}
	text, err := json.Marshal(k)
	if err != nil {
		panic(err) // only texts and numbers, which encode
	}
	return string(text)
}
