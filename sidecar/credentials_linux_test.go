package main

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/report"
	"github.com/weir-dev/weir/test/netns"
)

// The operator gives the sidecar another user of Redis over the link, and then
// the former is removed: under load each request is decided all the same. Those
// that Redis does not decide would be refused (onStoreFailure: Deny).
func TestAnotherCredentialLosesNoRequest(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	serve(t, p.Host, netns.Pod4+":8080", names)
	admin := redis.NewClient(&redis.Options{
		Protocol: 2, DisableIdentity: true,
		Dialer: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return p.peer.Dial(ctx, net.Dialer{}, 0, netns.Peer4+":6379")
		},
	})
	t.Cleanup(func() { _ = admin.Close() })
	acl := func(words ...any) {
		t.Helper()
		if err := admin.Do(t.Context(), append([]any{"ACL"}, words...)...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	program := func(user string) {
		t.Helper()
		rules := p.rules(100) // counted exactly: each request asks Redis
		rights, err := report.Rights(rules.Namespace, *rules.Store)
		if err != nil {
			t.Fatal(err)
		}
		words := []any{"SETUSER", user, "reset", "on", ">pass"}
		for _, right := range rights {
			words = append(words, right)
		}
		acl(words...)
		rules.Store.URL = "redis://" + user + ":pass@" + netns.Peer4 + ":6379"
		p.operator.program(rules)
	}
	program("user-0")
	p.start(bootstrap(p.rules(100)))
	p.eventually("the first credential is in use", p.operator.enforced)

	load, stop := context.WithCancel(t.Context())
	defer stop()
	var served atomic.Int64
	var all sync.WaitGroup
	for worker := range 4 {
		client := p.from(p.peer, 0)
		all.Go(func() {
			for n := 0; load.Err() == nil; n++ {
				user := strconv.Itoa(worker) + "-" + strconv.Itoa(n/100)
				status, _, err := p.try(client, "http://"+netns.Pod4+":8080/", "bondhu", user)
				if err != nil || status != http.StatusOK {
					t.Errorf("a request as %s: status %d, error %v", user, status, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for n := 1; n <= 5; n++ {
		before := served.Load()
		p.eventually("requests pass", func() error { return atLeast(&served, before+50) })
		program("user-" + strconv.Itoa(n))
		p.eventually("the next credential is in use", p.operator.enforced)
		// What was under way has ended; the operator waits a whole period.
		before = served.Load()
		p.eventually("requests pass", func() error { return atLeast(&served, before+50) })
		acl("DELUSER", "user-"+strconv.Itoa(n-1))
	}
	stop()
	all.Wait()
	t.Logf("%d requests over 5 rotations", served.Load())
}

type tooFew int64

func (f tooFew) Error() string { return "only " + strconv.FormatInt(int64(f), 10) }

func atLeast(count *atomic.Int64, want int64) error {
	if got := count.Load(); got < want {
		return tooFew(got)
	}
	return nil
}
