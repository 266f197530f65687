package store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/redis/go-redis/v9"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

const patience = 20 * time.Second

// apiServer is one as far as Users ask it: it has a namespace, and keeps their
// Secret.
type apiServer struct {
	client.Client
	mu      sync.Mutex
	held    *corev1.Secret
	version int
}

var secrets = schema.GroupResource{Resource: "secrets"}

func (a *apiServer) Get(_ context.Context, _ client.ObjectKey, object client.Object, _ ...client.GetOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch object := object.(type) {
	case *corev1.Namespace:
		object.UID = "1a2b3c4d-0000-0000-0000-000000000000"
	case *corev1.Secret:
		if a.held == nil {
			return apierrors.NewNotFound(secrets, SecretName)
		}
		a.held.DeepCopyInto(object)
	}
	return nil
}

func (a *apiServer) Create(_ context.Context, object client.Object, _ ...client.CreateOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held != nil {
		return apierrors.NewAlreadyExists(secrets, SecretName)
	}
	a.keep(object)
	return nil
}

func (a *apiServer) Update(_ context.Context, object client.Object, _ ...client.UpdateOption) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held == nil || a.held.ResourceVersion != object.GetResourceVersion() {
		return apierrors.NewConflict(secrets, SecretName, errors.New("another version"))
	}
	a.keep(object)
	return nil
}

func (a *apiServer) keep(object client.Object) {
	a.version++
	object.SetResourceVersion(strconv.Itoa(a.version))
	a.held = object.(*corev1.Secret).DeepCopy()
}

// secret is a copy of the Secret; nil without one.
func (a *apiServer) secret() *corev1.Secret {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.held.DeepCopy()
}

func (a *apiServer) forget() { a.mu.Lock(); defer a.mu.Unlock(); a.held = nil }

// replica is one replica's Users, and what a test changes under it.
type replica struct {
	*Users
	log *lines

	mu         sync.Mutex
	store      *ruleset.Store
	namespaces []string
	now        time.Time
	changed    []string
}

// newReplica returns Users that look every few milliseconds, and do not run yet.
func newReplica(t *testing.T, api client.Client, at string, options Options, namespaces ...string) *replica {
	t.Helper()
	r := &replica{log: &lines{}, namespaces: namespaces, now: time.Unix(1_764_500_000, 0), store: &ruleset.Store{URL: at, TimeoutMillis: 5000}}
	leading := make(chan struct{})
	close(leading)
	options.Client, options.Namespace = api, "weir-system"
	if options.Rotation == 0 {
		options.Rotation = 24 * time.Hour
	}
	options.Shared = func() *ruleset.Store { r.mu.Lock(); defer r.mu.Unlock(); return r.store }
	options.Namespaces = func(context.Context) ([]string, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.namespaces, nil }
	options.Now = func() time.Time { r.mu.Lock(); defer r.mu.Unlock(); return r.now }
	options.Elected = leading
	options.Logger = funcr.New(func(_, line string) { r.log.add(line) }, funcr.Options{})
	r.Users = New(options)
	r.interval = 5 * time.Millisecond
	r.OnChange(func(namespace string) { r.mu.Lock(); defer r.mu.Unlock(); r.changed = append(r.changed, namespace) })
	return r
}

func (r *replica) start(t *testing.T) *replica {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = r.Start(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	return r
}

func (r *replica) pass(d time.Duration) { r.mu.Lock(); defer r.mu.Unlock(); r.now = r.now.Add(d) }

func (r *replica) has(namespaces ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.namespaces = namespaces
}

// of is the URL that a namespace's sidecars get; empty for none.
func (r *replica) of(namespace string) string {
	r.mu.Lock()
	named := r.store
	r.mu.Unlock()
	if store := r.Of(namespace, named); store != nil {
		return store.URL
	}
	return ""
}

// userIn is the user of a URL.
func userIn(t *testing.T, text string) string {
	t.Helper()
	parsed, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.User.Username()
}

// lines that were logged.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) add(line string) { _, _ = l.Write([]byte(line + "\n")) }

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(text)
}

