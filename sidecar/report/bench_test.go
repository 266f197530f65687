package report

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
)

var floods = []struct {
	name    string
	callers int
}{{"1 caller", 1}, {"64 callers", maxCallers}, {"100,000 callers", 100_000}}

func identities(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("user-", i)
	}
	return names
}

// BenchmarkRequest is what a request pays.
func BenchmarkRequest(b *testing.B) {
	for _, flood := range floods {
		names := identities(flood.callers)
		for _, limited := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/limited %v", flood.name, limited), func(b *testing.B) {
				recording := New(Options{Logger: slog.New(slog.DiscardHandler)}).of("shop", "api")
				b.ReportAllocs()
				b.RunParallel(func(pb *testing.PB) {
					for n := 0; pb.Next(); n++ {
						if name := names[n%len(names)]; limited {
							recording.Limited(name, 1, perMinute, false, false)
						} else {
							recording.Admitted(name, 1, false)
						}
					}
				})
			})
		}
	}
}

// BenchmarkSend is what a report of the most callers costs sidecar and Redis
// together, whose own time is told, too.
func BenchmarkSend(b *testing.B) {
	for _, flood := range floods[:2] {
		b.Run(flood.name, func(b *testing.B) {
			server := redistest.Start(b)
			r := newRecorder(b, "pod", server.URL())
			recording := r.of("shop", "api")
			names := identities(flood.callers)
			b.ReportAllocs()
			if err := server.Client().ConfigResetStat(b.Context()).Err(); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				for _, name := range names {
					recording.Limited(name, 1, perMinute, false, false)
				}
				r.send(time.Now(), true)
			}
			if r.counted(false) > 0 {
				b.Error("a report was dropped")
			}
			stats, err := server.Client().Info(b.Context(), "commandstats").Result()
			if err != nil {
				b.Fatal(err)
			}
			var calls, micros float64
			for _, command := range commands {
				var n, usec float64
				_, after, _ := strings.Cut(stats, "cmdstat_"+command+":")
				if _, err := fmt.Sscanf(after, "calls=%g,usec=%g", &n, &usec); err != nil {
					b.Fatal(command, err)
				}
				calls, micros = calls+n, micros+usec
			}
			b.ReportMetric(calls/float64(b.N), "calls/op")
			b.ReportMetric(micros/float64(b.N), "redis-µs/op")
		})
	}
}

func TestRequestsAllocateNothing(t *testing.T) {
	recording := New(Options{Logger: slog.New(slog.DiscardHandler)}).of("shop", "api")
	names := identities(1_000)
	count := func() {
		for _, name := range names {
			recording.Admitted(name, 1, false)
			recording.Limited(name, 1, perMinute, false, false)
		}
	}
	count() // the memory of names
	if allocations := testing.AllocsPerRun(10, count); allocations > 0 {
		t.Errorf("%v allocations", allocations)
	}
}
