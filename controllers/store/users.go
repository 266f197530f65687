package store

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Mode says whether namespaces get users of their own.
type Mode string

// The modes.
const (
	// Auto makes users where the user of the store's URL may, and hands out that
	// one itself where it may not.
	Auto Mode = "auto"
	// Always hands out nothing where users cannot be made.
	Always Mode = "always"
	// Never hands out any but the user of the store's URL.
	Never Mode = "never"
)

// Bounds of Options.Rotation.
const (
	MinRotation = time.Minute
	MaxRotation = 366 * 24 * time.Hour
)

const (
	// interval at which the servers are asked which users they have: so long,
	// and an exchange, may a user be missing that Redis has forgotten.
	interval = 2 * time.Second
	// exchangeTimeout bounds one exchange with a server, roundTimeout all of a
	// round's.
	exchangeTimeout = 2 * time.Second
	roundTimeout    = 10 * time.Second
	// decisionTimeout is how long sidecars wait for a store to say whether it
	// lets us make users.
	decisionTimeout = 5 * time.Second
	// removalDelay is how long a user has been nobody's before it is removed:
	// longer than operators of two versions, or with two settings, run at once.
	removalDelay = 10 * time.Minute
	// namespacesInterval, keyInterval and evictionsInterval: how often those are
	// looked at; refusedInterval: how often a store that refused is tried again.
	namespacesInterval = 30 * time.Second
	keyInterval        = time.Minute
	evictionsInterval  = time.Minute
	refusedInterval    = time.Minute
	// renewInterval is when users are made anew that have been there all along:
	// somebody may have changed their rights.
	renewInterval = 10 * time.Minute
)

// Options of Users. All but Now are required.
type Options struct {
	// Client reads and writes directly.
	Client client.Client
	// Namespace of the Secret: the operator's.
	Namespace string
	Mode      Mode
	// Rotation is how long a namespace's sidecars have the same user, in whole
	// seconds.
	Rotation time.Duration
	// Shared is the store as the settings name it now; nil: none.
	Shared func() *ruleset.Store
	// Namespaces lists those that need a user.
	Namespaces func(ctx context.Context) ([]string, error)
	// Elected is closed while this replica leads: one alone removes users.
	Elected <-chan struct{}
	// Now is the clock, default time.Now.
	Now    func() time.Time
	Logger logr.Logger
}

// Users says which credentials a namespace's sidecars reach the store with, and
// makes the users in Redis that they are of. It is a manager.Runnable that every
// replica runs. A nil *Users hands out the store as it is.
type Users struct {
	options      Options
	interval     time.Duration
	removalDelay time.Duration
	patience     time.Duration // decisionTimeout
	// kicks ask for a round at once.
	kicks   chan struct{}
	decided chan struct{}
	once    sync.Once

	mu      sync.Mutex
	inForce inForce
	asked   map[string]bool // namespaces, since they were listed
	changed func(namespace string)

	rounds rounds // of the goroutine that Start is
}

// access is what sidecars reach the store with.
type access string

const (
	undecided  access = ""
	shared     access = "shared"
	namespaced access = "namespaced"
	none       access = "none"
)

// inForce is what is handed out.
type inForce struct {
	store  ruleset.Store
	access access
	users  map[string]user // by namespace
}

// New returns Users that hand out nothing until Start.
func New(options Options) *Users {
	if options.Now == nil {
		options.Now = time.Now
	}
	options.Mode = cmp.Or(options.Mode, Auto)
	return &Users{
		options: options, interval: interval, removalDelay: removalDelay, patience: decisionTimeout,
		kicks: make(chan struct{}, 1), decided: make(chan struct{}),
		asked: map[string]bool{}, changed: func(string) {},
	}
}

// ParseMode reads a flag.
func ParseMode(text string) (Mode, error) {
	switch mode := Mode(text); mode {
	case Auto, Always, Never:
		return mode, nil
	}
	return "", fmt.Errorf("%q: want auto, always or never", text)
}

// OnChange has f called with a namespace whose credentials have changed, after
// Of says so; "" for all namespaces.
func (u *Users) OnChange(f func(namespace string)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.changed = f
}

// Of is the store as the sidecars of a namespace reach it; nil while there is
// nothing for them. shared is what the settings say: until it is known whether
// another one lets users be made, the one before is handed out.
func (u *Users) Of(namespace string, shared *ruleset.Store) *ruleset.Store {
	if u == nil || shared == nil || u.options.Mode == Never {
		return shared
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.inForce.store != *shared {
		u.kick()
	}
	switch u.inForce.access {
	case namespaced:
		user, ok := u.inForce.users[namespace]
		if !ok {
			u.asked[namespace] = true
			u.kick()
			return nil
		}
		granted, err := user.in(u.inForce.store)
		if err != nil {
			return nil // settings with such a URL are never in force
		}
		return granted
	case undecided, none:
		return nil
	default:
		store := u.inForce.store
		return &store
	}
}

// WaitForDecision waits until it is known what sidecars get: a moment after
// Start, or 15 s at most when the store does not answer. False when ctx ended
// before.
func (u *Users) WaitForDecision(ctx context.Context) bool {
	if u == nil || u.options.Mode == Never {
		return true
	}
	select {
	case <-u.decided:
		return true
	case <-ctx.Done():
		return false
	}
}

func (u *Users) kick() {
	select {
	case u.kicks <- struct{}{}:
	default: // kicked already
	}
}

// hand puts another access in force, and tells of what has changed.
func (u *Users) hand(next inForce) {
	u.mu.Lock()
	before := u.inForce
	u.inForce = next
	changed := u.changed
	u.mu.Unlock()
	u.once.Do(func() { close(u.decided) })
	record(next)
	if before.store != next.store || before.access != next.access {
		changed("")
		return
	}
	for namespace := range next.users {
		if before.users[namespace] != next.users[namespace] {
			changed(namespace)
		}
	}
	for namespace := range before.users {
		if _, still := next.users[namespace]; !still {
			changed(namespace)
		}
	}
}

// NeedLeaderElection is false: every replica hands out users.
func (*Users) NeedLeaderElection() bool { return false }

// Start looks after the store until ctx ends.
func (u *Users) Start(ctx context.Context) error {
	ticker := time.NewTicker(u.interval)
	defer ticker.Stop()
	defer u.rounds.close()
	for {
		u.round(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-u.kicks:
		}
	}
}
