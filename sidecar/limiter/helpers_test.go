package limiter

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// timeout of the stores of tests that do not test it: long, since the machine
// may be busy.
const patience = 20 * time.Second

// tester is what *testing.T, *testing.B and *rapid.T share.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// newLimiter returns a Limiter that uses the store at a URL.
func newLimiter(t testing.TB, url string) *Limiter {
	t.Helper()
	l, _ := newLimiterOf(t, ruleset.Store{URL: url, TimeoutMillis: patience.Milliseconds()})
	return l
}

func newLimiterOf(t testing.TB, store ruleset.Store) (*Limiter, *logged) {
	t.Helper()
	log := &logged{}
	l := New(Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	l.healthInterval = 10 * time.Millisecond
	t.Cleanup(l.Close)
	if err := l.Use(&store); err != nil {
		t.Fatalf("using the store: %v", err)
	}
	return l, log
}

func mustTake(t tester, l *Limiter, takes ...Take) Decision {
	t.Helper()
	decision, err := l.Take(context.Background(), takes)
	if err != nil {
		t.Fatalf("taking %+v: %v", takes, err)
	}
	return decision
}

// mustTakeAnew takes with nothing remembered, on a test's own clock.
func mustTakeAnew(t tester, l *Limiter, takes ...Take) Decision {
	t.Helper()
	l.backend.memory.forget()
	return mustTake(t, l, takes...)
}

func mustQuotas(t tester, takes []Take) []quota {
	t.Helper()
	quotas, err := quotasOf(nil, takes)
	if err != nil {
		t.Fatalf("listing the quotas of %+v: %v", takes, err)
	}
	return quotas
}

// mustCall is a call that has all the time that a test has.
func mustCall(t tester, b *backend, takes ...Take) *call {
	t.Helper()
	c, err := newCall(context.Background(), takes)
	if err != nil {
		t.Fatalf("a call of %+v: %v", takes, err)
	}
	c.to(b, time.Now().Add(patience))
	return c
}

// perMinute asks for one unit of an identity's quota.
func perMinute(identity string, requests int64) Take {
	return Take{
		Namespace: "bondhu", Service: "spotify", Identity: identity,
		Limits: []ruleset.Limit{{Requests: requests, WindowMillis: 60_000}},
	}
}

// units is how many a log holds, of whichever kind.
func units(t testing.TB, client redis.Cmdable, key string) int64 {
	t.Helper()
	log := client.Get(t.Context(), key).Val()
	if log != "" && log[0] == 'w' {
		return int64(binary.BigEndian.Uint32([]byte(log[len(log)-11:])))
	}
	var sum int64
	for _, e := range exactLog(log) {
		sum += e.units
	}
	return sum
}

// checkSliced fails when a log of that kind is not as take.lua says it is, or is large.
func checkSliced(t tester, log string) {
	t.Helper()
	const head, entry, tail = 8, 6, 14
	if log == "" || log[0] != 'w' {
		return
	}
	end := []byte(log[len(log)-tail:])
	room, gone, units := int(end[0]), int(binary.BigEndian.Uint16(end[1:])), binary.BigEndian.Uint32(end[3:])
	if len(log) > 1600 || (len(log)-head-tail)%entry != 0 {
		t.Fatalf("a sliced log has %d bytes", len(log))
	}
	entries := []byte(log[head : len(log)-tail])
	if room != 0 {
		t.Fatalf("there is room for %d entries: %x", room, log)
	}
	last := -1
	for i := range len(entries) / entry {
		slice, n := int(binary.BigEndian.Uint16(entries[i*entry:])), binary.BigEndian.Uint32(entries[i*entry+2:])
		if slice <= last || n == 0 {
			t.Fatalf("entry %d is of slice %d with %d units, after %d: %x", i, slice, n, last, log)
		}
		last = slice
		if i >= gone {
			units -= n
		}
	}
	if units != 0 {
		t.Fatalf("a sliced log counts %d units too many: %x", int32(units), log)
	}
}

type exactEntry struct{ time, units int64 }

// exactLog reads an exact log; see take.lua.
func exactLog(log string) (entries []exactEntry) {
	const head, length = 4, 19
	number := func(at, bytes int) (n int64) {
		for _, b := range []byte(log[at : at+bytes]) {
			n = n<<8 | int64(b)
		}
		return n
	}
	if log == "" {
		return nil
	}
	before := number(1, 3)
	for at := head; at < len(log); at += length {
		sum := number(at+7, 3)
		entries = append(entries, exactEntry{number(at, 7), sum - before})
		before = sum
	}
	return entries
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) count(text string) int { return strings.Count(l.String(), text) }

// forget has the memory know nothing.
func (m *memory) forget() {
	for i := range m.shards {
		m.shards[i].mu.Lock()
		m.shards[i].entries, m.shards[i].seen = nil, nil
		m.shards[i].mu.Unlock()
	}
}
