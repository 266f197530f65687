package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// plain is the sliding log as it is usually written.
var plain = redis.NewScript(`
local time = redis.call('TIME')
local now, window = time[1] * 1000000 + time[2], tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
  return 0
end
redis.call('ZADD', KEYS[1], now, ARGV[3])
redis.call('PEXPIRE', KEYS[1], window / 1000)
return 1`)

const (
	concurrency = 64
	pipelined   = 16
	// exact is the largest limit without leases; there an identity may come again
	// in a round, and comes so often.
	exact  = 128
	visits = 4
)

// The sides.
const (
	weir        = "weir"
	raw         = "EVALSHA"
	rawPipeline = "EVALSHA, pipelined by 16"
	redisRate   = "redis_rate"
)

// side decides a take of each identity, all of which must be admitted.
type side struct {
	name  string
	width int // identities at once
	take  func(ctx context.Context, identities []string) error
}

var errRefused = errors.New("a take was refused that is far from its limit")

// errRemembered would be a figure of memory, not of Redis.
var errRemembered = errors.New("a take was decided without Redis")

// stage is where the sides of one limit meet.
type stage struct {
	server *server
	limit  ruleset.Limit
	// identities in the order in which they are asked for.
	identities []string
	warm       []string // others
	members    atomic.Int64
	limiter    *limiter.Limiter
}

func (s *stage) sides() []side {
	sides := []side{
		{weir, 1, func(ctx context.Context, identities []string) error {
			d, err := s.limiter.Take(ctx, []limiter.Take{{
				Namespace: "bench", Service: "weir", Identity: identities[0], Limits: []ruleset.Limit{s.limit}, Sharers: 20,
			}})
			if err == nil && d.Remembered {
				return errRemembered
			}
			return verdict(d.Admitted, err)
		}},
		{raw, 1, func(ctx context.Context, identities []string) error {
			admitted, err := plain.EvalSha(ctx, s.server.client, s.keys(raw, identities[0]), s.arguments()...).Bool()
			return verdict(admitted, err)
		}},
		{rawPipeline, pipelined, func(ctx context.Context, identities []string) error {
			pipe := s.server.client.Pipeline()
			asked := make([]*redis.Cmd, len(identities))
			for i, identity := range identities {
				asked[i] = plain.EvalSha(ctx, pipe, s.keys("pipelined", identity), s.arguments()...)
			}
			_, err := pipe.Exec(ctx)
			for _, one := range asked {
				if err == nil {
					admitted, failed := one.Bool()
					err = verdict(admitted, failed)
				}
			}
			return err
		}},
	}
	rate := redis_rate.NewLimiter(s.server.client)
	limit := redis_rate.Limit{Rate: int(s.limit.Requests), Burst: int(s.limit.Requests), Period: s.limit.Window()}
	return append(sides, side{redisRate, 1, func(ctx context.Context, identities []string) error {
		d, err := rate.Allow(ctx, identities[0], limit)
		if err != nil {
			return err
		}
		return verdict(d.Allowed == 1, nil)
	}})
}

func verdict(admitted bool, err error) error {
	if err == nil && !admitted {
		return errRefused
	}
	return err
}

func (s *stage) keys(side, identity string) []string {
	return []string{"ratelimit:{bench/" + side + ":" + identity + "}:" + strconv.FormatInt(s.limit.WindowMillis, 10)}
}

func (s *stage) arguments() []any {
	return []any{s.limit.Requests, s.limit.WindowMillis * 1000, strconv.FormatInt(s.members.Add(1), 36)}
}

// measured are the figures of a side's rounds.
type measured struct {
	rates    []float64 // takes a second
	redisCPU []float64 // microseconds a take
	calls    []float64 // of scripts, a take
	p50, p99 []float64 // microseconds, one at a time
}

