package interop

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// password that must not be shown, in no form.
const password = "s3cret/@%" // with what a URL must escape

func hidden(t *testing.T, p *process) {
	t.Helper()
	for _, form := range []string{password, url.QueryEscape(password), url.PathEscape(password), url.UserPassword("", password).String(), "s3cret"} {
		if strings.Contains(p.out.String(), form) {
			t.Errorf("%s shows the password:\n%s", p.name, p.out.String())
			return
		}
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	redis, authority := redistest.StartTLS(t, "--requirepass", password)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(authority), 0o600); err != nil {
		t.Fatal(err)
	}
	python := newCaller(t, redis.URL(), "INTEROP_CA="+file)
	trusted := redis.URL() + "?ssl_cert_reqs=required&ssl_ca_certs=" + url.QueryEscape(file)
	ours := counting(t, trusted, "")
	if got := value[int](python, `get(send("record", 7))`); got != 7 {
		t.Errorf("got %d", got)
	}

	redis.Kill()
	ours.says("Redis does not answer")
	redis.Restart()
	ours.says("Redis answers again")
	if got := value[int](python, `get(send("record", 8))`); got != 8 {
		t.Errorf("after a restart of Redis: got %d", got)
	}
	hidden(t, ours)

	// A server that cannot be verified gets nothing, the password neither.
	for _, c := range []struct{ what, url, want string }{
		{"an unknown authority", redis.URL(), "certificate"},
		{"a missing file", redis.URL() + "?ssl_ca_certs=/nowhere", "ssl_ca_certs"},
		{"a wrong password", strings.Replace(trusted, ":s3cret", ":s3cret2", 1), "WRONGPASS"},
	} {
		p := startProcess(t, "worker enqueue with "+c.what, nil, nil, []string{"CELERY_BROKER_URL=" + c.url}, workerBinary,
			"enqueue", "--task", "t", "--periodic-task", "a/b", "--uid", "u", "--job", "j")
		if code := p.ends(); code == 0 || !strings.Contains(p.out.String(), c.want) {
			t.Errorf("%s: want a failure that says %q, got exit code %d and %s", c.what, c.want, code, p.out.String())
		}
		hidden(t, p)
	}
}

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	sentinel := redistest.StartSentinel(t, redistest.SentinelOptions{Password: password, SentinelPassword: "s3ntinel"})
	address := sentinel.URL()
	broker, err := celery.Open(address, celery.Options{})
	if err != nil {
		t.Fatalf("opening the broker: %v", err)
	}
	defer func() { _ = broker.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	send := func(first, calls int) {
		t.Helper()
		var signatures []celery.Signature
		for n := first; n < first+calls; n++ {
			signatures = append(signatures, celery.Signature{Task: "record", Args: []any{n, 100}, Queue: "celery"})
		}
		eventually(t, patience, "calls are enqueued", func() bool { return broker.Enqueue(ctx, signatures...) == nil })
	}
	ours := counting(t, address, "", "--timeout", "1s", "--lease", "2s")
	send(0, 100)
	eventually(t, patience, "some have run", func() bool { return len(ran(t, broker.Client(), "interop:runs").byN) > 10 })
	// What the master has answered but not passed on yet is lost with it, by
	// Redis's own promise: so all is there before it dies.
	if n, err := sentinel.Master.Client().Wait(ctx, 1, patience).Result(); err != nil || n != 1 {
		t.Fatalf("waiting for the replica: %d, %v", n, err)
	}
	start := time.Now()
	sentinel.FailOver(ctx)
	failover := time.Since(start)
	send(100, 20)
	client := sentinel.Replica.Client()
	eventually(t, patience, "the worker has gone on, on the new master", func() bool {
		return len(ran(t, client, "interop:runs").byN) == 120
	})
	t.Logf("failover in %v, all run after %v", failover.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	settled(t, client)
	hidden(t, ours)
	for line := range strings.SplitSeq(strings.TrimSpace(ours.out.String()), "\n") {
		if !strings.HasPrefix(line, "{") {
			t.Errorf("want JSON logs only, got %s", line)
		}
	}
}

// Celery's global_keyprefix, and a database with a number: everything is there,
// and only there.
func TestKeyPrefix(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	address, env := redis.URL()+"/3", []string{"CELERY_GLOBAL_KEYPREFIX=team:"}
	python := newCaller(t, address, env...)
	ours := startProcess(t, "the worker", nil, nil, append(env, "CELERY_BROKER_URL="+address), workerBinary,
		"run", "--metrics-address", "0", "--hostname", "weir@one")
	ours.says("taking tasks")
	ids := value[[]string](python, `[send("debug_task"), app.send_task("debug_task", countdown=1).id]`)
	conn := redis.Client().Conn()
	defer func() { _ = conn.Close() }()
	if err := conn.Select(t.Context(), 3).Err(); err != nil {
		t.Fatal(err)
	}
	// Celery 5.2's result backend does not know the prefix yet, so Python cannot
	// be asked.
	for _, id := range ids {
		eventually(t, patience, "a result with the prefix", func() bool {
			return strings.Contains(conn.Get(t.Context(), "team:celery-task-meta-"+id).Val(), "SUCCESS")
		})
	}
	eventually(t, patience, "inspect shows the worker", func() bool {
		return strings.Contains(string(python.ask(`app.control.inspect(timeout=0.5).ping()`).Value), "weir@one")
	})
	if keys := redis.Client().Keys(t.Context(), "*").Val(); len(keys) > 0 {
		t.Errorf("want nothing in database 0, got %q", keys)
	}
	for _, key := range conn.Keys(t.Context(), "*").Val() {
		if !strings.HasPrefix(key, "team:") {
			t.Errorf("want keys with the prefix only, got %q", key)
		}
	}
}
