package conformance

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// caseResult is what ./h2spec writes.
type caseResult struct {
	ID, Description, Failure string
	Skipped                  bool
}

// The listener speaks HTTP/2 as well as the server that it stands before: what
// h2spec finds through the sidecar, it also finds without.
func TestH2Spec(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for _, w := range []way{inbound, outbound, intercepted} {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			without, with := specServer(t, s, without(w)), specServer(t, s, w)
			plain, sidecar := spec(t, without, 2*time.Second), spec(t, with, 2*time.Second)
			found := worse(plain, sidecar)
			if len(found) > 0 { // which on a busy machine may be for want of time
				plain, sidecar = spec(t, without, patience, found...), spec(t, with, patience, found...)
				found = worse(plain, sidecar)
			}
			for _, id := range found {
				t.Errorf("%s %s:\n%s", id, sidecar[id].Description, sidecar[id].Failure)
			}
			t.Logf("%d cases, %s", len(sidecar), tally(sidecar))
		})
	}
}

// specServer is a way to a server that has something to say.
func specServer(t *testing.T, s *store, w way) *held {
	t.Helper()
	h := &held{t: t, way: w, store: s, over: make(chan struct{})}
	h.application(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(random(200, 1)) })
	return h
}

// inClear is the address of the way's end for a client that speaks no TLS, or
// not to a name: h2spec.
func (h *held) inClear() string {
	if !h.way.tls {
		return h.path.addr
	}
	l := direct.listen(h.t)
	var first sync.Once
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go h.secure(c, &first)
		}
	}()
	return l.Addr().String()
}

// secure relays a connection over TLS to the way. It tells of the first that
// fails: those after it do for the same reason.
func (h *held) secure(c *net.TCPConn, first *sync.Once) {
	defer func() { _ = c.Close() }()
	secured, err := tls.Dial("tcp", h.path.addr, h.path.client("h2"))
	if err != nil {
		first.Do(func() { h.t.Errorf("connecting for h2spec: %v", err) })
		return
	}
	defer func() { _ = secured.Close() }()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(secured, c)
		_ = secured.CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(c, secured)
	_ = c.Close() // as the server has
	<-done
}

// spec runs cases of h2spec, all when none are named.
func spec(t *testing.T, h *held, timeout time.Duration, cases ...string) map[string]caseResult {
	t.Helper()
	file := filepath.Join(t.TempDir(), "results")
	command := exec.CommandContext(t.Context(), program(t, ".", "./h2spec"),
		"-timeout", timeout.String(), "-cases", strings.Join(cases, ","), "-results", file, h.inClear())
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("h2spec: %v\n%s", err, out)
	}
	encoded, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []caseResult
	if err := json.Unmarshal(encoded, &list); err != nil {
		t.Fatalf("reading h2spec's results: %v", err)
	}
	results := make(map[string]caseResult, len(list))
	for _, r := range list {
		results[r.ID] = r
	}
	return results
}

// worse are the cases that fail, or do not apply, only with the sidecar.
func worse(without, with map[string]caseResult) []string {
	var ids []string
	for id, r := range with {
		plain, known := without[id]
		if !known || r.Failure != "" && plain.Failure == "" || r.Skipped && !plain.Skipped {
			ids = append(ids, id)
		}
	}
	return ids
}

func tally(results map[string]caseResult) string {
	var failed []string
	for id, r := range results {
		if r.Failure != "" {
			failed = append(failed, id)
		}
	}
	return fmt.Sprintf("%d fail with and without the sidecar: %s", len(failed), strings.Join(failed, ", "))
}
