package runner

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// While the end of an unreadable message is on its way, it is no run to announce.
func TestAnUnreadableMessageIsNotAnnounced(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	r := s.start(Registry{}).Runner
	r.mu.Lock()
	r.running["tag"] = &run{Delivery: &celery.Delivery{Tag: "tag", Queue: "q", BeganAt: time.Now().Add(-time.Minute)}}
	r.mu.Unlock()
	s.wait("the loop to pass it", func() bool {
		return r.consumer.Started(t.Context(), []*celery.Delivery{{Tag: "tag"}}, nil, time.Now(), r.resultTTL) == nil
	})
	time.Sleep(3 * announceAfter) // the loop would panic
	r.mu.Lock()
	delete(r.running, "tag")
	r.mu.Unlock()
}

func TestHostileRetriesDelayNothing(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		delay(celery.RetryPolicy{MaxRetries: 1 << 62, MaxBackoff: time.Hour}, 1<<61, nil)
	}()
	select {
	case <-ended:
	case <-time.After(waitTime):
		t.Fatal("the delay is still being computed")
	}
}

// A refusal that stays is said now and then, and other queues are worked off.
func TestAQueueOfAnotherTypeHoldsNoOtherUp(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.redis.HSet(t.Context(), "b", "no", "list")
	began := time.Now()
	w := s.start(Registry{"t": fails(nil)}, func(c *Config) { c.Queues = []string{"a", "b"} })
	for _, id := range []string{"1", "2", "3", "4", "5"} {
		s.send(celery.Signature{ID: id, Task: "t", Queue: "a"})
		s.waitResult(id, celery.Success)
	}
	s.waitNothingHeld()
	time.Sleep(time.Second)
	if n := strings.Count(w.logs.String(), "Redis refuses what it was asked"); n < 1 || n > 1+int(time.Since(began)/complaintInterval) {
		t.Errorf("the refusal was logged %d times in %v, want once in %v", n, time.Since(began), complaintInterval)
	}
}

// An outage longer than the lease ends no worker: what they run must not be
// given to others when Redis is back.
func TestAnOutageLongerThanTheLease(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.AOF()...)
	broker, err := celery.Open(server.URL(), celery.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	s := &stand{t, server, broker, server.Client()}
	release := make(chan struct{})
	var runs atomic.Int64
	registry := Registry{"long": counted(&runs, func(context.Context, *Call) (any, error) { <-release; return nil, nil })}
	var workers []*worker
	for range 2 {
		workers = append(workers, s.start(registry, func(c *Config) { c.Lease = 3 * time.Second }))
	}
	for _, id := range []string{"1", "2", "3"} {
		s.send(celery.Signature{ID: id, Task: "long"})
		s.waitResult(id, celery.Started)
	}
	server.Kill()
	time.Sleep(4 * time.Second)
	server.Restart()
	for _, w := range workers {
		s.wait("the worker to be ready again", w.Ready)
	}
	time.Sleep(afterOutage + 2*restoreInterval)
	close(release)
	s.waitNothingHeld()
	if n := runs.Load(); n != 3 {
		t.Errorf("3 calls ran %d times", n)
	}
}

// A Python worker of the queue may know the task, and carry out what follows.
func TestAnUnknownTaskWithAWorkflowIsPassedOn(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	w := s.start(Registry{})
	body := base64.StdEncoding.EncodeToString([]byte(`[[],{},{"callbacks":null,"errbacks":null,"chain":[{"task":"x"}],"chord":null}]`))
	s.redis.LPush(t.Context(), "q", `{"body":"`+body+`","content-encoding":"utf-8","content-type":"application/json",`+
		`"headers":{"id":"a","task":"python"},"properties":{"body_encoding":"base64","delivery_info":{},"priority":0}}`)
	s.wait("the message to be parked", func() bool {
		tags := s.redis.HKeys(t.Context(), "unacked").Val()
		return len(tags) == 1 && strings.HasPrefix(tags[0], "parked ")
	})
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

// A worker that passed a task on leaves it to others, though Redis wakes it before
// them each time.
func TestWhoPassedATaskOnGivesWay(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.start(Registry{})
	s.redis.LPush(t.Context(), "q", unknownMessage(maxPasses-3))
	s.wait("the message to be parked, and its worker to wait again", func() bool {
		return s.redis.HLen(t.Context(), "unacked").Val() == 1 && strings.Contains(s.redis.ClientList(t.Context()).Val(), "cmd=blmove")
	})
	s.start(Registry{"new": fails(nil)})
	s.waitResult(fmt.Sprint(maxPasses-3), celery.Success)
}

// unknownMessage calls the task "new", and was passed on so often, which is its id.
func unknownMessage(passes int) string {
	body := base64.StdEncoding.EncodeToString([]byte(`[[],{},{}]`))
	return fmt.Sprintf(`{"body":%q,"content-encoding":"utf-8","content-type":"application/json",`+
		`"headers":{"id":"%d","task":"new","weir":{"passes":%[2]d}},"properties":{"body_encoding":"base64","delivery_info":{},"priority":0}}`, body, passes)
}

// A rollout that adds a task goes on for a while with workers that do not know
// it: they pass it on for a minute, and only then it is a dead letter.
func TestAnUnknownTaskIsPassedOnForAMinute(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.redis.LPush(t.Context(), "q", unknownMessage(maxPasses), unknownMessage(maxPasses/2))
	s.start(Registry{})
	if letter := s.letter(); letter.Reason != "unknown" || letter.ID != fmt.Sprint(maxPasses) {
		t.Errorf("the dead letter is %+v", letter)
	}
	s.start(Registry{"new": fails(nil)})
	s.waitResult(fmt.Sprint(maxPasses/2), celery.Success)
	for range 1000 {
		if d := passDelay(); d < time.Second/2 || d >= 3*time.Second/2 {
			t.Fatalf("a message would be passed on after %v", d)
		}
	}
}
