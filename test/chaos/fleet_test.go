package chaos

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/audit/judge"
)

const (
	namespace = "bondhu"
	// sidecars of the fleet.
	sidecars = 8
	// The limits a window: one of an exact log, and one with leases. Each policy has
	// a second one, of a longer window.
	smallLimit, largeLimit       = 20, 300
	longWindow, longWindowFactor = 5 * window, 4
	// telling is how long sidecars may take after Redis decides again until all have
	// told it what they admitted without: requests that were under way, then a
	// sweep each second, and as much again for a busy machine.
	telling = 3 * time.Second
)

// fleet is sidecars that enforce the same policies, and what they need.
type fleet struct {
	t        *testing.T
	store    ruleset.Store
	operator *operator
	sidecars []*sidecar
	load     *load
	// lost are the times at which Redis lost what it had acknowledged, told those
	// since which it knows what was admitted without it.
	lost []judge.Span
	told []int64
}

// newFleet starts the sidecars, of binaries in turns; sidecarBinary, if none is named.
func newFleet(t *testing.T, store ruleset.Store, binaries ...string) *fleet {
	t.Helper()
	if len(binaries) == 0 {
		binaries = []string{sidecarBinary}
	}
	store.TimeoutMillis = storeTimeout.Milliseconds()
	f := &fleet{t: t, store: store, operator: newOperator(t)}
	application := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	t.Cleanup(application.Close)
	version := f.operator.program(f.rules(smallLimit, largeLimit))
	bare := f.rules(smallLimit, largeLimit)
	bare.Store = nil
	bare.Seal()
	for i := range sidecars {
		dir := t.TempDir()
		s := &sidecar{
			t: t, binary: binaries[i%len(binaries)], dir: dir, token: fmt.Sprint("token-", i),
			records: filepath.Join(dir, "records"), log: filepath.Join(dir, "log"), bootstrap: ruleset.Bootstrap{Ruleset: bare},
			application: application.Listener.Addr().(*net.TCPAddr).AddrPort().Port(),
		}
		if err := os.WriteFile(filepath.Join(dir, "token"), []byte(s.token), 0o600); err != nil {
			t.Fatal(err)
		}
		f.sidecars = append(f.sidecars, s)
	}
	f.each(func(s *sidecar) { s.start() })
	t.Cleanup(func() { f.each(func(s *sidecar) { s.kill() }) })
	f.awaitEnforced(version)
	return f
}

// each does something with all sidecars at the same time. What is fatal to one is
// to the test.
func (f *fleet) each(do func(*sidecar)) {
	f.t.Helper()
	var all sync.WaitGroup
	var done atomic.Int64
	for _, s := range f.sidecars {
		all.Go(func() {
			do(s)
			done.Add(1)
		})
	}
	all.Wait()
	if int(done.Load()) < len(f.sidecars) {
		f.t.FailNow()
	}
}

// rules have users held to limits: small and large by shares while Redis does
// not decide, strict by refusing them.
func (f *fleet) rules(small, large int64) ruleset.Ruleset {
	policy := func(name string, failure ruleset.OnStoreFailure, requests int64, paths ...string) ruleset.Policy {
		p := ruleset.Policy{
			PolicyRef: ruleset.PolicyRef{Name: name, UID: name, Generation: small + large}, Service: name, Direction: ruleset.Inbound,
			Sources:   []ruleset.Source{{Header: &ruleset.HeaderSource{Name: "X-User-ID"}}},
			IfMissing: ruleset.IfMissingShared, OnStoreFailure: failure, Enforcers: sidecars,
			Limits: []ruleset.Limit{{Requests: requests, WindowMillis: window}, {Requests: longWindowFactor * requests, WindowMillis: longWindow}},
		}
		for _, path := range paths {
			p.Match = append(p.Match, ruleset.Match{Path: &ruleset.Path{Type: ruleset.PathExact, Value: path}})
		}
		return p
	}
	return ruleset.Ruleset{
		Namespace: namespace, Store: &f.store, Link: f.operator.link(),
		Policies: []ruleset.Policy{
			policy("large", ruleset.OnStoreFailureLocal, large, "/large", "/both"),
			policy("small", ruleset.OnStoreFailureLocal, small, "/small", "/both"),
			policy("strict", ruleset.OnStoreFailureDeny, large, "/strict"),
		},
	}
}

