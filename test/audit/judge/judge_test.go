package judge

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/audit"
)

// at is an admission by Redis at a time in microseconds.
func at(micros, limit int64) audit.Record {
	return audit.Record{
		Source: audit.Redis, Granted: micros, Earliest: micros, Latest: micros, Cost: 1,
		Limit: limit, WindowMillis: 1, Caller: 7, Service: "n/s",
	}
}

// within is one from a lease.
func within(granted, earliest, latest, limit int64) audit.Record {
	r := at(granted, limit)
	r.Source, r.Earliest, r.Latest = audit.Lease, earliest, latest
	return r
}

// shared is one from a share.
func shared(micros, limit, sharers int64) audit.Record {
	r := at(micros, limit)
	r.Source, r.Granted, r.Sharers = audit.Share, 0, sharers
	return r
}

func recordsOf(t interface {
	Helper()
	Fatalf(string, ...any)
}, files ...[]audit.Record) *Records {
	t.Helper()
	records := &Records{}
	for _, list := range files {
		text := []byte("begun\n")
		for i := range list {
			text = list[i].Append(text)
		}
		if err := records.ReadFrom("file", bytes.NewReader(append(text, "ended\n"...))); err != nil {
			t.Fatalf("reading records: %v", err)
		}
	}
	return records
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason  string
		records []audit.Record
		options Options
		over    bool
	}{
		{"a full window", []audit.Record{at(1, 2), at(2, 2), at(1001, 2)}, Options{}, false},
		{"one microsecond early", []audit.Record{at(1, 2), at(2, 2), at(1000, 2)}, Options{}, true},
		{"all at once", []audit.Record{at(5, 2), at(5, 2), at(5, 2)}, Options{}, true},
		{"another caller's", []audit.Record{at(5, 1), func() audit.Record { r := at(6, 1); r.Caller = 8; return r }()}, Options{}, false},
		{"another window's", []audit.Record{at(5, 1), func() audit.Record { r := at(6, 1); r.WindowMillis = 2; return r }()}, Options{}, false},
		{"a cost above what remains", []audit.Record{at(5, 5), func() audit.Record { r := at(6, 5); r.Cost = 5; return r }()}, Options{}, true},

		{"a limit that was raised", []audit.Record{at(1, 1), at(2, 3), at(3, 3)}, Options{}, false},
		{"a limit that was lowered, and nothing admitted since", []audit.Record{at(1, 3), at(2, 3), at(3, 3), at(1003, 1)}, Options{}, false},
		{"a limit that was lowered, and one admitted too early", []audit.Record{at(1, 3), at(2, 3), at(3, 3), at(1002, 1)}, Options{}, true},
		{"sidecars with different limits at the same microsecond", []audit.Record{at(5, 2), at(5, 1)}, Options{}, false},
		{"a lease of before the limit was raised", []audit.Record{within(1, 900, 901, 1), at(2, 3), at(3, 3)}, Options{}, false},
		{"a lease of after it was lowered", []audit.Record{at(2, 3), at(3, 3), within(4, 900, 901, 2)}, Options{}, true},

		{"a lease that may have been in time", []audit.Record{at(1, 1), within(1, 1000, 1001, 1)}, Options{}, false},
		{"a lease that was not", []audit.Record{at(2, 1), within(2, 1000, 1001, 1)}, Options{}, true},
		{"one that fits to neither neighbour", []audit.Record{at(1, 1), within(1, 600, 1500, 1), at(1901, 1)}, Options{}, true},
		{"one that fits to both", []audit.Record{at(1, 1), within(1, 600, 1500, 1), at(2001, 1)}, Options{}, false},
		{"no time known", []audit.Record{at(1, 1), within(0, 0, audit.Anytime, 1)}, Options{}, false},

		{"shares", []audit.Record{at(1, 2), at(2, 2), shared(3, 2, 2), shared(4, 2, 2)}, Options{}, true},
		{"shares that are excused", []audit.Record{at(1, 2), at(2, 2), shared(3, 2, 2), shared(4, 2, 2)}, Options{Shares: true}, false},
		{"shares alone", []audit.Record{shared(3, 2, 2), shared(4, 2, 2), shared(5, 2, 2)}, Options{Shares: true}, true},
		{"too many for that", []audit.Record{at(1, 2), at(2, 2), shared(3, 2, 2), shared(4, 2, 2), shared(5, 2, 2)}, Options{Shares: true}, true},
		{"shares that Redis was told of", []audit.Record{shared(3, 2, 2), shared(4, 2, 2), at(6, 2)}, Options{Shares: true, Told: []int64{5}}, true},
		{"shares that it was not told of yet", []audit.Record{shared(3, 2, 2), shared(4, 2, 2), at(6, 2)}, Options{Shares: true, Told: []int64{7}}, false},
		{"a share after it was told", []audit.Record{shared(3, 2, 2), at(6, 2), shared(8, 2, 2)}, Options{Shares: true, Told: []int64{5}}, false},
		{"shares of a limit below the sharers", []audit.Record{shared(3, 2, 3), shared(4, 2, 3), shared(5, 2, 3)}, Options{Shares: true}, false},
		{"after them", []audit.Record{shared(3, 2, 2), at(1003, 2), at(1004, 2), at(1005, 2)}, Options{Shares: true}, true},

		{"lost writes", []audit.Record{at(1, 2), at(2, 2), at(12, 2), at(13, 2)}, Options{Lost: []Span{{10, 11}}}, false},
		{"more than was lost", []audit.Record{at(1, 2), at(2, 2), at(12, 2), at(13, 2), at(14, 2)}, Options{Lost: []Span{{10, 11}}}, true},
		{"just after", []audit.Record{at(1100, 2), at(1101, 2), at(1102, 2)}, Options{Lost: []Span{{10, 11}}}, false},
		{"before it", []audit.Record{at(1, 2), at(2, 2), at(3, 2)}, Options{Lost: []Span{{10, 11}}}, true},
		{"long after", []audit.Record{at(2000, 1), at(2001, 1)}, Options{Lost: []Span{{10, 11}}}, true},
	} {
		verdict := recordsOf(t, c.records).Judge(c.options)
		if over := len(verdict.Violations) > 0; over != c.over {
			t.Errorf("%s: judged over: %v, want %v; %v", c.reason, over, c.over, verdict.Violations)
		}
	}
}