func (l *lines) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.all.String() }

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// usersOf a server, but for its default one.
func usersOf(t *testing.T, server *redistest.Server) []string {
	t.Helper()
	names, err := server.Client().Do(t.Context(), "ACL", "USERS").StringSlice()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return name == "default" })
}

// mustTake takes as a sidecar of the namespace does.
func mustTake(t *testing.T, at, namespace string) error {
	t.Helper()
	l := limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)})
	defer l.Close()
	if err := l.Use(&ruleset.Store{URL: at, TimeoutMillis: 5000}); err != nil {
		t.Fatal(err)
	}
	_, err := l.Take(t.Context(), []limiter.Take{{
		Namespace: namespace, Service: "spotify", Identity: "u", Limits: []ruleset.Limit{{Requests: 1000, WindowMillis: 60_000}},
	}})
	return err
}

func TestEachNamespaceHasItsOwnUser(t *testing.T) {
	t.Parallel()
	alone, cluster := redistest.Start(t, "--requirepass", "secret"), redistest.StartCluster(t, "--requirepass", "secret", "--masterauth", "secret")
	for _, test := range []struct {
		reason, url string
		servers     []*redistest.Server
	}{
		{"alone", alone.URL(), []*redistest.Server{alone}},
		{"a cluster of three", strings.Replace(cluster.URL(), "://", "://:secret@", 1), cluster.Servers},
	} {
		api := &apiServer{}
		first := newReplica(t, api, test.url, Options{}, "shop", "bank").start(t)
		second := newReplica(t, api, test.url, Options{}, "shop", "bank").start(t)
		for _, namespace := range []string{"shop", "bank"} {
			eventually(t, test.reason+": both replicas hand "+namespace+" the same user", func() bool {
				return first.of(namespace) != "" && first.of(namespace) == second.of(namespace)
			})
			if err := mustTake(t, first.of(namespace), namespace); err != nil {
				t.Errorf("%s: a sidecar of %s: %v", test.reason, namespace, err)
			}
		}
		if userIn(t, first.of("shop")) == userIn(t, first.of("bank")) || !strings.HasPrefix(userIn(t, first.of("shop")), "weir:1a2b3c4d:shop:") {
			t.Errorf("%s: got the users %s and %s", test.reason, userIn(t, first.of("shop")), userIn(t, first.of("bank")))
		}
		if err := mustTake(t, first.of("shop"), "bank"); err == nil {
			t.Errorf("%s: with the credential of shop a take in bank succeeded", test.reason)
		}
		for _, server := range test.servers {
			if names := usersOf(t, server); len(names) != 4 {
				t.Errorf("%s: a server has %q, want the users of this period and of the one before", test.reason, names)
			}
		}
		// Nothing secret is said.
		password, _ := mustParse(t, first.of("shop")).User.Password()
		for _, secret := range []string{"secret", password} {
			if log := first.log.String() + second.log.String(); strings.Contains(log, secret) {
				t.Errorf("%s: the log has a password:\n%s", test.reason, log)
			}
		}
	}
}

// Redis is told the SHA-256 of a user's password, so that none is on the wire, in
// its log or its memory before a sidecar has it.
func TestPasswordsAreNotSentToMakeUsers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	sent := &lines{}
	r := newReplica(t, &apiServer{}, strings.Replace(server.URL(), server.Addr, tapped(t, server.Addr, sent), 1), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	password, _ := mustParse(t, r.of("shop")).User.Password()
	if said := sent.String(); strings.Contains(said, password) || !strings.Contains(said, (user{password: password}).hash()) {
		t.Errorf("Redis was sent\n%s\nwant the hash of %s alone", said, password)
	}
}

// tapped is an address that leads to another, and notes what is sent there.
func tapped(t *testing.T, to string, sent *lines) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", to)
			if err != nil {
				_ = client.Close()
				return
			}
			go func() { _, _ = io.Copy(server, io.TeeReader(client, sent)); _ = server.Close() }()
			go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
		}
	}()
	return listener.Addr().String()
}

