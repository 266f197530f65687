// Package intercept ends TLS for the hosts that an intercepting policy names,
// and only those, so that the requests within are seen.
//
// A connection begins with a ClientHello, which ReadHello reads without
// consuming it. Intercept then asks the real host first: it makes a TLS
// connection of its own, verified for the name that the client asked for, and
// only when that stands answers the client, with a leaf for that name and the
// protocol that the host chose. Until the first byte of that answer every
// trouble is a PassError, and the client, of which nothing was read, can be
// relayed to the host as if nobody had looked. Whoever could be broken by
// interception is so left alone:
//
//   - Processes that cannot know the authority, as they began before it: see
//     NotIntercepting.
//   - Hosts that ask for a client's certificate, whose key only the client has.
//     Of those that ask once they have seen a request (renegotiation in TLS 1.2)
//     the first connection fails, and those of the next ten minutes pass.
//   - Hosts whose certificate does not verify: the client judges it itself.
//   - Clients that accept certain certificates only (pinning). The first
//     connection fails, as only the client's refusal shows it, and those of the
//     next ten minutes pass. A refusal is an alert, or three connections in a
//     row dropped without a word. One that ends in order (close_notify) is none,
//     as health checks end so, too: clients that refuse like that need
//     tls: Passthrough.
//   - Early data (0-RTT): it is under a key that only the host has.
//
// An encrypted ClientHello (ECH) beside a name that is intercepted changes
// nothing: clients send what looks like one for practice. A client that meant
// it sees that the host does not take ECH, and tries again without, or counts
// as one that pins.
package intercept

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// handshakeTimeout bounds a handshake, with the host and with the client.
	handshakeTimeout = 10 * time.Second
	// leafPatience bounds a connection's wait for a leaf; asking goes on.
	leafPatience = 3 * time.Second
)

