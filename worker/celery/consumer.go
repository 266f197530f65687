package celery

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

const (
	// DefaultLease is how long a worker may be silent before what it runs is
	// given to others.
	DefaultLease = 30 * time.Second
	// DefaultDeadLetters of a queue that are kept.
	DefaultDeadLetters = 1000
)

// ConsumerOptions say what is taken.
type ConsumerOptions struct {
	// Queues, first to last.
	Queues []string
	// Lease; DefaultLease when zero.
	Lease time.Duration
	// DeadLetters that are kept for a queue; DefaultDeadLetters when zero.
	DeadLetters int
	// Hostname is the worker's node name, which results say; empty: none.
	Hostname string
}

// Consumer takes messages from some queues. Its methods may be called at the
// same time.
type Consumer struct {
	b     *Broker
	o     ConsumerOptions
	name  string // of this consumer, in tags
	calls atomic.Int64
	// lists of all queues by priority; turn rotates the queues.
	turn atomic.Int64
}

// Delivery is a message that was taken and is not acknowledged yet.
type Delivery struct {
	// Message is nil when it cannot be read: DecodeError says why.
	*Message
	DecodeError error
	// Raw is the message as it stood in the queue.
	Raw   string
	Queue string
	Tag   string
	// Revoked says that somebody revoked the call before.
	Revoked bool
	// BeganAt is when its run began, which results say; zero: it has not.
	BeganAt time.Time
}

// NewConsumer checks the queues' names.
func (b *Broker) NewConsumer(o ConsumerOptions) (*Consumer, error) {
	if len(o.Queues) == 0 {
		return nil, errors.New("no queue is named")
	}
	for _, queue := range o.Queues {
		if err := CheckQueue(queue); err != nil {
			return nil, err
		}
	}
	if o.Lease <= 0 {
		o.Lease = DefaultLease
	}
	if o.DeadLetters <= 0 {
		o.DeadLetters = DefaultDeadLetters
	}
	return &Consumer{b: b, o: o, name: uuid.NewString()[:18]}, nil
}

// maxTake bounds one exchange.
const maxTake = 256

// Take takes at most limit messages, without waiting for any.
func (c *Consumer) Take(ctx context.Context, limit int) ([]Delivery, error) {
	keys := []string{c.b.keys.unacked(), c.b.keys.unackedIndex(), c.b.keys.running(), c.b.keys.revoked()}
	args := []any{min(limit, maxTake)}
	call := c.name + "." + strconv.FormatInt(c.calls.Add(1), 36) + "."
	first := int(c.turn.Add(1))
	var queues []string // of each list
	for _, step := range prioritySteps {
		for i := range c.o.Queues {
			queue := c.o.Queues[(first+i)%len(c.o.Queues)]
			keys = append(keys, c.b.keys.list(queue, step))
			args = append(args, takenTag(queue)+call, string(encoded(queue)))
			queues = append(queues, queue)
		}
	}
	reply, err := takeScript.Run(ctx, c.b.client, keys, args...).Slice()
	if err != nil {
		return nil, c.b.explain("taking messages", err)
	}
	taken := make([]Delivery, 0, len(reply))
	for _, item := range reply {
		fields := item.([]any)
		d := Delivery{Raw: fields[0].(string), Tag: fields[1].(string), Queue: queues[fields[2].(int64)-1], Revoked: fields[3].(int64) == 1}
		d.Message, d.DecodeError = Decode(d.Raw)
		taken = append(taken, d)
	}
	return taken, nil
}

// Refresh is the heartbeat of deliveries; it must come well within the lease.
// It returns the tags that have been given to others.
func (c *Consumer) Refresh(ctx context.Context, tags []string) (lost []string, err error) {
	if len(tags) == 0 {
		return nil, nil
	}
	args := make([]any, len(tags))
	for i, tag := range tags {
		args[i] = tag
	}
	lost, err = refreshScript.Run(ctx, c.b.client, []string{c.b.keys.unacked(), c.b.keys.unackedIndex(), c.b.keys.running()}, args...).StringSlice()
	return lost, c.b.explain("refreshing what is running", err)
}

// Waiter waits for messages without taking any.
type Waiter struct {
	wake chan struct{}
	idle []chan struct{} // of each list: look once more
}

// waitTime is the longest that a connection waits in Redis.
const waitTime = 2 * time.Second

// NewWaiter starts to wait when Idle is called, on one connection for each list.
// ctx ends it.
func (c *Consumer) NewWaiter(ctx context.Context) *Waiter {
	var lists []string
	for _, queue := range c.o.Queues {
		lists = append(lists, c.b.keys.lists(queue)...)
	}
	client := c.b.dedicated(len(lists), waitTime)
	w := &Waiter{wake: make(chan struct{}, 1)}
	for _, list := range lists {
		idle := make(chan struct{}, 1)
		w.idle = append(w.idle, idle)
		go func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-idle:
				}
				// Moving a list's next element to where it is changes nothing,
				// but waits until there is one.
				err := client.BLMove(ctx, list, list, "RIGHT", "RIGHT", waitTime).Err()
				if err == nil {
					select {
					case w.wake <- struct{}{}:
					default:
					}
				}
			}
		}()
	}
	context.AfterFunc(ctx, func() { _ = client.Close() }) // ends the waiting reads
	return w
}

// Idle says that nothing was there. Something may be when the channel speaks,
// and must be looked for every second or so in any case.
func (w *Waiter) Idle() <-chan struct{} {
	for _, idle := range w.idle {
		select {
		case idle <- struct{}{}:
		default: // it waits already
		}
	}
	return w.wake
}
