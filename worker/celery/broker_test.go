package celery

import (
	"strings"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, url, want string }{
		{"no URL at all", "", "redis://[user:password@]host:port"},
		{"a host alone", "localhost:6379", "redis://"},
		{"a password with a bad escape", "redis://:s3cret%zz@host:6379", "%XX"},
		{"another scheme", "amqp://user:s3cret@host", "must begin with redis://"},
		{"a database that is no number", "redis://:s3cret@host/queue", "database number"},
		{"a cluster", "redis://:s3cret@host?cluster=true", "Redis Cluster"},
		{"an unknown parameter", "redis://:s3cret@host?timeout=3", "not known"},
		{"more sentinels without a master's name", "redis://:s3cret@host?addr=other:1", "master_name"},
		{"ssl parameters without TLS", "redis://:s3cret@host?ssl_cert_reqs=none", "rediss://"},
		{"an unknown way to verify", "rediss://:s3cret@host?ssl_cert_reqs=optional", "required nor none"},
		{"a file of authorities that is not there", "rediss://:s3cret@host?ssl_ca_certs=/nowhere/ca.pem", "no such file"},
	} {
		b, err := Open(c.url, Options{})
		if err == nil {
			_ = b.Close()
			t.Errorf("%s: %q was accepted", c.reason, c.url)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %q, want it to say %q", c.reason, err, c.want)
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error shows the password: %q", c.reason, err)
		}
	}
}

func TestErrorsHideThePasswordAndTheServer(t *testing.T) {
	t.Parallel()
	b, err := Open("redis://:s3cret-word@127.0.0.1:1/0", Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	err = b.Ping(t.Context())
	if err == nil {
		t.Fatal("nothing listens on port 1, but Ping got an answer")
	}
	if text := err.Error(); strings.Contains(text, "s3cret") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("the error says too much: %q", text)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server, authority := redistest.StartTLS(t, "--requirepass", "s3cret")
	for _, c := range []struct {
		reason, url, ca string
		works           bool
	}{
		{"with the server's authority", server.URL(), authority, true},
		{"with another authority", server.URL(), redistest.NewCA(t), false},
		{"with the system's authorities alone", server.URL(), "", false},
		{"unverified, as Celery's parameter says", server.URL() + "?ssl_cert_reqs=none", "", true},
	} {
		b, err := Open(c.url, Options{CABundle: []byte(c.ca)})
		if err != nil {
			t.Fatalf("%s: %v", c.reason, err)
		}
		err = b.Ping(t.Context())
		_ = b.Close()
		if (err == nil) != c.works {
			t.Errorf("%s: the error is %v, want an answer: %v", c.reason, err, c.works)
		}
	}
}

func TestPrioritiesAreKombus(t *testing.T) {
	t.Parallel()
	k := keys{"app:"}
	for priority, want := range map[int]string{
		0: "app:q", 2: "app:q", 3: "app:q\x06\x163", 5: "app:q\x06\x163", 6: "app:q\x06\x166", 9: "app:q\x06\x169", 12: "app:q\x06\x169", -1: "app:q",
	} {
		if got := k.list("q", priority); got != want {
			t.Errorf("priority %d is kept in %q, want %q", priority, got, want)
		}
	}
}

func TestCheckQueue(t *testing.T) {
	t.Parallel()
	for queue, fine := range map[string]bool{
		"celery": true, "chat.personality-1": true, "": false, "a b": false, "a,b": false, "a\x06\x163": false, "a*": false,
		"unacked": false, "weir.running": false, "_kombu.binding.x": false, "celery-task-meta-1": false, strings.Repeat("q", 201): false,
	} {
		if err := CheckQueue(queue); (err == nil) != fine {
			t.Errorf("%q: the error is %v, want it accepted: %v", queue, err, fine)
		}
	}
}
