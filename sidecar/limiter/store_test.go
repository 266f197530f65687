package limiter

import (
	"errors"
	"strings"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/redistest"
)

func TestUseRefusesBadStores(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for _, test := range []struct {
		reason string
		store  ruleset.Store
		field  string
	}{
		{"nothing is written", ruleset.Store{TimeoutMillis: 1}, "url must begin with"},
		{"a scheme that is not Redis'", ruleset.Store{URL: "http://:hunter2@host", TimeoutMillis: 1}, "url must begin with"},
		{"a control character", ruleset.Store{URL: "redis://:hunter2@host\x7f", TimeoutMillis: 1}, "url cannot be read"},
		{"a password with a bare %", ruleset.Store{URL: "redis://:hunter2%@host", TimeoutMillis: 1}, "%XX"},
		{"no host", ruleset.Store{URL: "redis://:hunter2@", TimeoutMillis: 1}, "names no host"},
		{"a database with a name", ruleset.Store{URL: "redis://:hunter2@host/one", TimeoutMillis: 1}, "database number"},
		{"an option of the client library, which could turn verification off",
			ruleset.Store{URL: "rediss://:hunter2@host?skip_verify=true", TimeoutMillis: 1}, "parameter"},
		{"cluster is neither true nor false", ruleset.Store{URL: "redis://:hunter2@host?cluster=hunter2", TimeoutMillis: 1}, "cluster parameter"},
		{"a node that is none", ruleset.Store{URL: "redis://:hunter2@host?cluster=true&addr=hunter2/", TimeoutMillis: 1}, "addr parameter"},
		{"nodes without a cluster", ruleset.Store{URL: "redis://:hunter2@host?addr=b:1", TimeoutMillis: 1}, "addr parameters"},
		{"sentinels without a master", ruleset.Store{URL: "redis://:hunter2@host?sentinel_password=hunter2", TimeoutMillis: 1}, "master_name"},
		{"another clock", ruleset.Store{URL: "redis://:hunter2@host?clock=hunter2", TimeoutMillis: 1}, "clock parameter"},
		{"a database in a cluster", ruleset.Store{URL: "redis://:hunter2@host/3?cluster=true", TimeoutMillis: 1}, "database"},
		{"a bundle that is no PEM", ruleset.Store{URL: "rediss://:hunter2@host", CABundle: "hunter2", TimeoutMillis: 1}, "caBundle"},
		{"a bundle without TLS", ruleset.Store{URL: "redis://:hunter2@host", CABundle: "hunter2", TimeoutMillis: 1}, "rediss://"},
		{"no timeout", ruleset.Store{URL: "redis://:hunter2@host"}, "timeoutMillis"},
		{"an hour's timeout", ruleset.Store{URL: "redis://:hunter2@host", TimeoutMillis: 3_600_000}, "timeoutMillis"},
	} {
		l := New(Options{})
		err := l.Use(&test.store)
		if err == nil || !strings.Contains(err.Error(), test.field) {
			t.Errorf("%s: error %v, want one that says %q", test.reason, err, test.field)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the secret: %v", test.reason, err)
		}
		if errors.Is(err, ErrStore) {
			t.Errorf("%s: the error is ErrStore", test.reason)
		}
	}
}