// Where times are points every window that is over is found, and none else.
func TestPointsAreJudgedExactly(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int64Range(1, 8).Draw(t, "limit")
		var list []audit.Record
		for _, time := range rapid.SliceOfN(rapid.Int64Range(0, 8000), 0, 40).Draw(t, "times") {
			r := at(time, limit)
			r.Cost = rapid.Int64Range(1, 3).Draw(t, "cost")
			list = append(list, r)
		}
		over, fullest := false, int64(0)
		for _, end := range list {
			sum := int64(0)
			for _, r := range list {
				if r.Earliest > end.Earliest-1000 && r.Earliest <= end.Earliest {
					sum += r.Cost
				}
			}
			over, fullest = over || sum > limit, max(fullest, sum)
		}
		half := len(list) / 2 // of two sidecars
		verdict := recordsOf(t, list[half:], list[:half]).Judge(Options{})
		if got := len(verdict.Violations) > 0; got != over || verdict.Fullest.Units != fullest {
			t.Fatalf("judged over: %v, want %v; the fullest window has %d, want %d", got, over, verdict.Fullest.Units, fullest)
		}
	})
}

// fill makes admissions of a caller who floods a limit for a while: each as soon
// as there is room, known within some microseconds.
func fill(random *rand.Rand, limit int64, millis int64, admissions int, blur int64) []audit.Record {
	var list []audit.Record
	var times []int64
	now := int64(1_000_000)
	for len(times) < admissions {
		if i := len(times) - int(limit); i >= 0 {
			now = max(now, times[i]+millis*1000)
		}
		times = append(times, now)
		r := at(now, limit)
		r.WindowMillis = millis
		if blur > 0 && random.IntN(2) == 0 {
			r.Source, r.Granted = audit.Lease, now-random.Int64N(100)
			r.Earliest, r.Latest = now-random.Int64N(blur), now+random.Int64N(blur)
		}
		list = append(list, r)
		now += random.Int64N(2 * millis * 1000 / limit)
	}
	return list
}

// What never was over is never found to be, however little is known of its times.
func TestNoFalseAlarm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		limit := rapid.Int64Range(1, 40).Draw(t, "limit")
		list := fill(random, limit, 10, 200, rapid.SampledFrom([]int64{0, 2, 500, 9000}).Draw(t, "blur"))
		random.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		if v := recordsOf(t, list).Judge(Options{}); len(v.Violations) > 0 {
			t.Fatalf("a false alarm: %v", v.Violations)
		}
	})
}

// One unit too many is found among hours of records.
func TestPlantedUnitIsFound(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	const limit, millis = 1000, 60_000
	hours := 2
	list := fill(random, limit, millis, hours*60*limit, 300)
	start := time.Now()
	clean := recordsOf(t, list[:len(list)/2], list[len(list)/2:]).Judge(Options{})
	t.Logf("%d hours, %d records: read and judged in %v", hours, len(list), time.Since(start))
	if len(clean.Violations) > 0 || clean.Fullest.Share() < 0.99 {
		t.Fatalf("a flood that is held is judged %+v", clean)
	}
	planted := at(list[len(list)/3].Granted, limit)
	planted.WindowMillis = millis
	guilty := recordsOf(t, slices.Insert(slices.Clone(list), len(list)/2, planted)).Judge(Options{})
	if len(guilty.Violations) != 1 {
		t.Fatalf("one unit too many: %d violations, want 1", len(guilty.Violations))
	}
	if v := guilty.Violations[0]; !v.Crowded && v.Units != limit+1 || v.Service != "n/s" || v.Caller != 7 || len(v.Records) == 0 {
		t.Errorf("one unit too many is judged %+v", v)
	}
}

// A file says what it does not have.
func TestGaps(t *testing.T) {
	t.Parallel()
	r := at(1, 1)
	line := string(r.Append(nil))
	for text, want := range map[string]Gap{
		"begun\n" + line + "ended\n":              {},
		"begun\n" + line:                          {Killed: 1},
		"begun\n" + line + "begun\nended\n":       {Killed: 1},
		"begun\nended\nbegun\nended\n":            {},
		"begun\nlate\nlost 3\nended\n":            {Late: 1, Lost: 3},
		"begun\n" + line[:9] + "\n" + line:        {Killed: 1, Torn: 1},
		"begun\n" + line[:len(line)-1]:            {Killed: 1},
		"begun\n" + line[:9] + "\nbegun\nended\n": {Killed: 1},
	} {
		records := &Records{}
		if err := records.ReadFrom("", bytes.NewReader([]byte(text))); err != nil || records.Gaps[0] != want {
			t.Errorf("%q: %+v, error %v, want %+v", text, records.Gaps[0], err, want)
		}
	}
	if err := new(Records).ReadFrom("", bytes.NewReader([]byte("hello\n"))); err == nil {
		t.Error("a file of something else is read")
	}
}