// paths are of the policies, and which a request for each meets.
var paths = map[string][]string{"/small": {"small"}, "/large": {"large"}, "/strict": {"strict"}, "/both": {"small", "large"}}

func (f *fleet) awaitEnforced(version string) {
	f.t.Helper()
	for _, s := range f.sidecars {
		eventually(f.t, "the rules are enforced", func() error {
			if got := f.operator.enforced(s.token); got != version {
				return fmt.Errorf("%s enforces version %q; it said: %s", s.token, got, s.said())
			}
			return nil
		})
	}
}

// fresh numbers users who never asked before.
var fresh struct {
	sync.Mutex
	n int
}

// awaitRedis returns when every sidecar decides by Redis, wherever the quota lies.
func (f *fleet) awaitRedis() {
	f.t.Helper()
	f.each(func(s *sidecar) {
		c := &client{sidecar: s}
		defer c.close()
		for range 8 {
			eventually(f.t, "Redis decides again", func() error {
				fresh.Lock()
				fresh.n++
				name := fmt.Sprint("fresh-", fresh.n)
				fresh.Unlock()
				status, _, err := c.ask("/strict", name)
				if err == nil && status == http.StatusOK {
					f.load.mu.Lock()
					f.load.byPath["/strict"]++
					f.load.mu.Unlock()
					return nil
				}
				return fmt.Errorf("status %d, error %v; %s said: %s", status, err, s.token, s.said())
			})
		}
	})
}

// recover returns when Redis decides again and knows what was admitted without it.
func (f *fleet) recover() {
	f.t.Helper()
	f.awaitRedis()
	f.pass(telling)
	f.told = append(f.told, time.Now().UnixMicro()) // Redis has this machine's clock
}

// lose notes that Redis loses what it had acknowledged while something is done.
func (f *fleet) lose(do func()) {
	from := time.Now().UnixMicro()
	do()
	f.lost = append(f.lost, judge.Span{From: from, To: time.Now().UnixMicro()})
}

// pass lets a time pass under load: what is shown takes time.
func (f *fleet) pass(d time.Duration) {
	select {
	case <-time.After(d):
	case <-f.t.Context().Done():
	}
}

// suffer has users ask, lets something befall the fleet, waits until Redis decides
// again, has users ask for some windows more, and judges.
func (f *fleet) suffer(name string, befall func()) {
	f.t.Helper()
	f.load = begin(context.Background(), f.sidecars)
	defer f.load.stop()
	f.pass(window * time.Millisecond)
	befall()
	f.recover()
	f.pass(2 * window * time.Millisecond)
	f.load.stop()
	f.each(func(s *sidecar) {
		if err := s.stop(); err != nil {
			f.t.Errorf("a sidecar ended with %v and said: %s", err, s.said())
		}
	})
	f.judge(name)
}

func (f *fleet) judge(name string) {
	f.t.Helper()
	var records judge.Records
	for _, s := range f.sidecars {
		if err := records.Read(s.records); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, gap := range records.Gaps {
		if !gap.Complete() {
			f.t.Logf("records are missing: %+v", gap)
		}
		if gap.Lost > 0 || gap.Torn > 0 {
			f.t.Errorf("records are missing: %+v", gap)
		}
	}
	f.compare(&records)
	v := records.Judge(judge.Options{Lost: f.lost, Shares: true, Told: f.told})
	for _, violation := range v.Violations {
		f.t.Errorf("a window was over: %v", violation)
	}
	if other := f.load.other.Load(); other > 0 {
		f.t.Errorf("%d requests got another status than 200, 429 and 503", other)
	}
	if longest := time.Duration(f.load.longest.Load()); longest > hang {
		f.t.Errorf("an answer took %v, want none of more than %v and the machine's own", longest, storeTimeout)
	}
	results.add(name, f.load, v)
}

// compare finds answers that admitted and are not recorded.
func (f *fleet) compare(records *judge.Records) {
	f.t.Helper()
	admitted := map[string]int64{}
	for path, n := range f.load.byPath {
		for _, service := range paths[path] {
			admitted[service] += n
		}
	}
	for service, n := range admitted {
		// Those who were admitted and had no answer were cut.
		if recorded := records.Admitted(namespace+"/"+service, window); recorded < n || recorded > n+f.load.cut.Load()+int64(len(users())*sidecars) {
			f.t.Errorf("%s: %d admissions are recorded, %d requests were answered that they are", service, recorded, n)
		}
	}
}