func mustParse(t *testing.T, text string) *url.URL {
	t.Helper()
	parsed, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// A namespace that nobody has listed yet gets its user when its first sidecar
// asks, and never that of the URL meanwhile.
func TestANewNamespaceIsServed(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	r := newReplica(t, &apiServer{}, server.URL(), Options{}).start(t)
	if !r.WaitForDecision(t.Context()) {
		t.Fatal("not decided")
	}
	if got := r.of("new"); got != "" {
		t.Errorf("at first got user %q, want none", userIn(t, got))
	}
	eventually(t, "the namespace has a user", func() bool { return r.of("new") != "" })
	if err := mustTake(t, r.of("new"), "new"); err != nil {
		t.Error(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(r.changed, "new") {
		t.Errorf("told of %q, want the sidecars of new told", r.changed)
	}
}

// A user is another after the period, and the former one is there for one more:
// then it is removed, and its connections end.
func TestRotation(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	r := newReplica(t, &apiServer{}, server.URL(), Options{Rotation: time.Hour}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	first := r.of("shop")
	options, err := redis.ParseURL(first)
	if err != nil {
		t.Fatal(err)
	}
	options.Protocol, options.DisableIdentity, options.MaxRetries, options.PoolSize = 2, true, -1, 1
	thief := redis.NewClient(options)
	t.Cleanup(func() { _ = thief.Close() })
	if err := thief.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}

	r.pass(time.Hour)
	eventually(t, "another user", func() bool { return r.of("shop") != first })
	second := r.of("shop")
	for _, at := range []string{first, second} {
		if err := mustTake(t, at, "shop"); err != nil {
			t.Errorf("in the next period: %v", err)
		}
	}
	r.pass(time.Hour)
	eventually(t, "a third user", func() bool { return r.of("shop") != second })
	if !slices.Contains(usersOf(t, server), userIn(t, first)) {
		t.Error("removed at once: want it there until no replica can have it any more")
	}
	r.pass(removalDelay)
	eventually(t, "the first is removed", func() bool { return !slices.Contains(usersOf(t, server), userIn(t, first)) })
	if err := thief.Ping(t.Context()).Err(); err == nil {
		t.Error("a connection of the removed user goes on")
	}
	if err := mustTake(t, first, "shop"); err == nil {
		t.Error("the first credential is still good")
	}
	if err := mustTake(t, r.of("shop"), "shop"); err != nil {
		t.Errorf("the one in force: %v", err)
	}
}

// Redis forgets users when it restarts: they are made anew, and sidecars go on
// by themselves.
func TestRedisForgetsItsUsers(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	r := newReplica(t, &apiServer{}, server.URL(), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	sidecar := limiter.New(limiter.Options{Logger: slog.New(slog.DiscardHandler)})
	defer sidecar.Close()
	if err := sidecar.Use(&ruleset.Store{URL: r.of("shop"), TimeoutMillis: 5000}); err != nil {
		t.Fatal(err)
	}
	take := func() error {
		_, err := sidecar.Take(t.Context(), []limiter.Take{{
			Namespace: "shop", Service: "s", Identity: "u", Limits: []ruleset.Limit{{Requests: 100, WindowMillis: 60_000}},
		}})
		return err
	}
	eventually(t, "a sidecar takes", func() bool { return take() == nil })
	before := r.of("shop")
	server.Kill()
	eventually(t, "takes fail", func() bool { return take() != nil })
	if r.of("shop") != before {
		t.Error("the credential is another while Redis is away")
	}
	server.Restart()
	eventually(t, "the sidecar takes again", func() bool { return take() == nil })
	if r.of("shop") != before {
		t.Error("the credential is another after Redis has restarted")
	}
}

// One server of a cluster that is away keeps no namespace from the others, and
// gets the users when it is back.
func TestAServerOfTheClusterRestarts(t *testing.T) {
	t.Parallel()
	cluster := redistest.StartCluster(t, "--requirepass", "secret", "--masterauth", "secret", "--cluster-require-full-coverage", "no")
	r := newReplica(t, &apiServer{}, strings.Replace(cluster.URL(), "://", "://:secret@", 1), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	cluster.Servers[1].Kill()
	r.has("shop", "late")
	r.pass(namespacesInterval)
	eventually(t, "a namespace that comes meanwhile has a user", func() bool { return r.of("late") != "" })
	cluster.Servers[1].Restart()
	eventually(t, "the server has all users", func() bool { return len(usersOf(t, cluster.Servers[1])) == 4 })
}

// Behind Sentinel the replica has the users too, so that it serves at once when it
// is made the master; and the former master gets them when it is back.
func TestUsersBehindSentinel(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{
		Password: "secret", SentinelPassword: "other", Args: []string{"--maxmemory-policy", "allkeys-lru"},
	})
	r := newReplica(t, &apiServer{}, sentinel.URL(), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	for _, server := range []*redistest.Server{sentinel.Master, sentinel.Replica} {
		if names := usersOf(t, server); len(names) != 2 {
			t.Errorf("a server has %q, want the users of this period and of the one before", names)
		}
	}
	if err := mustTake(t, r.of("shop"), "shop"); err != nil {
		t.Error(err)
	}
	before := r.of("shop")
	sentinel.FailOver(t.Context())
	if err := mustTake(t, before, "shop"); err != nil {
		t.Errorf("on the new master: %v", err)
	}
	sentinel.Master.Restart()
	eventually(t, "the former master has the users", func() bool { return len(usersOf(t, sentinel.Master)) == 2 })
	if r.of("shop") != before {
		t.Error("the credential is another after the failover")
	}
	if !strings.Contains(r.log.String(), "evicts keys") || strings.Contains(r.log.String(), "secret") {
		t.Errorf("want a warning of evictions and no password, logged: %s", r.log)
	}
}

// Users that are nobody's are removed after a while; those of others never.
func TestUsersOfGoneNamespacesAreRemoved(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	for _, name := range []string{"weir:5e6f7a8b:shop:1764460800-00000000", "somebody"} {
		if err := server.Client().Do(t.Context(), "ACL", "SETUSER", name, "on", "nopass").Err(); err != nil {
			t.Fatal(err)
		}
	}
	r := newReplica(t, &apiServer{}, server.URL(), Options{}, "shop", "gone").start(t)
	eventually(t, "users", func() bool { return r.of("shop") != "" && r.of("gone") != "" })
	r.has("shop")
	r.pass(namespacesInterval)
	eventually(t, "the namespace has none any more", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.Contains(r.changed, "gone")
	})
	if names := usersOf(t, server); len(names) != 6 {
		t.Errorf("at once there are %q, want all six left", names)
	}
	r.pass(removalDelay)
	eventually(t, "they are removed", func() bool { return len(usersOf(t, server)) == 4 })
	for _, name := range []string{"weir:5e6f7a8b:shop:1764460800-00000000", "somebody"} {
		if !slices.Contains(usersOf(t, server), name) {
			t.Errorf("%s was removed, which is not this cluster's", name)
		}
	}
}

// Another key makes other users, so that a theft of it, or of all credentials, is
// mended by deleting the Secret.
func TestDeletingTheSecretMakesEverythingAnew(t *testing.T) {
	t.Parallel()
	server, api := redistest.Start(t, "--requirepass", "secret"), &apiServer{}
	r := newReplica(t, api, server.URL(), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	first := r.of("shop")
	api.forget()
	r.pass(keyInterval)
	eventually(t, "another user", func() bool { return r.of("shop") != first })
	if err := mustTake(t, first, "shop"); err != nil {
		t.Errorf("at once the former fails: %v", err)
	}
	r.pass(removalDelay)
	eventually(t, "the former is removed", func() bool { return mustTake(t, first, "shop") != nil })
	if err := mustTake(t, r.of("shop"), "shop"); err != nil {
		t.Error(err)
	}
}

// Where the URL's user may not make users, sidecars get it itself, or nothing:
// whole and said, never a part of it.
func TestAStoreThatLetsNoUsersBeMade(t *testing.T) {
	t.Parallel()
	acl := func(t *testing.T, rights ...any) string {
		server := redistest.Start(t)
		if err := server.Client().Do(t.Context(), append([]any{"ACL", "SETUSER", "weir", "on", ">secret", "allkeys", "+@all"}, rights...)...).Err(); err != nil {
			t.Fatal(err)
		}
		return strings.Replace(server.URL(), "://", "://weir:secret@", 1)
	}
	for _, test := range []struct {
		reason string
		url    func(t *testing.T) string
		says   string
	}{
		{"no command ACL", func(t *testing.T) string {
			return redistest.Start(t, "--requirepass", "secret", "--rename-command", "ACL", "").URL()
		}, "unknown command"},
		{"a user without rights to it", func(t *testing.T) string { return acl(t, "-@admin", "-@dangerous") }, "NOPERM"},
		{"a user who may make users, but not remove them", func(t *testing.T) string { return acl(t, "-acl|deluser") }, "NOPERM"},
		{"a URL that sidecars refuse", func(t *testing.T) string {
			return redistest.Start(t, "--requirepass", "secret").URL() + "?timeout=1"
		}, "parameter that is not known"},
		{"no password", func(t *testing.T) string { return redistest.Start(t).URL() }, "no password"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			t.Parallel()
			at := test.url(t)
			for mode, want := range map[Mode]string{Auto: at, Always: "", Never: at} {
				r := newReplica(t, &apiServer{}, at, Options{Mode: mode}, "shop").start(t)
				if !r.WaitForDecision(t.Context()) {
					t.Fatal("not decided")
				}
				if got := r.of("shop"); got != want {
					t.Errorf("%s: got user %q, want the URL's: %v", mode, userIn(t, got), want != "")
				}
				if mode != Never && !strings.Contains(r.log.String(), test.says) {
					t.Errorf("%s: want it said why, got\n%s", mode, r.log)
				}
				if mode == Never && test.says == "NOPERM" && r.log.String() != "" {
					t.Errorf("never: want nothing said, got\n%s", r.log)
				}
				if strings.Contains(r.log.String(), "secret") {
					t.Errorf("the log has the password:\n%s", r.log)
				}
			}
		})
	}
}

// What docs/security.md says that the URL's user needs is enough.
func TestRightsThatTheOperatorNeeds(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	var needs []string
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| the URL's user needs |") {
			for _, quoted := range strings.Split(strings.ReplaceAll(line, `\|`, "|"), "`")[1:] {
				if strings.HasPrefix(quoted, "+") {
					needs = append(needs, strings.Fields(quoted)...)
				}
			}
		}
	}
	if want := []string{"+acl|setuser", "+acl|deluser", "+acl|users", "+info", "+cluster|slots", "+select"}; !slices.Equal(needs, want) {
		t.Fatalf("docs/security.md lists %q, want %q", needs, want)
	}
	alone, cluster := redistest.Start(t, "--maxmemory-policy", "allkeys-lru"), redistest.StartCluster(t)
	for _, test := range []struct {
		url     string
		rights  []string
		servers []*redistest.Server
	}{
		{alone.URL(), needs[:4], []*redistest.Server{alone}},
		{alone.URL() + "/3", slices.Concat(needs[:4], needs[5:]), []*redistest.Server{alone}},
		{cluster.URL(), needs[:5], cluster.Servers},
	} {
		for _, server := range test.servers {
			command := []any{"ACL", "SETUSER", "operator", "reset", "on", ">secret"}
			if err := server.Client().Do(t.Context(), append(command, words(test.rights)...)...).Err(); err != nil {
				t.Fatal(err)
			}
		}
		at := strings.Replace(test.url, "://", "://operator:secret@", 1)
		r := newReplica(t, &apiServer{}, at, Options{}, "shop").start(t)
		eventually(t, "a user", func() bool { return r.of("shop") != "" })
		if err := mustTake(t, r.of("shop"), "shop"); err != nil {
			t.Errorf("%s: %v", test.rights, err)
		}
		for _, server := range test.servers {
			if refused, err := server.Client().Do(t.Context(), "ACL", "LOG").Slice(); err != nil || len(refused) > 0 {
				t.Errorf("%s: refused: %v, error %v", test.rights, refused, err)
			}
		}
	}
}

// A thousand namespaces are a second's work when Redis has forgotten all users,
// and little in every round after that.
func TestAThousandNamespaces(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	names := make([]string, 1000)
	for i := range names {
		names[i] = "ns-" + strconv.Itoa(i)
	}
	r := newReplica(t, &apiServer{}, server.URL(), Options{}, names...)
	start := time.Now()
	r.round(t.Context())
	first := time.Since(start)
	for _, name := range names {
		if r.of(name) == "" {
			t.Fatalf("%s has no user after a round", name)
		}
	}
	if n := len(usersOf(t, server)); n != 2000 {
		t.Errorf("Redis has %d users, want 2 of each namespace", n)
	}
	start = time.Now()
	r.round(t.Context())
	t.Logf("the first round took %v, the next %v", first, time.Since(start))
	r.rounds.close()
}

// Rights that are taken away, or given, are noticed.
func TestRightsOfTheOperatorChange(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	set := func(rights ...any) {
		if err := server.Client().Do(t.Context(), append([]any{"ACL", "SETUSER", "weir"}, rights...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	set("on", ">secret", "allkeys", "+@all", "-acl")
	at := strings.Replace(server.URL(), "://", "://weir:secret@", 1)
	r := newReplica(t, &apiServer{}, at, Options{}, "shop").start(t)
	eventually(t, "the URL's user is handed out", func() bool { return r.of("shop") == at })
	set("+acl")
	r.pass(refusedInterval)
	eventually(t, "a user of the namespace", func() bool { return r.of("shop") != at && r.of("shop") != "" })
	set("-acl")
	eventually(t, "the URL's user again", func() bool { return r.of("shop") == at })
}

// A replica that starts while Redis is away hands out what was handed out
// before, not the URL's own user.
func TestStartingWhileRedisIsAway(t *testing.T) {
	t.Parallel()
	server, api := redistest.Start(t, "--requirepass", "secret"), &apiServer{}
	before := newReplica(t, api, server.URL(), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return before.of("shop") != "" })
	eventually(t, "it is noted that the store has users", func() bool {
		held := api.secret()
		return held != nil && len(held.Data[keyGranted]) > 0
	})
	server.Kill()
	after := newReplica(t, api, server.URL(), Options{}, "shop")
	after.patience = 0
	after.start(t)
	if !after.WaitForDecision(t.Context()) {
		t.Fatal("not decided")
	}
	eventually(t, "the same user", func() bool { return after.of("shop") == before.of("shop") })
	stranger := newReplica(t, &apiServer{}, server.URL(), Options{}, "shop")
	stranger.patience = 0
	stranger.start(t)
	if !stranger.WaitForDecision(t.Context()) {
		t.Fatal("not decided")
	}
	server.Restart()
	eventually(t, "of a store that was never asked, nothing until it answers", func() bool {
		at := stranger.of("shop")
		if at == server.URL() {
			t.Fatal("the URL's user was handed out")
		}
		return at != "" && mustTake(t, at, "shop") == nil
	})
}

// Another store is handed out when it is known what it lets us do, and the one
// before until then.
func TestAnotherStore(t *testing.T) {
	t.Parallel()
	first, second := redistest.Start(t, "--requirepass", "secret"), redistest.Start(t, "--requirepass", "other")
	r := newReplica(t, &apiServer{}, first.URL(), Options{}, "shop")
	r.patience = 0
	r.start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	before := r.of("shop")
	second.Pause()
	r.mu.Lock()
	r.store = &ruleset.Store{URL: second.URL(), TimeoutMillis: 5000}
	r.mu.Unlock()
	for range 20 {
		if got := r.of("shop"); got != before {
			t.Fatalf("got user %q, want the first store's until the second answers", userIn(t, got))
		}
	}
	second.Resume()
	eventually(t, "the second store", func() bool { return strings.Contains(r.of("shop"), second.Addr) })
	if err := mustTake(t, r.of("shop"), "shop"); err != nil {
		t.Error(err)
	}
}

// Somebody who changes a user's rights changes them for a while.
func TestRightsAreMadeAnew(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "secret")
	r := newReplica(t, &apiServer{}, server.URL(), Options{}, "shop").start(t)
	eventually(t, "a user", func() bool { return r.of("shop") != "" })
	if err := server.Client().Do(t.Context(), "ACL", "SETUSER", userIn(t, r.of("shop")), "allkeys", "+@all", "nopass").Err(); err != nil {
		t.Fatal(err)
	}
	r.pass(renewInterval)
	eventually(t, "the rights are as they were", func() bool { return mustTake(t, r.of("shop"), "bank") != nil })
	if err := mustTake(t, r.of("shop"), "shop"); err != nil {
		t.Error(err)
	}
}

// Of a hosted Redis too, which knows no CONFIG and no ACL.
func TestWarnsOfEvictions(t *testing.T) {
	t.Parallel()
	hosted := []string{"--rename-command", "CONFIG", "", "--rename-command", "ACL", "", "--rename-command", "CLIENT", ""}
	for _, test := range []struct {
		policy string
		args   []string
		want   int
	}{{"allkeys-lru", nil, 1}, {"noeviction", nil, 0}, {"volatile-lru", hosted, 1}, {"noeviction", hosted, 0}} {
		server := redistest.Start(t, append(test.args, "--requirepass", "secret", "--maxmemory-policy", test.policy)...)
		r := newReplica(t, &apiServer{}, strings.Replace(server.URL(), "://:", "://default:", 1), Options{}, "shop").start(t)
		eventually(t, "a store", func() bool { return r.of("shop") != "" })
		eventually(t, "the warning, if any", func() bool { return test.want == 0 || strings.Contains(r.log.String(), "evicts keys") })
		r.pass(evictionsInterval)
		r.pass(evictionsInterval)
		if n := strings.Count(r.log.String(), "evicts keys"); n != test.want {
			t.Errorf("%s: warned %d times, want %d:\n%s", test.policy, n, test.want, r.log)
		}
		if err := mustTake(t, r.of("shop"), "shop"); err != nil {
			t.Errorf("%s: %v", test.policy, err)
		}
	}
}

// Periods are as long as they should be, and namespaces change at different
// times.
func TestPeriods(t *testing.T) {
	t.Parallel()
	n := namer{cluster: "1a2b3c4d", key: make([]byte, keyBytes), rotation: time.Hour}
	now := time.Unix(1_764_500_000, 0)
	starts := map[int64]bool{}
	for i := range 100 {
		namespace := "ns-" + string(rune('a'+i%26)) + string(rune('a'+i/26))
		start := n.period(namespace, now)
		if start.After(now) || now.Sub(start) >= time.Hour || n.period(namespace, start) != start || n.period(namespace, start.Add(time.Hour)) != start.Add(time.Hour) {
			t.Errorf("%s: at %v the period began at %v", namespace, now, start)
		}
		starts[start.Unix()] = true
		latest, former := n.users(namespace, now)
		if previous, _ := n.users(namespace, now.Add(-time.Hour)); former != previous || latest == former || latest.password == former.password {
			t.Errorf("%s: the former user is %v, and an hour before it was %v", namespace, former.name, previous.name)
		}
	}
	if len(starts) < 90 {
		t.Errorf("100 namespaces change at %d times", len(starts))
	}
	if a, b := n.user("a", now), (namer{cluster: "1a2b3c4d", key: bytes.Repeat([]byte{1}, keyBytes), rotation: time.Hour}).user("a", now); a.name == b.name || a.password == b.password {
		t.Error("another key makes the same user")
	}
}

func TestParseMode(t *testing.T) {
	t.Parallel()
	for text, good := range map[string]bool{"auto": true, "always": true, "never": true, "": false, "Auto": false, "off": false} {
		if _, err := ParseMode(text); (err == nil) != good {
			t.Errorf("%q: error %v", text, err)
		}
	}
}
