package runner

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/redistest"
	"github.com/weir-dev/weir/worker/celery"
)

// waitTime bounds every wait of these tests.
const waitTime = 20 * time.Second

// stand is a Redis of the test's own with a broker on it.
type stand struct {
	t      *testing.T
	server *redistest.Server
	broker *celery.Broker
	redis  *redis.Client
}

func newStand(t *testing.T) *stand {
	t.Helper()
	server := redistest.Start(t)
	broker, err := celery.Open(server.URL(), celery.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	return &stand{t, server, broker, server.Client()}
}

// worker is a runner that runs until the test ends, or end is called.
type worker struct {
	*Runner
	t    *testing.T
	stop context.CancelFunc
	done chan error
	logs *logs
}

// start runs a worker of queue q.
func (s *stand) start(registry Registry, change ...func(*Config)) *worker {
	s.t.Helper()
	logs := &logs{}
	c := Config{
		Broker: s.broker, Registry: registry, Queues: []string{"q"}, Concurrency: 4, Hostname: "weir@test",
		Grace: waitTime, Retry: celery.RetryPolicy{MaxRetries: 2, InitialBackoff: time.Millisecond, MaxBackoff: time.Millisecond},
		TimeLimit: time.Minute, Lease: 2 * time.Second, Registerer: prometheus.NewRegistry(),
		Logger: slog.New(slog.NewTextHandler(logs, nil)),
	}
	for _, apply := range change {
		apply(&c)
	}
	r, err := New(c)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	w := &worker{Runner: r, t: s.t, stop: stop, done: make(chan error, 1), logs: logs}
	go func() { w.done <- r.Run(ctx) }()
	s.t.Cleanup(func() { _ = w.end() }) // which says so when it does not end
	return w
}

// end asks the worker to end and waits until it has.
func (w *worker) end() error {
	w.t.Helper()
	w.stop()
	select {
	case err := <-w.done:
		w.done <- err // for the next who asks
		return err
	case <-time.After(waitTime + 10*time.Second):
		w.t.Error("the worker does not end")
		return errors.New("the worker does not end")
	}
}

func (s *stand) send(call celery.Signature) {
	s.t.Helper()
	if call.Queue == "" {
		call.Queue = "q"
	}
	if err := s.broker.Enqueue(s.t.Context(), call); err != nil {
		s.t.Fatal(err)
	}
}

// waitResult waits until a call has this state.
func (s *stand) waitResult(id string, state celery.State) celery.Result {
	s.t.Helper()
	var last celery.Result
	s.wait("the result of "+id+" to be "+string(state), func() bool {
		var err error
		last, err = s.broker.ReadResult(s.t.Context(), id)
		return err == nil && last.State == state
	})
	return last
}

// wait waits until something is true.
func (s *stand) wait(what string, is func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(waitTime)
	for !is() {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %v for %s", waitTime, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// waitNothingHeld waits until everything is acknowledged.
func (s *stand) waitNothingHeld() {
	s.t.Helper()
	s.wait("nothing to be held", func() bool {
		ctx := s.t.Context()
		return s.redis.HLen(ctx, "unacked").Val()+s.redis.ZCard(ctx, "unacked_index").Val()+s.redis.ZCard(ctx, "weir.running").Val() == 0
	})
}

// letter is the only dead letter of queue q.
func (s *stand) letter() celery.DeadLetter {
	s.t.Helper()
	var letters []celery.DeadLetter
	s.wait("a dead letter", func() bool {
		var err error
		letters, _, err = s.broker.DeadLetters(s.t.Context(), "q", 10)
		return err == nil && len(letters) == 1
	})
	return letters[0]
}

// logs keeps what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
