package celery

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/test/redistest"
)

// fixture is a broker on a Redis of the test's own.
type fixture struct {
	*Broker
	t     *testing.T
	redis *redis.Client
}

func newFixture(t *testing.T, o Options) *fixture {
	t.Helper()
	server := redistest.Start(t)
	b, err := Open(server.URL(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return &fixture{b, t, server.Client()}
}

func (f *fixture) consumer(o ConsumerOptions) *Consumer {
	f.t.Helper()
	if o.Queues == nil {
		o.Queues = []string{"q"}
	}
	c, err := f.NewConsumer(o)
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// enqueue sends calls of task t with these ids to queue q.
func (f *fixture) enqueue(ids ...string) {
	f.t.Helper()
	for _, id := range ids {
		f.send(Signature{ID: id, Task: "t", Queue: "q"})
	}
}

func (f *fixture) send(call Signature) {
	f.t.Helper()
	if err := f.Enqueue(f.t.Context(), call); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) take(c *Consumer, limit int) []Delivery {
	f.t.Helper()
	taken, err := c.Take(f.t.Context(), limit)
	if err != nil {
		f.t.Fatal(err)
	}
	return taken
}

func (f *fixture) takeOne(c *Consumer) *Delivery {
	f.t.Helper()
	taken := f.take(c, 1)
	if len(taken) != 1 {
		f.t.Fatalf("took %d messages, want 1", len(taken))
	}
	return &taken[0]
}

func (f *fixture) finish(c *Consumer, endings ...Ending) (lost int) {
	f.t.Helper()
	lost, err := c.Finish(f.t.Context(), endings)
	if err != nil {
		f.t.Fatal(err)
	}
	return lost
}

func (f *fixture) restore(c *Consumer) Restored {
	f.t.Helper()
	restored, err := c.Restore(f.t.Context(), 3)
	if err != nil {
		f.t.Fatal(err)
	}
	return restored
}

// held fails unless so many messages are in unacked, its index and weir.running.
func (f *fixture) held(when string, unacked, index, running int64) {
	f.t.Helper()
	ctx := f.t.Context()
	got := [3]int64{f.redis.HLen(ctx, "unacked").Val(), f.redis.ZCard(ctx, "unacked_index").Val(), f.redis.ZCard(ctx, "weir.running").Val()}
	if want := [3]int64{unacked, index, running}; got != want {
		f.t.Errorf("%s: unacked, unacked_index and weir.running hold %v messages, want %v", when, got, want)
	}
}

// age makes what is held look as if it had been taken, and run, long ago.
func (f *fixture) age(by time.Duration) {
	f.t.Helper()
	ctx := f.t.Context()
	for _, key := range []string{"unacked_index", "weir.running"} {
		for _, tag := range f.redis.ZRange(ctx, key, 0, -1).Val() {
			f.redis.ZIncrBy(ctx, key, -by.Seconds(), tag)
		}
	}
}

func (f *fixture) result(id string) Result {
	f.t.Helper()
	r, err := f.ReadResult(f.t.Context(), id)
	if err != nil {
		f.t.Fatal(err)
	}
	return r
}

func idsOf(deliveries []Delivery) []string {
	ids := []string{}
	for i := range deliveries {
		ids = append(ids, deliveries[i].ID)
	}
	return ids
}

func (f *fixture) expectIDs(when string, got []Delivery, want ...string) {
	f.t.Helper()
	if ids := idsOf(got); !slices.Equal(ids, want) {
		f.t.Errorf("%s: took %v, want %v", when, ids, want)
	}
}

func numbered(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("id-%d", i)
	}
	return ids
}

func zed(score float64, member string) redis.Z { return redis.Z{Score: score, Member: member} }