// A store that cannot be used leaves the one in use alone.
func TestUseKeepsTheOldStoreOnError(t *testing.T) {
	t.Parallel()
	l := newLimiter(t, redistest.Start(t).URL())
	if err := l.Use(&ruleset.Store{URL: "nonsense", TimeoutMillis: 1}); err == nil {
		t.Fatal("want an error")
	}
	if !mustTake(t, l, perMinute("u", 1)).Admitted {
		t.Error("the old store refused")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server, authority := redistest.StartTLS(t)
	for _, test := range []struct {
		reason  string
		store   ruleset.Store
		err     string
		warning bool
	}{
		{reason: "the authority is given", store: ruleset.Store{URL: server.URL(), CABundle: authority}},
		{reason: "the system's roots did not sign it", store: ruleset.Store{URL: server.URL()}, err: "caBundle"},
		{reason: "another authority is given", store: ruleset.Store{URL: server.URL(), CABundle: redistest.NewCA(t)}, err: "caBundle"},
		{reason: "the name is another", err: "another host name", store: ruleset.Store{
			URL: strings.Replace(server.URL(), "127.0.0.1", "localhost", 1), CABundle: authority}},
		{reason: "verification is turned off", store: ruleset.Store{URL: server.URL(), InsecureSkipVerify: true}, warning: true},
		{reason: "the server wants TLS", store: ruleset.Store{URL: "redis://" + server.Addr}, err: "rediss://"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			test.store.TimeoutMillis = patience.Milliseconds()
			l, log := newLimiterOf(t, test.store)
			decision, err := l.Take(t.Context(), []Take{perMinute("u", 100)})
			if test.err == "" && (err != nil || !decision.Admitted) {
				t.Errorf("%+v, error %v, want admitted", decision, err)
			}
			if test.err != "" && (!errors.Is(err, ErrStore) || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("error %v, want ErrStore that says %q", err, test.err)
			}
			if n := log.count("certificate is not verified"); (n == 1) != test.warning || n > 1 {
				t.Errorf("warned %d times of an unverified certificate, want it: %v", n, test.warning)
			}
		})
	}
}

// Hosted services have TLS, the default user with a token, and do not know much of
// what clients say: a connection needs AUTH alone, and SELECT of another database.
func TestHostedService(t *testing.T) {
	t.Parallel()
	args := []string{"--requirepass", "t0ken"}
	for _, command := range []string{"HELLO", "CLIENT", "COMMAND", "CONFIG", "ACL", "INFO", "SCRIPT", "WAIT", "READONLY"} {
		args = append(args, "--rename-command", command, "")
	}
	server, authority := redistest.StartTLS(t, args...)
	for _, path := range []string{"", "/1", "/2?clock=caller"} {
		at := strings.Replace(server.URL(), "://:", "://default:", 1) + path
		l, log := newLimiterOf(t, ruleset.Store{URL: at, CABundle: authority, TimeoutMillis: patience.Milliseconds()})
		everything(t, l, func() {})
		if log.String() != "" {
			t.Errorf("%s: logged: %s", path, log)
		}
	}
}

// The password, the URL and the address are in no error and in no log.
func TestSecretsAreNotTold(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, "--requirepass", "correct-horse")
	for _, test := range []struct{ reason, url, secret, says string }{
		{"a wrong password", "redis://:battery%2Fstaple@" + server.Addr, "battery", "WRONGPASS"},
		{"a wrong user", "redis://somebody:battery%2Fstaple@" + server.Addr, "somebody", "WRONGPASS"},
		{"no password", server.Addr, server.Addr, "NOAUTH"},
		{"a host that does not resolve", "redis://:battery%2Fstaple@nowhere.invalid:6379", "nowhere", "resolved"},
		{"a port that refuses", "redis://:battery%2Fstaple@127.0.0.1:1", "127.0.0.1", "connection refused"},
		{"a cluster that is none", "redis://:correct-horse@" + server.Addr + "?cluster=true", "correct", "cluster support disabled"},
	} {
		t.Run(test.reason, func(t *testing.T) {
			if !strings.Contains(test.url, "://") {
				test.url = "redis://" + test.url
			}
			l, log := newLimiterOf(t, ruleset.Store{URL: test.url, TimeoutMillis: patience.Milliseconds()})
			_, err := l.Take(t.Context(), []Take{perMinute("u", 100)})
			if !errors.Is(err, ErrStore) || !strings.Contains(err.Error(), test.says) {
				t.Errorf("error %v, want ErrStore that says %q", err, test.says)
			}
			eventually(t, "the failure is logged", func() bool { return log.count("does not answer") == 1 })
			for _, text := range []string{err.Error(), log.String()} {
				for _, secret := range []string{test.secret, test.url, "staple", "correct-horse", server.Addr} {
					if strings.Contains(text, secret) {
						t.Errorf("%q is told: %s", secret, text)
					}
				}
			}
		})
	}

	right := newLimiter(t, server.URL())
	if !mustTake(t, right, perMinute("u", 1)).Admitted {
		t.Error("refused with the right password")
	}
}
