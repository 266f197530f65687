package limiter

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxBatch bounds the takes of one call of the script, which keeps Redis from
// others for some 10 µs each.
const maxBatch = 128

// command is a take on its way to the script.
type command struct {
	verb, id string
	quotas   []quota
	// deadline of the answer.
	deadline time.Time
	// clock is nil but in tests: see Limiter.
	clock func() int64
	// done receives when reply or err is set, unless the command's own
	// goroutine does that.
	done  chan struct{}
	reply []int64 // 1 + 3 for each quota
	err   error
}

// batcher sends takes to Redis: at once when none is on the way, and those that
// came meanwhile together. So one that is alone waits for nobody, and many
// cost few round trips.
type batcher struct {
	client redis.Scripter

	mu      sync.Mutex
	flying  bool
	waiting []*command
}

// do has the script decide and returns when it has, or c's deadline has passed,
// or ctx has ended.
func (b *batcher) do(ctx context.Context, c *command) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.flying {
		c.done = make(chan struct{}, 1)
		b.waiting = append(b.waiting, c)
		b.mu.Unlock()
		select {
		case <-c.done:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.flying = true
	b.mu.Unlock()
	b.send([]*command{c})
	b.mu.Lock()
	next := b.next()
	b.mu.Unlock()
	if next != nil {
		go b.fly(next)
	}
	return c.err
}

// next takes the commands that go next; the caller holds mu. Without any,
// nothing is flying any more.
func (b *batcher) next() []*command {
	n := min(len(b.waiting), maxBatch)
	if n == 0 {
		b.flying = false
		return nil
	}
	batch := append([]*command(nil), b.waiting[:n]...)
	b.waiting = append(b.waiting[:0], b.waiting[n:]...)
	return batch
}

// fly sends batch after batch until none waits.
func (b *batcher) fly(batch []*command) {
	for batch != nil {
		b.send(batch)
		for _, c := range batch {
			c.done <- struct{}{}
		}
		b.mu.Lock()
		batch = b.next()
		b.mu.Unlock()
	}
}

// send has the script decide on a batch. When it fails on one of several, each
// is asked again by itself: what is wrong with one is not the others' fault,
// and a take that was counted counts once.
func (b *batcher) send(batch []*command) {
	err := b.call(batch)
	if _, ofServer := err.(redis.Error); ofServer && len(batch) > 1 { //nolint:errorlint // go-redis returns it as it is
		for i := range batch {
			batch[i].err = b.call(batch[i : i+1])
		}
		return
	}
	if err != nil {
		for _, c := range batch {
			c.err = err
		}
	}
}

// call is one round trip. The first of the batch waits the longest.
func (b *batcher) call(batch []*command) error {
	ctx, cancel := context.WithDeadline(context.Background(), batch[0].deadline)
	defer cancel()
	quotas := 0
	for _, c := range batch {
		quotas += len(c.quotas)
	}
	keys := make([]string, 0, quotas)
	args := make([]any, 0, 1+3*len(batch)+3*quotas)
	now := ""
	if clock := batch[0].clock; clock != nil {
		now = strconv.FormatInt(clock(), 10)
	}
	args = append(args, now)
	for _, c := range batch {
		args = append(args, c.verb, c.id, len(c.quotas))
		for i := range c.quotas {
			q := &c.quotas[i]
			keys = append(keys, q.key)
			args = append(args, q.limit.Requests, q.limit.WindowMillis*1000, q.cost)
		}
	}
	reply, err := takeScript.Run(ctx, b.client, keys, args...).Int64Slice()
	if err != nil {
		return err
	}
	if len(reply) != len(batch)+3*quotas {
		return fmt.Errorf("%d numbers instead of %d from the script", len(reply), len(batch)+3*quotas)
	}
	for _, c := range batch {
		n := 1 + 3*len(c.quotas)
		c.reply, reply = reply[:n], reply[n:]
	}
	return nil
}
