package audit

import (
	"bytes"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// A record is read as it was written.
func TestRecordsComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := Record{
			Source:  rapid.SampledFrom([]Source{Redis, Lease, Share}).Draw(t, "source"),
			Granted: rapid.Int64Range(0, 1<<53).Draw(t, "granted"), Earliest: rapid.Int64Range(0, 1<<52).Draw(t, "earliest"),
			Cost:  rapid.Int64Range(1, 1e9).Draw(t, "cost"),
			Limit: rapid.Int64Range(1, 1e9).Draw(t, "limit"), WindowMillis: rapid.Int64Range(1, 1e12).Draw(t, "window"),
			Sharers: rapid.Int64Range(0, 1e6).Draw(t, "sharers"), Caller: rapid.Uint64().Draw(t, "caller"), Service: "bondhu/spotify",
		}
		want.Latest = rapid.SampledFrom([]int64{want.Earliest, want.Earliest + 17, Anytime}).Draw(t, "latest")
		line := want.Append(nil)
		var got Record
		if err := got.Parse(strings.TrimSuffix(string(line), "\n")); err != nil || got != want {
			t.Fatalf("%q is read as %+v, error %v, want %+v", line, got, err, want)
		}
	})
}

func TestTornLinesAreNoRecords(t *testing.T) {
	t.Parallel()
	whole := (&Record{Source: Redis, Granted: 1234, Earliest: 1234, Latest: 1234, Cost: 1, Limit: 100, WindowMillis: 60_000, Service: "n/s"}).Append(nil)
	for n := range len(whole) - len("n/s\n") {
		var r Record
		if err := r.Parse(string(whole[:n])); err == nil {
			t.Errorf("%q is read as %+v, want an error", whole[:n], r)
		}
	}
}

// What Flush has returned for is in the file, whatever becomes of the process.
func TestFlushedRecordsAreInTheFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "audit")
	l, err := Open(name, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for taker := range 8 {
		all.Go(func() {
			for i := range 200 {
				r := Record{Source: Redis, Cost: 1, Limit: 1, WindowMillis: 1, Caller: uint64(taker)<<32 | uint64(i), Service: "n/s"}
				l.Append(&r)
				l.Flush()
				l.mu.Lock()
				behind := l.behind
				l.mu.Unlock()
				written, err := os.ReadFile(name)
				if err != nil || !behind && !bytes.Contains(written, r.Append(nil)) {
					t.Errorf("record %d of taker %d is not in the file, error %v", i, taker, err)
				}
			}
		})
	}
	all.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	written, _ := os.ReadFile(name)
	if lines := strings.Split(string(written), "\n"); lines[0] != begun || lines[len(lines)-2] != ended {
		t.Errorf("the file is from %q to %q, want %q to %q", lines[0], lines[len(lines)-2], begun, ended)
	}
}

// stubborn is a file that takes what it is allowed to.
type stubborn struct {
	mu      sync.Mutex
	allowed int
	taken   bytes.Buffer
	hold    chan struct{} // nil: it fails instead
}

func (s *stubborn) Write(p []byte) (int, error) {
	if s.hold != nil {
		<-s.hold
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := min(len(p), s.allowed)
	s.allowed -= n
	s.taken.Write(p[:n])
	if n < len(p) {
		return n, errors.New("no space left on device")
	}
	return n, nil
}

func (*stubborn) Close() error { return nil }

func (s *stubborn) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken.String()
}

// A file that is slow or full holds requests once, and says afterwards what is
// missing.
func TestStubbornFileHoldsNobody(t *testing.T) {
	t.Parallel()
	for name, file := range map[string]*stubborn{
		"slow": {allowed: math.MaxInt, hold: make(chan struct{})}, "full": {allowed: 100},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := start(file, slog.New(slog.DiscardHandler))
			r := Record{Source: Redis, Cost: 1, Limit: 1, WindowMillis: 1, Service: "n/s"}
			appended := 0
			for ; l.lostSoFar() == 0; appended++ {
				l.Append(&r)
				l.Flush()
			}
			if file.hold != nil {
				close(file.hold)
			} else {
				file.mu.Lock()
				file.allowed = math.MaxInt
				file.mu.Unlock()
			}
			const patience = 20 * time.Second
			for deadline := time.Now().Add(patience); !strings.HasSuffix(file.text(), "\n"+late+"\n"); time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("after %v the file does not say that it was late", patience)
				}
			}
			text := file.text()
			if n := strings.Count(text, string(r.Append(nil))); n != appended-1 {
				t.Errorf("%d records are in the file, want %d", n, appended-1)
			}
			if !strings.Contains(text, "\n"+lost+"1\n") {
				t.Error("the file does not say that 1 is lost")
			}
		})
	}
}

func (l *Log) lostSoFar() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}