// decided has a side decide a take of each identity, so many at the same time.
func (s *stage) decided(ctx context.Context, one side, identities []string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var all sync.WaitGroup
	for range concurrency / one.width {
		all.Go(func() {
			for ctx.Err() == nil {
				end := int(next.Add(int64(one.width)))
				if end > len(identities) {
					return
				}
				if err := one.take(ctx, identities[end-one.width:end]); err != nil {
					cancel(fmt.Errorf("%s: %w", one.name, err))
				}
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// fresh lets nothing be remembered: every take goes to Redis.
func (s *stage) fresh() (err error) {
	if s.limiter != nil {
		s.limiter.Close()
	}
	s.limiter, err = s.server.limiter(limiter.Options{})
	return err
}

// throughput of a side.
func (s *stage) throughput(ctx context.Context, one side, m *measured) error {
	if err := s.fresh(); err != nil {
		return err
	}
	if err := one.take(ctx, s.warm[:one.width]); err != nil { // connects
		return err
	}
	before, err := s.server.counters(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.decided(ctx, one, s.identities); err != nil {
		return err
	}
	takes, elapsed := float64(len(s.identities)), time.Since(began).Seconds()
	after, err := s.server.counters(ctx)
	if err != nil {
		return err
	}
	m.rates = append(m.rates, takes/elapsed)
	m.redisCPU = append(m.redisCPU, (after.cpu-before.cpu)/takes*1e6)
	m.calls = append(m.calls, float64(after.scripts-before.scripts)/takes)
	return nil
}

// alone measures the latencies of one take at a time, the sides in turns.
func (s *stage) alone(ctx context.Context, sides []side, of map[string]*measured, takes int) error {
	if err := s.fresh(); err != nil {
		return err
	}
	times := map[string][]time.Duration{}
	for i, identity := range s.identities[:takes] {
		for _, one := range sides {
			if one.width > 1 {
				continue
			}
			began := time.Now()
			if err := one.take(ctx, []string{identity}); err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
			if i > takes/10 {
				times[one.name] = append(times[one.name], time.Since(began))
			}
		}
	}
	for name, all := range times {
		slices.Sort(all)
		m := of[name]
		m.p50 = append(m.p50, micros(all[len(all)/2]))
		m.p99 = append(m.p99, micros(all[len(all)*99/100]))
	}
	return nil
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// compare runs the rounds of one limit: through Redis, by identities that are
// not remembered.
func compare(ctx context.Context, server *server, limit ruleset.Limit, o options, progress io.Writer) ([]SideRow, error) {
	s := &stage{server: server, limit: limit}
	different := o.takes
	if limit.Requests <= exact {
		different /= visits
	}
	for i := range o.takes {
		s.identities = append(s.identities, "user-"+strconv.Itoa(i%different))
	}
	for i := range pipelined {
		s.warm = append(s.warm, "first-"+strconv.Itoa(i))
	}
	if err := plain.Load(ctx, server.client).Err(); err != nil {
		return nil, err
	}
	sides, of := s.sides(), map[string]*measured{}
	defer func() { s.limiter.Close() }()
	for round := range o.rounds + 1 {
		if round <= 1 { // the first is not counted
			for _, one := range sides {
				of[one.name] = new(measured)
			}
		}
		for i := range sides {
			one := sides[(round+i)%len(sides)]
			if err := s.throughput(ctx, one, of[one.name]); err != nil {
				return nil, err
			}
		}
		if err := s.alone(ctx, sides, of, min(o.takes/visits, o.takes/10)); err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "%d in %v, round %d of %d: %s %.0f takes/s, %s %.0f\n", limit.Requests, limit.Window(), round, o.rounds,
			weir, last(of[weir].rates), raw, last(of[raw].rates))
	}
	var rows []SideRow
	for _, one := range sides {
		rows = append(rows, of[one.name].row(one.name, limit, of[raw]))
	}
	return rows, nil
}

func last(values []float64) float64 { return values[len(values)-1] }

func (m *measured) row(name string, limit ruleset.Limit, raw *measured) SideRow {
	return SideRow{
		Side: name, Limit: limit.Requests, WindowSeconds: limit.Window().Seconds(),
		TakesPerSecond: median(m.rates), RateRatio: median(ratios(m.rates, raw.rates)),
		CallsATake: median(m.calls), RedisCPUMicros: median(m.redisCPU),
		P50Micros: median(m.p50), P50Ratio: median(ratios(m.p50, raw.p50)),
		P99Micros: median(m.p99), P99Ratio: median(ratios(m.p99, raw.p99)),
		rates: m.rates,
	}
}

// ratios round by round.
func ratios(a, b []float64) []float64 {
	var all []float64
	for i := range a {
		all = append(all, a[i]/b[i])
	}
	return all
}

// median; 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
