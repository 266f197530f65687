// Package link is the sidecar's side of the link: it asks the operator for the
// pod's Ruleset, applies it, acknowledges it by asking again, and keeps the
// last good one so that a restarted sidecar enforces it while the operator is
// away.
//
// Whatever happens to the link, the rules in force stay in force: a Ruleset is
// replaced only by one that was applied.
package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// patience is how long a pod that has no Store yet waits for the operator
// before it is ready without: the application must not wait for ever.
const patience = 5 * time.Second

// Config of a Client. Every field but TokenFile, StateDir, NotIntercepting and
// StoreAway is required.
type Config struct {
	// Bootstrap is the Ruleset stamped into the pod at injection: what is
	// enforced, and where the operator is, as long as nothing newer is known.
	Bootstrap *ruleset.Ruleset
	// Apply puts a Ruleset in force, or fails and leaves the old one in force.
	// It is never called twice at the same time.
	Apply func(*ruleset.Ruleset) error
	// NotIntercepting is what every Report says of that: see Nudge. Nil: nothing.
	NotIntercepting func() []string
	// StoreAway is since when the store does not answer, for every Report; the zero
	// time: it does. Nil: it always does. A change of it needs no Nudge: the next
	// Report is never far, and all sidecars would make theirs at once.
	StoreAway func() time.Time
	// TokenFile defaults to ruleset.TokenFile. It is read for every request,
	// because the kubelet replaces the token.
	TokenFile string
	// StateDir keeps the last good Ruleset; it defaults to ruleset.StateDir.
	StateDir   string
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Client keeps the pod's Ruleset current. Restore comes first, then Run.
type Client struct {
	apply           func(*ruleset.Ruleset) error
	notIntercepting func() []string
	storeAway       func() time.Time
	nudges          chan struct{}
	leaves          leaves
	tokenFile       string
	saved           string
	logger          *slog.Logger
	limits          limits
	connected       prometheus.Gauge
	policies        prometheus.Gauge
	readyAt         time.Time

	// Only Restore and then Run touch these.
	current  *ruleset.Ruleset
	rejected *ruleset.Rejection
	link     ruleset.Link // that http was made for
	http     *http.Client

	mu    sync.Mutex
	state state
	ready bool
	reach ruleset.Link // of current, for others
}

// limits in time and size; tests lower them.
type limits struct {
	ruleset        int64         // bytes of an encoded Ruleset
	request        time.Duration // one request, answer included; the server holds it for 30 s
	held           time.Duration // a request that is open for so long was accepted: the server reviews its token in less
	certificate    time.Duration // one request for a certificate
	interval       time.Duration // least time between the starts of two requests
	firstBackoff   time.Duration
	longestBackoff time.Duration
}

// New makes a Client; it neither reads nor sends anything.
func New(cfg Config) (*Client, error) {
	if cfg.Bootstrap == nil || cfg.Apply == nil || cfg.Registerer == nil || cfg.Logger == nil {
		return nil, errors.New("making the link: Bootstrap, Apply, Registerer and Logger are required")
	}
	if cfg.TokenFile == "" {
		cfg.TokenFile = ruleset.TokenFile
	}
	if cfg.StateDir == "" {
		cfg.StateDir = ruleset.StateDir
	}
	if cfg.NotIntercepting == nil {
		cfg.NotIntercepting = func() []string { return nil }
	}
	if cfg.StoreAway == nil {
		cfg.StoreAway = func() time.Time { return time.Time{} }
	}
	c := &Client{
		apply:           cfg.Apply,
		notIntercepting: cfg.NotIntercepting,
		storeAway:       cfg.StoreAway,
		nudges:          make(chan struct{}, 1),
		leaves:          leaves{known: certificates([]byte(cfg.Bootstrap.Authorities))},
		tokenFile:       cfg.TokenFile,
		saved:           filepath.Join(cfg.StateDir, savedName),
		logger:          cfg.Logger,
		limits: limits{
			ruleset:        8 << 20,
			request:        60 * time.Second,
			held:           10 * time.Second,
			certificate:    10 * time.Second,
			interval:       100 * time.Millisecond,
			firstBackoff:   100 * time.Millisecond,
			longestBackoff: 5 * time.Second,
		},
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_sidecar_link_connected",
			Help: "1 while the operator answers this sidecar, 0 while it does not.",
		}),
		policies: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "weir_sidecar_policies",
			Help: "Policies of the Ruleset in force.",
		}),
		readyAt: time.Now().Add(patience),
		current: cfg.Bootstrap,
		reach:   cfg.Bootstrap.Link,
	}
	for _, collector := range []prometheus.Collector{c.connected, c.policies} {
		if err := cfg.Registerer.Register(collector); err != nil {
			return nil, fmt.Errorf("registering the link's metrics: %w", err)
		}
	}
	return c, nil
}

