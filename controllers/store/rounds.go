package store

import (
	"context"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// rounds is what one round leaves to the next. Only the goroutine of Start has
// it.
type rounds struct {
	target *servers // nil: none yet
	// since the target is the target; refusedAt is when it refused last.
	since, refusedAt time.Time
	granted          bool

	namer      namer
	remembered string // see keyGranted
	keyAt      time.Time

	namespaces   map[string]bool
	namespacesAt time.Time
	// fresh are the users that this process has made since renewedAt.
	fresh     map[string]bool
	renewedAt time.Time
	// stale says since when users of this cluster have been nobody's.
	stale map[string]time.Time

	evictionsAt time.Time
	evicts      string
	complaint   string // logged last
}

func (r *rounds) close() {
	if r.target != nil {
		r.target.Close()
	}
}

// round does once what there is to do.
func (u *Users) round(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	named := u.options.Shared()
	if named == nil {
		u.decide() // sidecars have no store, whatever the mode
		return
	}
	err := u.follow(*named)
	switch {
	case u.options.Mode == Never:
		record(inForce{access: shared})
	case err != nil: // sidecars cannot use it either, and say so in their policies' status
		u.refuse(*named, err)
	default:
		err = u.provide(ctx)
	}
	if u.rounds.target != nil {
		u.warnOfEvictions(ctx)
	}
	u.complain(err)
}

func (u *Users) decide() { u.once.Do(func() { close(u.decided) }) }

// complain logs an error once, until another comes or none. One that came of the
// process's end is none.
func (u *Users) complain(err error) {
	switch {
	case err == nil:
		u.rounds.complaint = ""
	case errors.Is(err, context.Canceled):
	case err.Error() != u.rounds.complaint:
		u.rounds.complaint = err.Error()
		failures.Inc()
		u.options.Logger.Error(err, "the store's users are not as they should be")
	default:
		failures.Inc()
	}
}

// follow reaches another store when the settings name one.
func (u *Users) follow(named ruleset.Store) error {
	r := &u.rounds
	if r.target != nil && r.target.store == named {
		return nil
	}
	target, err := connect(named)
	if err != nil {
		return err
	}
	r.close()
	r.target, r.since = target, u.options.Now()
	r.granted, r.refusedAt, r.evictionsAt, r.evicts = false, time.Time{}, time.Time{}, ""
	r.fresh, r.stale = map[string]bool{}, map[string]time.Time{}
	return nil
}

// provide decides what sidecars get, and makes it.
func (u *Users) provide(ctx context.Context) error {
	r := &u.rounds
	if !hasPassword(r.target.store.URL) {
		// Whoever reaches this Redis needs no credential: users would keep nobody out.
		u.refuse(r.target.store, errors.New("the store's URL has no password: every pod that reaches this Redis may do everything there, "+
			"and users would keep nobody out. Give its Redis a password, and the URL with it"))
		return nil
	}
	listing := u.list(ctx)
	if err := u.readKey(ctx); err != nil {
		u.despair()
		return errors.Join(err, listing)
	}
	if !r.granted {
		if !r.refusedAt.IsZero() && u.options.Now().Sub(r.refusedAt) < refusedInterval {
			return nil
		}
		switch err := r.target.probe(ctx, r.namer.prefix()+"probe"); {
		case errors.Is(err, errRefused):
			return u.refused(ctx, err)
		case err != nil:
			u.despair()
			return errors.Join(err, listing)
		}
		r.granted = true
		u.options.Logger.Info("sidecars reach the store with users of their namespaces, made in Redis", "rotation", u.options.Rotation.String())
	}
	remembering := u.remember(ctx, r.namer.derive("granted", r.target.store.URL))
	err := u.settle(ctx)
	if errors.Is(err, errRefused) {
		r.granted = false
		return u.refused(ctx, err)
	}
	return errors.Join(err, listing, remembering)
}

// refused hands out what the mode says for a store that lets no users be made.
func (u *Users) refused(ctx context.Context, reason error) error {
	u.rounds.refusedAt = u.options.Now()
	u.refuse(u.rounds.target.store, reason)
	return u.remember(ctx, "")
}

// refuse hands out what the mode says for a store without users of namespaces.
func (u *Users) refuse(store ruleset.Store, reason error) {
	next := inForce{store: store, access: shared}
	consequence := "every sidecar gets the user of the store's URL, which reaches the counts of all namespaces"
	if u.options.Mode == Always {
		next.access, consequence = none, "sidecars get no store, as --store-users=always says"
	}
	if u.access() != next.access {
		u.options.Logger.Info("the store has no users of namespaces: "+consequence, "reason", reason.Error())
	}
	u.hand(next)
}

func (u *Users) access() access {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.inForce.access
}

// despair decides without an answer, after some patience: what is known of this
// store from before holds. Else what was handed out goes on, of a store before
// this one too; or nothing is, if nothing was: the URL's user may do everything,
// and is for sidecars only where Redis has refused to make others.
func (u *Users) despair() {
	r := &u.rounds
	u.mu.Lock()
	decided := u.inForce.access != undecided && u.inForce.store == r.target.store
	u.mu.Unlock()
	if !decided && u.options.Now().Sub(r.since) < u.patience {
		return
	}
	if r.namer.key != nil && r.remembered == r.namer.derive("granted", r.target.store.URL) {
		// Redis has the users, unless it has restarted; then it gets them when it answers.
		users := map[string]user{}
		for _, namespace := range u.listed() {
			if users[namespace] = u.handed(namespace); users[namespace].name == "" {
				users[namespace], _ = r.namer.users(namespace, u.options.Now())
			}
		}
		u.hand(inForce{store: r.target.store, access: namespaced, users: users})
	} else if u.access() == undecided {
		u.options.Logger.Info("sidecars get no store yet: it does not answer the operator, or the operator's key cannot be read; both are tried again")
		u.hand(inForce{store: r.target.store, access: none})
	}
}

// readKey follows the Secret. Once known, a key holds until another is read.
func (u *Users) readKey(ctx context.Context) error {
	r, now := &u.rounds, u.options.Now()
	if r.namer.key != nil && now.Sub(r.keyAt) < keyInterval {
		return nil
	}
	vault := vault{client: u.options.Client, namespace: u.options.Namespace}
	cluster := r.namer.cluster
	var err error
	if cluster == "" {
		if cluster, err = vault.cluster(ctx); err != nil {
			return err
		}
	}
	held, err := vault.read(ctx)
	if err != nil {
		if r.namer.key != nil {
			u.options.Logger.Error(err, "the key of the store's users stays as it was")
			r.keyAt = now
			return nil
		}
		return err
	}
	r.namer = namer{cluster: cluster, key: held.key, rotation: u.options.Rotation}
	r.remembered, r.keyAt = held.granted, now
	return nil
}

func (u *Users) remember(ctx context.Context, granted string) error {
	if u.rounds.remembered == granted {
		return nil
	}
	if err := (vault{client: u.options.Client, namespace: u.options.Namespace}).remember(ctx, granted); err != nil {
		return err
	}
	u.rounds.remembered = granted
	return nil
}

// settle makes the users of all namespaces, hands out those that Redis has, and
// removes those that are nobody's.
func (u *Users) settle(ctx context.Context) error {
	r, now := &u.rounds, u.options.Now()
	if now.Sub(r.renewedAt) >= renewInterval {
		r.fresh, r.renewedAt = map[string]bool{}, now
	}
	wanted, namespaceOf := map[string]user{}, map[string]string{}
	current := map[string]user{}
	for _, namespace := range u.listed() {
		latest, former := r.namer.users(namespace, now)
		current[namespace] = latest
		for _, user := range []user{latest, former, u.handed(namespace)} {
			if user.name != "" && strings.HasPrefix(user.name, r.namer.prefix()) {
				wanted[user.name] = user
				namespaceOf[user.name] = namespace
			}
		}
	}
	found, err := r.target.settle(ctx, r.namer.prefix(), wanted, func(name string) ([]string, error) {
		return report.Rights(namespaceOf[name], r.target.store)
	}, r.fresh)
	if errors.Is(err, errRefused) {
		return err
	}
	if found.answered > 0 { // who did not is asked which it has when it does
		for name := range wanted {
			r.fresh[name] = true
		}
	}
	changes.WithLabelValues("made").Add(float64(found.made))
	present.Set(float64(len(found.holders)))
	if found.answered == 0 {
		u.despair()
		return err
	}
	next := inForce{store: r.target.store, access: namespaced, users: map[string]user{}}
	for namespace, user := range current {
		if !found.everywhere(user.name) {
			user = u.handed(namespace) // the one before, if any
		}
		if user.name != "" {
			next.users[namespace] = user
		}
	}
	u.hand(next)
	return errors.Join(err, u.removeStale(ctx, found, wanted, now))
}

// handed is what a namespace has of the store that is the target.
func (u *Users) handed(namespace string) user {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.inForce.store != u.rounds.target.store {
		return user{}
	}
	return u.inForce.users[namespace]
}

// list asks which namespaces need a user.
func (u *Users) list(ctx context.Context) error {
	r, now := &u.rounds, u.options.Now()
	if r.namespaces != nil && now.Sub(r.namespacesAt) < namespacesInterval {
		return nil
	}
	names, err := u.options.Namespaces(ctx)
	if err != nil {
		return err
	}
	r.namespaces, r.namespacesAt = map[string]bool{}, now
	for _, name := range names {
		r.namespaces[name] = true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	maps.Copy(r.namespaces, u.asked) // one that asked now may be too new to be listed
	u.asked = map[string]bool{}
	return nil
}

// listed are the namespaces that need a user, in their order.
func (u *Users) listed() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := maps.Clone(u.asked)
	maps.Copy(all, u.rounds.namespaces)
	return slices.Sorted(maps.Keys(all))
}

// removeStale removes the users of this cluster that have been nobody's for long
// enough: of periods that are over, of namespaces that are gone, of former keys.
// now is when those that are wanted were known, before others were handed out.
func (u *Users) removeStale(ctx context.Context, found settled, wanted map[string]user, now time.Time) error {
	r := &u.rounds
	if r.namespaces == nil {
		return nil // whose users there are is not known yet
	}
	var due []string
	stale := map[string]time.Time{}
	for name := range found.holders {
		if _, wants := wanted[name]; wants {
			continue
		}
		since, known := r.stale[name]
		if !known {
			since = now
		}
		stale[name] = since
		if now.Sub(since) >= u.removalDelay {
			due = append(due, name)
		}
	}
	r.stale = stale
	if len(due) == 0 || !u.leads() {
		return nil
	}
	if err := r.target.remove(ctx, due); err != nil {
		return err
	}
	changes.WithLabelValues("removed").Add(float64(len(due)))
	u.options.Logger.Info("removed users from the store that nobody has any more", "users", len(due))
	return nil
}

func (u *Users) leads() bool {
	select {
	case <-u.options.Elected:
		return true
	default:
		return false
	}
}

// warnOfEvictions says when the store forgets what it must remember. A server
// that does not say, as some managed ones, is believed.
func (u *Users) warnOfEvictions(ctx context.Context) {
	r, now := &u.rounds, u.options.Now()
	if !r.evictionsAt.IsZero() && now.Sub(r.evictionsAt) < evictionsInterval {
		return
	}
	r.evictionsAt = now
	policy := r.target.evictions(ctx)
	evicting.Set(0)
	if policy != "" {
		evicting.Set(1)
	}
	if policy != "" && policy != r.evicts {
		u.options.Logger.Info("Redis evicts keys when its memory is full, and with them counts of admitted requests: "+
			"limits are then exceeded. Give Weir a Redis of its own with maxmemory-policy noeviction", "maxmemory-policy", policy)
	}
	r.evicts = policy
}

// hasPassword errs on the side of no: what cannot be read is refused elsewhere.
func hasPassword(text string) bool {
	parsed, err := url.Parse(text)
	if err != nil || parsed.User == nil {
		return false
	}
	password, _ := parsed.User.Password()
	return password != ""
}
