package proxy

import (
	"context"
	"slices"
	"time"
)

const (
	// warmUp precedes what is measured, and so many requests of each user: with
	// their first two a sidecar knows nothing of them.
	warmUp     = 250 * time.Millisecond
	warmUpEach = 3
	// measured is how long a phase is measured.
	measured = time.Second
	// atOnce are the requests on the way when they are counted.
	atOnce = 64
)

// phase is some time with all connections busy.
type phase struct {
	*client
	traffic Traffic
	length  time.Duration          // of the measured part
	read    func() (cpuUse, error) // reads the CPU times
	before  cpuUse
	started time.Time
	warming int       // requests, before
	began   time.Time // the measured part; zero before
	ended   bool
	result  sample
}

// sample is what a phase measured.
type sample struct {
	latencies histogram
	elapsed   time.Duration
	used      cpuUse
}

// figures of a round, with what else is known of it.
func (s *sample) figures(memory Memory, failures int) figures {
	requests := float64(s.latencies.total)
	micros := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return figures{
		cpu: micros(s.used.proxy) / requests, redis: micros(s.used.redis) / requests,
		rate: requests / s.elapsed.Seconds(),
		p50:  micros(s.latencies.quantile(0.5)), p99: micros(s.latencies.quantile(0.99)),
		memory: memory, requests: s.latencies.total, failures: failures,
	}
}

// run is one phase. The CPU times are read by the client itself, where the
// measured part begins and ends; afterwards the connections are idle.
func (p *phase) run(ctx context.Context) (*sample, error) {
	if p.traffic == Refused {
		// Users who may make one request make it; no response is missing afterwards.
		p.expect(true, true)
		if err := p.several(ctx, users); err != nil {
			return nil, err
		}
	}
	p.expect(p.traffic == Refused, p.traffic == Admitted)
	p.started = time.Now()
	for _, one := range p.open {
		if err := p.send(one); err != nil {
			return nil, err
		}
	}
	return &p.result, p.loop(ctx, p.received)
}

// received notes a response and goes on.
func (p *phase) received(one *connection) error {
	now := time.Now()
	switch {
	case p.ended:
		return nil
	case p.began.IsZero():
		p.warming++
		if now.Sub(p.started) >= warmUp && (p.traffic == Refused || p.warming >= warmUpEach*users) {
			if err := p.begin(); err != nil {
				return err
			}
		}
		return p.send(one)
	}
	p.result.latencies.add(now.Sub(one.sent))
	if now.Sub(p.began) < p.length {
		return p.send(one)
	}
	return p.end(now)
}

// begin begins the measured part.
func (p *phase) begin() (err error) {
	p.before, err = p.read()
	p.began = time.Now()
	return err
}

func (p *phase) end(now time.Time) error {
	p.ended = true
	p.result.elapsed = now.Sub(p.began)
	after, err := p.read()
	p.result.used = after.less(p.before)
	return err
}

// several makes so many requests, some at once, on all connections in turn, and
// waits for all responses.
func (c *client) several(ctx context.Context, count int) error {
	idle := slices.Clone(c.open)
	next := func() error {
		if count == 0 || len(idle) == 0 {
			return nil
		}
		count--
		one := idle[0]
		idle = idle[1:]
		return c.send(one)
	}
	for range atOnce {
		if err := next(); err != nil {
			return err
		}
	}
	return c.loop(ctx, func(one *connection) error {
		idle = append(idle, one)
		return next()
	})
}
