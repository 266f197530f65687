package redistest

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func TestServer(t *testing.T) {
	t.Parallel()
	s := Start(t, "--requirepass", "s3cret/@")
	options, err := redis.ParseURL(s.URL())
	if err != nil {
		t.Fatalf("URL() cannot be parsed: %v", err)
	}
	if options.Password != "s3cret/@" || options.Addr != s.Addr {
		t.Errorf("URL() says password %q at %s", options.Password, options.Addr)
	}
	client, ctx := s.Client(), t.Context()
	if err := client.Set(ctx, "key", 1, 0).Err(); err != nil {
		t.Fatalf("writing: %v", err)
	}

	s.Pause()
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := client.Ping(short).Err(); err == nil {
		t.Error("a paused server answered")
	}
	s.Resume()
	if err := client.Ping(ctx).Err(); err != nil {
		t.Errorf("after Resume: %v", err)
	}

	s.Restart()
	if n, err := client.Exists(ctx, "key").Result(); err != nil || n != 0 {
		t.Errorf("after Restart: want an empty server, got %d keys, error %v", n, err)
	}
	s.Kill()
	short, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := client.Ping(short).Err(); err == nil {
		t.Error("a killed server answered")
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	s, caPEM := StartTLS(t)
	if err := s.Client().Ping(t.Context()).Err(); err != nil {
		t.Errorf("asking over TLS: %v", err)
	}
	if caPEM == "" || caPEM == NewCA(t) {
		t.Error("want an authority of the server's own")
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	c := StartCluster(t)
	client := c.Client()
	for _, key := range []string{"a", "b", "c", "d", "e", "f"} {
		if err := client.Set(t.Context(), key, key, 0).Err(); err != nil {
			t.Errorf("writing %s: %v", key, err)
		}
	}
}

func TestAOF(t *testing.T) {
	t.Parallel()
	s := Start(t, AOF()...)
	client := s.Client()
	if err := client.Set(t.Context(), "key", "kept", 0).Err(); err != nil {
		t.Fatalf("writing: %v", err)
	}
	s.Restart()
	if got, err := client.Get(t.Context(), "key").Result(); err != nil || got != "kept" {
		t.Errorf("after Restart: want what was written, got %q, error %v", got, err)
	}
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	for _, options := range []SentinelOptions{{}, {Password: "s3cret/@", SentinelPassword: "0ther", TLS: true}} {
		s := StartSentinel(t, options)
		failover := &redis.FailoverOptions{
			MasterName: s.MasterName, SentinelAddrs: []string{s.Sentinels[2].Addr},
			Password: options.Password, SentinelPassword: options.SentinelPassword, TLSConfig: s.Master.Client().Options().TLSConfig,
		}
		client := redis.NewFailoverClient(failover)
		defer func() { _ = client.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
		defer cancel()
		if err := client.Set(ctx, "key", "kept", 0).Err(); err != nil {
			t.Fatalf("writing to the master: %v", err)
		}
		if n, err := client.Wait(ctx, 1, startTimeout).Result(); err != nil || n != 1 {
			t.Fatalf("waiting for the replica: %d have it, error %v", n, err)
		}
		s.FailOver(ctx)
		if got, err := client.Get(ctx, "key").Result(); err != nil || got != "kept" {
			t.Errorf("after the failover: want what was written, got %q, error %v", got, err)
		}
	}
}