// Config configures an Interceptor.
type Config struct {
	// Issue has the operator sign a PKCS #10 request in DER; the answer is a
	// ruleset.Certificate's Chain. It is called by several goroutines.
	Issue func(ctx context.Context, request []byte) (chain []byte, err error)
	// Trust and Authorities are the Bootstrap's Trust and its Ruleset's
	// Authorities: what the pod's processes know since they began.
	Trust       bool
	Authorities string
	// TrustDir is where the trust files are written when Trust; it defaults to
	// ruleset.TrustDir.
	TrustDir string
	// ExtraRoots are PEM: authorities of hosts, beside the system's and those of
	// the Ruleset.
	ExtraRoots string
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Interceptor ends TLS. It is used by any number of goroutines.
type Interceptor struct {
	trust   *trustFiles // nil without Trust
	leaves  *leaves
	history *history
	metrics *metrics
	log     *slog.Logger
	server  *tls.Config // of every client's connection: it keeps the tickets' keys
	tickets tls.ClientSessionCache
	extra   string // Config.ExtraRoots
	roots   atomic.Pointer[roots]
	table   atomic.Pointer[table]
	changed chan struct{}

	mu          sync.Mutex
	authorities string   // of the Ruleset in force
	cannot      []string // what NotIntercepting last said
}

// New makes an Interceptor that intercepts nothing until Use.
func New(cfg Config) (*Interceptor, error) {
	if cfg.Issue == nil || cfg.Registerer == nil || cfg.Logger == nil {
		return nil, errors.New("making the interceptor: Issue, Registerer and Logger are required")
	}
	if cfg.TrustDir == "" {
		cfg.TrustDir = ruleset.TrustDir
	}
	i := &Interceptor{
		history: newHistory(),
		log:     cfg.Logger,
		tickets: tls.NewLRUClientSessionCache(maxLeaves),
		changed: make(chan struct{}, 1),
		extra:   cfg.ExtraRoots,
	}
	i.table.Store(&table{})
	i.believe("")
	i.server = &tls.Config{GetConfigForClient: configOfConnection}
	known, err := known(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.Trust {
		i.trust = &trustFiles{dir: cfg.TrustDir, roots: rootFiles(os.Getenv("SSL_CERT_FILE"))}
	}
	i.leaves = newLeaves(cfg.Issue, known, cfg.Logger, i.review)
	i.metrics, err = newMetrics(cfg.Registerer, i.leaves.earliestExpiry)
	return i, err
}

// known are the authorities that the pod's processes know; nil: none.
func known(cfg Config) (*x509.CertPool, error) {
	certificates, err := parseAuthorities(cfg.Authorities)
	if err != nil {
		return nil, fmt.Errorf("reading the authorities that were known when the pod began: %w", err)
	}
	if !cfg.Trust || len(certificates) == 0 {
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, c := range certificates {
		pool.AddCert(c)
	}
	return pool, nil
}

// believe has hosts verified with the Ruleset's roots beside the usual ones.
func (i *Interceptor) believe(theirs string) {
	if now := i.roots.Load(); now != nil && now.theirs == theirs {
		return
	}
	i.roots.Store(&roots{theirs: theirs, pool: sync.OnceValues(func() (*x509.CertPool, error) { return hostRoots(i.extra, theirs) })})
}

// roots are what hosts are verified with; pool loads them.
type roots struct {
	theirs string
	pool   func() (*x509.CertPool, error)
}

// hostRoots are the roots that a host's certificate must verify with. They are
// loaded when the first connection needs them: most pods intercept nothing.
func hostRoots(extra ...string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("loading the system's roots: %w", err)
	}
	for _, text := range extra {
		pool.AppendCertsFromPEM([]byte(text))
	}
	return pool, nil
}

// Use takes the intercepting policies and the authorities of a Ruleset. The
// trust files are written before it returns; when that fails, or the
// authorities are none, what was in force stays. Leaves are asked for in the
// background: see Settle.
func (i *Interceptor) Use(rs *ruleset.Ruleset) error {
	authorities, err := parseAuthorities(rs.Authorities)
	if err != nil {
		return fmt.Errorf("reading the authorities of the namespace: %w", err)
	}
	if rs.HostRoots != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(rs.HostRoots)) {
		return errors.New("reading the roots of hosts: they hold no PEM certificate")
	}
	if i.trust != nil {
		if err := i.trust.write(authorities); err != nil {
			return fmt.Errorf("writing what the pod's processes verify TLS with: %w", err)
		}
	}
	i.believe(rs.HostRoots)
	next := newTable(rs.Policies)
	i.mu.Lock()
	rotated := i.authorities != rs.Authorities
	i.authorities = rs.Authorities
	i.table.Store(next)
	i.leaves.follow(next, rotated)
	i.mu.Unlock()
	i.review()
	return nil
}

// Settle waits until the leaves that the last Use asked for have come or been
// refused, so that NotIntercepting is no guess, or until ctx ends.
func (i *Interceptor) Settle(ctx context.Context) { i.leaves.settle(ctx) }

// Wants reports whether an intercepting policy names the host.
func (i *Interceptor) Wants(serverName string) bool { return i.table.Load().names(serverName) }

// NotIntercepting names the intercepting policies with a host for which the
// operator's leaf does not verify with what the pod's processes know. For
// "*.example.com" a leaf of one name in it is asked for to see that.
func (i *Interceptor) NotIntercepting() []string {
	if i.leaves.known == nil {
		return i.table.Load().all()
	}
	return i.table.Load().withAny(i.leaves.untrusted())
}

// Changed yields when NotIntercepting says something else than before.
func (i *Interceptor) Changed() <-chan struct{} { return i.changed }

// review tells of a change of what NotIntercepting says.
func (i *Interceptor) review() {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.NotIntercepting()
	if slices.Equal(now, i.cannot) {
		return
	}
	i.cannot = now
	if len(now) > 0 {
		i.log.Warn("hosts of policies cannot be intercepted and pass uncounted: this pod began before its processes could know the authority; replace the pod",
			"policies", now)
	}
	select {
	case i.changed <- struct{}{}:
	default: // told already
	}
}

// Count counts a connection of which the caller decided itself what becomes of
// it: Passthrough, NoSNI, ECH or Unreadable.
func (i *Interceptor) Count(outcome Outcome) { i.metrics.count(outcome) }

// Close ends what goes on in the background.
func (i *Interceptor) Close() { i.leaves.close() }
