package proxy

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// connections of the phases of both kinds of traffic; admitted traffic has one
// more, of many.
var connections = []int{1, 64}

// measure measures all sides in turns.
func (s *stage) measure(ctx context.Context) (*results, error) {
	all := newResults()
	sides := s.sides()
	for round := range s.options.Rounds {
		for i := range sides {
			// Another one begins each round: what follows a side is not always the same.
			one := sides[(i+round)%len(sides)]
			for _, traffic := range []Traffic{Admitted, Refused} {
				if traffic == Refused && !one.limits {
					continue
				}
				before := time.Now()
				if err := s.live(ctx, one, traffic, all); err != nil {
					return nil, fmt.Errorf("measuring %s, %s: %w", one.name, traffic, err)
				}
				fmt.Fprintf(s.progress, "round %d of %d: %s, %s: %.1f s\n", round+1, s.options.Rounds, one.name, traffic, time.Since(before).Seconds())
			}
		}
	}
	return all, nil
}

// live is a proxy's life: it is started for one kind of traffic, and ended.
func (s *stage) live(ctx context.Context, one *side, traffic Traffic, all *results) error {
	if err := s.store.FlushAll(ctx).Err(); err != nil {
		return fmt.Errorf("emptying Redis: %w", err)
	}
	var proxy *running
	if one.command != nil {
		var err error
		if proxy, err = s.startSide(ctx, one, traffic); err != nil {
			return err
		}
		defer proxy.Kill()
	}
	var memory MemoryRow
	var err error
	if memory.Idle, err = proxy.memory(); err != nil {
		return err
	}
	for _, number := range connections {
		if err := s.phase(ctx, one, proxy, traffic, number, all, nil); err != nil {
			return fmt.Errorf("with %d connections: %w", number, err)
		}
	}
	if traffic == Admitted {
		if err := s.phase(ctx, one, proxy, traffic, many, all, &memory); err != nil {
			return fmt.Errorf("with %d connections: %w", many, err)
		}
		if proxy != nil {
			all.addMemory(one.name, memory)
		}
	}
	return s.enforced(ctx, one)
}

func (s *stage) startSide(ctx context.Context, one *side, traffic Traffic) (*running, error) {
	command, err := one.command(limitOf[traffic])
	if err != nil {
		return nil, err
	}
	proxy, err := s.start(one.name, command)
	if err != nil {
		return nil, err
	}
	return proxy, proxy.until(ctx, one.ready)
}

// memory of a process; there may be none.
func (r *running) memory() (Memory, error) {
	if r == nil {
		return Memory{}, nil
	}
	return memoryOf(r.pid)
}

// used is the CPU time of a proxy, if there is one, and of Redis, until now.
func (s *stage) used(proxy *running) (use cpuUse, err error) {
	if proxy != nil {
		if use.proxy, err = cpuTime(proxy.pid); err != nil {
			return use, err
		}
	}
	use.redis, err = cpuTime(s.redis.pid)
	return use, err
}

// phase opens connections and keeps them busy. With memory to fill, each of
// them makes one request first.
func (s *stage) phase(ctx context.Context, one *side, proxy *running, traffic Traffic, number int, all *results, memory *MemoryRow) error {
	return s.client.do(func() error {
		c, err := dial(one.address, number, s.requests)
		if err != nil {
			return err
		}
		defer c.close()
		if memory != nil {
			c.expect(false, true)
			if err := c.several(ctx, number); err != nil {
				return err
			}
			if memory.Open, err = proxy.memory(); err != nil {
				return err
			}
		}
		p := phase{client: c, traffic: traffic, length: measured, read: func() (cpuUse, error) { return s.used(proxy) }}
		got, err := p.run(ctx)
		if err != nil {
			return err
		}
		after, err := proxy.memory()
		if err != nil {
			return err
		}
		if memory != nil {
			memory.Active = after
		}
		all.add(key{one.name, number, traffic}, got.figures(after, c.failures), c.failure)
		return nil
	})
}

// enforced fails when a side that limits by Redis left no trace of each user in
// it: then it measured something else.
func (s *stage) enforced(ctx context.Context, one *side) error {
	if !one.store {
		return nil
	}
	keys, err := s.store.DBSize(ctx).Result()
	if err != nil {
		return fmt.Errorf("counting Redis's keys: %w", err)
	}
	if keys < users {
		return fmt.Errorf("redis has %d keys for %d users: the limits were not enforced in it", keys, users)
	}
	return nil
}

// versions says what was measured.
func (s *stage) versions(ctx context.Context) (map[string]string, error) {
	versions := make(map[string]string)
	for name, command := range map[string][]string{
		"haproxy": {s.haproxyPath, "-v"}, "redis": {"redis-server", "--version"}, "go": {"go", "version"}, "kernel": {"uname", "-sr"},
	} {
		output, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("asking for the version of %s: %w", name, err)
		}
		// The first words say it.
		words := strings.Fields(string(output))
		versions[name] = strings.Join(words[:min(3, len(words))], " ")
	}
	return versions, nil
}
