package chaos

import (
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// operator stands for the real one's link: it gives every sidecar the same
// Ruleset, and hears which is enforced.
type operator struct {
	server *httptest.Server

	mu      sync.Mutex
	rules   *ruleset.Ruleset
	changed chan struct{}     // closed with the next Ruleset
	acked   map[string]string // versions by token
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{rules: &ruleset.Ruleset{}, changed: make(chan struct{}), acked: map[string]string{}}
	o.server = httptest.NewTLSServer(http.HandlerFunc(o.answer))
	t.Cleanup(func() {
		o.server.CloseClientConnections()
		o.server.Close()
	})
	return o
}

// link is how sidecars reach it.
func (o *operator) link() ruleset.Link {
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.server.Certificate().Raw})
	return ruleset.Link{Address: o.server.Listener.Addr().String(), CABundle: string(certificate)}
}

// program has every sidecar enforce the rules from now on.
func (o *operator) program(rules ruleset.Ruleset) (version string) {
	rules.Seal()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.rules = &rules
	close(o.changed)
	o.changed = make(chan struct{})
	return rules.Version
}

// enforced says which version the sidecar with a token enforces.
func (o *operator) enforced(token string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked[token]
}

func (o *operator) answer(w http.ResponseWriter, r *http.Request) {
	var report ruleset.Report
	if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body) // or net/http does not notice that the sidecar is gone
	for patience := time.After(20 * time.Second); ; {
		o.mu.Lock()
		o.acked[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] = report.Version
		rules, changed := o.rules, o.changed
		o.mu.Unlock()
		if rules.Version != report.Version {
			_ = json.NewEncoder(w).Encode(rules) // the sidecar asks again when it fails
			return
		}
		select {
		case <-changed:
		case <-patience:
			w.WriteHeader(http.StatusNoContent)
			return
		case <-r.Context().Done():
			return
		}
	}
}
