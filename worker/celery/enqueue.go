package celery

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// onceTTL is how long it is remembered what a call or a Job has enqueued: longer
// than it is retried or redelivered.
const onceTTL = 24 * time.Hour

// enqueueBatch bounds one script's run.
const enqueueBatch = 500

// origin of messages: who made them, in Celery's form.
var origin = func() string {
	host, err := os.Hostname()
	if err != nil {
		host = "weir"
	}
	return strconv.Itoa(os.Getpid()) + "@" + host
}()

// Enqueue sends calls. Those without an id get one.
func (b *Broker) Enqueue(ctx context.Context, calls ...Signature) error {
	for i := range calls {
		if calls[i].ID == "" {
			calls[i].ID = uuid.NewString()
		}
	}
	return b.EnqueueOnce(ctx, uuid.NewString(), time.Minute, calls...)
}

// EnqueueOnce sends calls that have ids, each once however often it is asked to
// under the same scope within ttl.
func (b *Broker) EnqueueOnce(ctx context.Context, scope string, ttl time.Duration, calls ...Signature) error {
	now := time.Now()
	for len(calls) > 0 {
		batch := calls[:min(len(calls), enqueueBatch)]
		calls = calls[len(batch):]
		keys := []string{b.keys.once(scope)}
		args := []any{ttl.Milliseconds()}
		for i := range batch {
			if err := CheckQueue(batch[i].Queue); err != nil {
				return fmt.Errorf("enqueuing %s: %w", batch[i].Task, err)
			}
			message, err := batch[i].Encode(now, origin)
			if err != nil {
				return err
			}
			keys = append(keys, b.keys.list(batch[i].Queue, batch[i].Priority), b.keys.result(batch[i].ID))
			args = append(args, batch[i].ID, message, "", 0)
		}
		if err := enqueueScript.Run(ctx, b.client, keys, args...).Err(); err != nil {
			return b.explain("enqueuing calls", err)
		}
	}
	return nil
}
