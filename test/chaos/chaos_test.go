package chaos

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

// outage is how long Redis is away, but for the fault that says otherwise.
const outage = 3 * time.Second

// alone is a fleet on one Redis.
func alone(t *testing.T, args ...string) (*fleet, *redistest.Server) {
	t.Helper()
	server := redistest.Start(t, args...)
	return newFleet(t, ruleset.Store{URL: server.URL()}), server
}

func TestNothing(t *testing.T) {
	t.Parallel()
	f, _ := alone(t)
	f.suffer("nothing", func() { f.pass(time.Duration(times(1)) * 2 * time.Second) })
}

func TestRedisKilledAndBackEmpty(t *testing.T) {
	t.Parallel()
	f, server := alone(t)
	f.suffer("killed, back empty", func() {
		for range times(1) {
			f.lose(func() {
				server.Kill()
				f.pass(outage)
				server.Restart()
			})
			f.recover()
		}
	})
}

func TestRedisKilledAndBackWithItsData(t *testing.T) {
	t.Parallel()
	f, server := alone(t, redistest.AOF()...)
	f.suffer("killed, back with its data", func() {
		for range times(1) {
			server.Kill()
			f.pass(outage)
			server.Restart()
			f.recover()
		}
	})
}

func TestRedisStopped(t *testing.T) {
	t.Parallel()
	f, server := alone(t)
	f.suffer("stopped for 10 s", func() {
		for range times(1) {
			server.Pause()
			f.pass(10 * time.Second)
			server.Resume()
			f.recover()
		}
	})
}

func TestRedisSlow(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	wire := newWire(t, server.Addr)
	f := newFleet(t, ruleset.Store{URL: "redis://" + wire.listener.Addr().String()})
	f.suffer("200 ms slower", func() {
		wire.slowness.Store(int64(200 * time.Millisecond))
		f.pass(time.Duration(times(1)) * 5 * time.Second)
		wire.slowness.Store(0)
	})
}

func TestConnectionsReset(t *testing.T) {
	t.Parallel()
	server, ca := redistest.StartTLS(t)
	wire := newWire(t, server.Addr)
	f := newFleet(t, ruleset.Store{URL: "rediss://" + wire.listener.Addr().String(), CABundle: ca})
	f.suffer("connections reset, TLS", func() {
		cut := 0
		for range times(40) {
			cut += wire.reset()
			f.pass(100 * time.Millisecond)
		}
		if cut == 0 {
			t.Error("there was no connection to reset")
		}
	})
}

func TestScriptsFlushed(t *testing.T) {
	t.Parallel()
	f, server := alone(t)
	client := server.Client()
	f.suffer("script cache flushed", func() {
		for range times(100) {
			if err := client.ScriptFlush(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
			f.pass(30 * time.Millisecond)
		}
	})
}

func TestEverythingFlushed(t *testing.T) {
	t.Parallel()
	f, server := alone(t)
	client := server.Client()
	f.suffer("FLUSHALL", func() {
		for range times(2) {
			f.lose(func() {
				if err := client.FlushAll(t.Context()).Err(); err != nil {
					t.Fatal(err)
				}
			})
			f.pass(window * time.Millisecond)
		}
	})
}

func TestMemoryFull(t *testing.T) {
	t.Parallel()
	f, server := alone(t, "--maxmemory-policy", "noeviction")
	client := server.Client()
	f.suffer("maxmemory reached", func() {
		for range times(1) {
			for _, most := range []string{"1", "0"} {
				if err := client.ConfigSet(t.Context(), "maxmemory", most).Err(); err != nil {
					t.Fatal(err)
				}
				f.pass(outage)
			}
		}
	})
	if f.load.unavailable.Load() == 0 {
		t.Error("no request was refused for want of Redis: its memory was not full")
	}
}

func TestSidecarsKilled(t *testing.T) {
	t.Parallel()
	f, _ := alone(t)
	f.suffer("sidecars killed", func() {
		for range times(4) {
			for _, i := range rand.Perm(sidecars)[:3] {
				f.sidecars[i].kill()
				f.sidecars[i].start()
			}
			f.pass(200 * time.Millisecond)
		}
	})
}

func TestClocksStepped(t *testing.T) {
	overlay, err := stepping(binaries)
	if err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(binaries, "stepping")
	if err := build(binary, "-overlay", overlay); err != nil { // half a minute, once: Go keeps what it compiled
		t.Fatal(err)
	}
	t.Parallel() // from here on: the others run while nothing is compiled
	server := redistest.Start(t)
	f := newFleet(t, ruleset.Store{URL: server.URL()}, binary, sidecarBinary)
	began := time.Now()
	f.suffer("clocks stepped ± 1 h", func() { f.pass(time.Duration(times(1)) * 5 * time.Second) })
	for i, s := range f.sidecars {
		if stepped := s.binary == binary; stepped != (saidAt(t, s).Sub(began) > time.Hour/2) {
			t.Errorf("sidecar %d has a clock that steps: %v; at %v it said: %s", i, stepped, began, s.said())
		}
	}
}

// saidAt is the time in the first line of a sidecar's log.
func saidAt(t *testing.T, s *sidecar) time.Time {
	t.Helper()
	log, err := os.Open(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	var line struct{ Time time.Time }
	if err := json.NewDecoder(log).Decode(&line); err != nil {
		t.Fatal(err)
	}
	return line.Time
}

func TestLimitsEdited(t *testing.T) {
	t.Parallel()
	f, _ := alone(t)
	f.suffer("limits edited", func() {
		for range times(3) {
			for _, limits := range [][2]int64{{10, 150}, {200, 600}, {1, 129}, {130, 100}, {20, 300}} {
				f.operator.program(f.rules(limits[0], limits[1]))
				f.pass(300 * time.Millisecond) // some sidecars may not have it yet when the next comes
			}
		}
		f.awaitEnforced(f.operator.program(f.rules(smallLimit, largeLimit)))
	})
}
