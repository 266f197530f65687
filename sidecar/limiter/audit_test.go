package limiter

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/audit/judge"
	"github.com/weir-dev/weir/test/redistest"
)

// recorded is a limiter whose admissions are recorded in a file of its own.
func recorded(t testing.TB, url string) (*Limiter, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "audit")
	log, err := audit.Open(file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l := New(Options{Logger: slog.New(slog.DiscardHandler), Audit: log})
	t.Cleanup(func() {
		l.Close()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.Use(&ruleset.Store{URL: url, TimeoutMillis: patience.Milliseconds()}); err != nil {
		t.Fatal(err)
	}
	return l, file
}

func judged(t *testing.T, files ...string) judge.Verdict {
	t.Helper()
	var records judge.Records
	for _, file := range files {
		if err := records.Read(file); err != nil {
			t.Fatal(err)
		}
	}
	return records.Judge(judge.Options{})
}

// floodFor has some limiters take for a while.
func floodFor(t *testing.T, duration time.Duration, take Take, limiters ...*Limiter) (admitted int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	counts := make(chan int64, len(limiters))
	flood(limiters, len(limiters), func(l *Limiter) {
		n := int64(0)
		for ctx.Err() == nil {
			d := mustTake(t, l, take)
			if d.Admitted {
				n++
			} else {
				time.Sleep(min(d.RetryAfter, 2*time.Millisecond)) // others flood as well
			}
		}
		counts <- n
	})
	for range limiters {
		admitted += <-counts
	}
	return admitted
}

// What is recorded is what was admitted, and is enough to tell sidecars that hold
// to a limit together from some that do not: these have a Redis each.
func TestRecordsTell(t *testing.T) {
	t.Parallel()
	url, other := redistest.Start(t).URL(), redistest.Start(t).URL()
	for _, limit := range []int64{20, 200} {
		take := Take{Namespace: "n", Service: "s", Identity: "u", Limits: []ruleset.Limit{{Requests: limit, WindowMillis: 500}}}
		for _, c := range []struct {
			urls []string
			over bool
		}{{[]string{url, url, url}, false}, {[]string{url, url, other}, true}} {
			var limiters []*Limiter
			var files []string
			for _, url := range c.urls {
				l, file := recorded(t, url)
				limiters, files = append(limiters, l), append(files, file)
			}
			take.Identity = strconv.FormatBool(c.over)
			admitted := floodFor(t, 1500*time.Millisecond, take, limiters...)
			v := judged(t, files...)
			for late := time.Now().Add(patience); c.over && len(v.Violations) == 0 && time.Now().Before(late); v = judged(t, files...) {
				admitted += floodFor(t, 500*time.Millisecond, take, limiters...) // on a busy machine they reach no limit at once
			}
			if over := len(v.Violations) > 0; over != c.over {
				t.Errorf("limit %d, a Redis each: %v; judged over: %v; %v", limit, c.over, over, v.Violations)
			}
			if n := v.Admitted[audit.Redis] + v.Admitted[audit.Lease]; n != admitted || v.Untimed != 0 {
				t.Errorf("limit %d: %d are recorded, %d without a time, %d were admitted", limit, n, v.Untimed, admitted)
			}
			if leased := v.Admitted[audit.Lease]; (leased > 0) != (limit > exactRequests) {
				t.Errorf("limit %d: %d are recorded as from leases", limit, leased)
			}
			t.Logf("limit %d, a Redis each: %v; fullest window %d, %v", limit, c.over, v.Fullest.Units, v.Admitted)
		}
	}
}

// The times of records are Redis's: of the script's admissions exactly those in
// its log, of others bounds that hold.
func TestRecordsHaveRedisTime(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	client := server.Client()
	l, file := recorded(t, server.URL())
	small, large := perMinute("small", 100), perMinute("large", 3000)
	micros := func() int64 { return client.Time(t.Context()).Val().UnixMicro() }
	var around [][2]int64
	for range 300 {
		before := micros()
		mustTake(t, l, small)
		mustTake(t, l, large)
		around = append(around, [2]int64{before, micros()})
	}
	large.Sharers = 2
	before := micros()
	if _, err := l.TakeLocally([]Take{large}, nil); err != nil {
		t.Fatal(err)
	}
	around = append(around, [2]int64{before, micros()})

	var exact []int64
	for _, entry := range exactLog(client.Get(t.Context(), "ratelimit:{bondhu/spotify:small}:60000").Val()) {
		exact = append(exact, entry.time)
	}
	i, widest := 0, int64(0)
	for _, r := range recordsIn(t, file) {
		if r.Limit == 100 {
			if r.Earliest != exact[0] || r.Latest != exact[0] {
				t.Fatalf("recorded at %d to %d, in the log at %d", r.Earliest, r.Latest, exact[0])
			}
			exact = exact[1:]
			continue
		}
		if r.Latest < around[i][0] || r.Earliest > around[i][1] {
			t.Errorf("%c recorded at %d to %d, admitted at %d to %d", r.Source, r.Earliest, r.Latest, around[i][0], around[i][1])
		}
		widest = max(widest, r.Latest-r.Earliest)
		i++
	}
	if i != len(around) || len(exact) != 0 {
		t.Errorf("%d of %d are recorded, %d of the small limit are not", i, len(around), len(exact))
	}
	t.Logf("bounds are at most %d µs apart; a slice is %d", widest, 60_000_000/200)
}

// A take that was counted, and is sent again because its reply was lost, has the
// time at which it was counted.
func TestRecordedTimeOfARepeatedTake(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, redistest.Start(t).URL())
	both := []Take{perMinute("a", 100), perMinute("b", 100)}
	for _, takes := range [][]Take{both[:1], both} {
		id := newID()
		ask := func() *command {
			c := &command{verb: verbTake, id: id, quotas: mustQuotas(t, takes), deadline: time.Now().Add(patience)}
			if err := l.backend.alone().call([]*command{c}); err != nil {
				t.Fatal(err)
			}
			return c
		}
		now := int64(5_000_000_000)
		l.clock = func() int64 { return now }
		l.backend.memory.recorder = newRecorder(new(audit.Log))
		first := ask()
		now += 700
		again := ask()
		for i := range takes {
			if first.time(i) != 5_000_000_000 || again.time(i) != first.time(i) {
				t.Errorf("%d takes: admitted at %d, and sent again at %d", len(takes), first.time(i), again.time(i))
			}
		}
		now -= 1000 // the log's time does not step back
		if stepped := (&command{verb: verbTake, id: newID(), quotas: mustQuotas(t, takes), deadline: time.Now().Add(patience)}); l.backend.alone().call([]*command{stepped}) != nil || stepped.time(0) != 5_000_000_000 {
			t.Errorf("after the clock stepped back: admitted at %d, want %d", stepped.time(0), 5_000_000_000)
		}
		if err := l.backend.client.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
}

func recordsIn(t *testing.T, file string) (records []audit.Record) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var r audit.Record
		if r.Parse(strings.TrimSuffix(line, "\n")) == nil {
			records = append(records, r)
		}
	}
	return records
}

// BenchmarkRecorded measures an admission from a lease that is recorded.
func BenchmarkRecorded(b *testing.B) {
	l, _ := recorded(b, redistest.Start(b).URL())
	takes, quotas := []Take{perMinute("leased", 1_000_000_000)}, make([]Quota, 0, 1)
	for range 100 {
		mustTake(b, l, takes...)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.TakeInto(b.Context(), takes, quotas); err != nil {
			b.Fatal(err)
		}
	}
}