// Restore puts the saved Ruleset in force, which came after the Bootstrap, else
// the Bootstrap itself. When neither can be applied it says so, here and in the
// next Report, and the link may bring one that can.
func (c *Client) Restore() {
	bootstrap := c.current
	saved, err := load(c.saved, bootstrap.Namespace, c.limits.ruleset)
	if err != nil {
		c.logger.Warn("ignoring the saved Ruleset", "file", c.saved, "error", err)
	}
	if saved != nil {
		if c.force(saved) {
			c.answered(saved.Store != nil)
			return
		}
	}
	c.current = &ruleset.Ruleset{Namespace: bootstrap.Namespace, Link: bootstrap.Link}
	if c.force(bootstrap) {
		c.answered(bootstrap.Store != nil)
	}
}

// Ready is true once the operator has answered or a Ruleset with a Store is in
// force, and in any case after patience: then every request meets its policy's
// onStoreFailure until the link works.
func (c *Client) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ready || !time.Now().Before(c.readyAt)
}

// answered records that the rules in force are as good as they get by now.
func (c *Client) answered(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ready = c.ready || yes
}

// Run asks, applies and acknowledges until ctx ends.
func (c *Client) Run(ctx context.Context) {
	failures := 0
	for {
		started := time.Now()
		err := c.round(ctx)
		if ctx.Err() != nil {
			return
		}
		// An operator that answers at once, again and again, costs a sidecar no
		// more than one request an interval. A request that was held has
		// already waited, so what it brought is acknowledged immediately.
		pause := time.Until(started.Add(c.limits.interval))
		switch {
		case err == nil:
			failures = 0
		case errors.Is(err, errNudged): // says nothing of the operator
		default:
			failures++
			pause = max(pause, backoff(failures, c.limits.firstBackoff, c.limits.longestBackoff, rand.Float64()))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// round is one request and what follows from its answer.
func (c *Client) round(ctx context.Context) error {
	received, err := c.ask(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, errNudged) {
		return err
	}
	if err == nil && received != nil {
		err = c.adopt(received)
	}
	if err != nil {
		c.enter(stateOf(err), err)
		return err
	}
	c.answered(true)
	c.enter(connected, nil)
	return nil
}

// errNudged ends a request that says what holds no more.
var errNudged = errors.New("there is something to report")

// Nudge has the next Report made at once, for what NotIntercepting says by now:
// the request that is held is given up. While the operator does not answer, it
// is made when the operator is asked again anyway.
func (c *Client) Nudge() {
	select {
	case c.nudges <- struct{}{}:
	default: // nudged already
	}
}

// untilNudged is ctx until the next Nudge. Those of before are answered by the
// Report that is made next.
func (c *Client) untilNudged(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	select {
	case <-c.nudges:
	default:
	}
	ctx, giveUp := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-c.nudges:
			giveUp(errNudged)
		case <-ctx.Done():
		}
	}()
	return ctx, giveUp
}

// adopt puts a received Ruleset in force and saves it.
func (c *Client) adopt(received *ruleset.Ruleset) error {
	if received.Version == c.current.Version {
		return nil
	}
	if err := acceptable(received, c.current.Namespace); err != nil {
		c.reject(received, err)
		return failure{rejecting, err}
	}
	if !c.force(received) {
		return failure{rejecting, errors.New(c.rejected.Reason)}
	}
	if err := save(c.saved, received); err != nil {
		c.logger.Warn("the Ruleset in force could not be saved: a restarted sidecar starts with an older one",
			"file", c.saved, "error", err)
	}
	return nil
}

// force applies a Ruleset; when that fails, the next Report says why.
func (c *Client) force(r *ruleset.Ruleset) bool {
	if err := c.apply(r); err != nil {
		c.reject(r, err)
		return false
	}
	c.current, c.rejected = r, nil
	c.mu.Lock()
	c.reach = r.Link
	c.mu.Unlock()
	c.policies.Set(float64(len(r.Policies)))
	c.logger.Info("Ruleset in force", "version", r.Version, "policies", len(r.Policies), "store", r.Store != nil)
	return true
}

// reject remembers why a Ruleset is not in force, and logs it once a version.
func (c *Client) reject(r *ruleset.Ruleset, reason error) {
	if c.rejected == nil || c.rejected.Version != r.Version {
		c.logger.Error("the Ruleset cannot be applied: the last one stays in force",
			"version", clip(r.Version, maxVersion), "error", reason)
	}
	c.rejected = &ruleset.Rejection{
		Version: clip(r.Version, maxVersion),
		Reason:  clip(reason.Error(), maxReason),
	}
}
