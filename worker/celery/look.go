package celery

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Occurrence is one that a Job of a PeriodicTask made.
type Occurrence struct {
	ID, Job string
	At      time.Time
}

// Look is what a PeriodicTask's status shows.
type Look struct {
	// Waiting, Delayed (by their eta) and Running messages of the queue.
	Waiting, Delayed, Running int64
	// Last occurrence that was enqueued; zero: none yet.
	Last Occurrence
	// Skipped is the newest that was left out. Replaced is the newest run that
	// was revoked, by its id and the Job that did it.
	Skipped, Replaced Occurrence
	// Result of the last occurrence.
	Result Result
}

// unackedShown bounds how many unacknowledged messages are looked at.
const unackedShown = 10_000

// Look reads what a PeriodicTask's status shows. periodicTask is
// "namespace/name".
func (b *Broker) Look(ctx context.Context, periodicTask, queue string) (Look, error) {
	doing := "looking at queue " + queue
	pipe := b.client.Pipeline()
	var lengths []*redis.IntCmd
	for _, list := range b.keys.lists(queue) {
		lengths = append(lengths, pipe.LLen(ctx, list))
	}
	periodic := pipe.HGetAll(ctx, b.keys.periodic(periodicTask))
	held := pipe.HLen(ctx, b.keys.unacked())
	if _, err := pipe.Exec(ctx); err != nil {
		return Look{}, b.explain(doing, err)
	}
	var look Look
	for _, length := range lengths {
		look.Waiting += length.Val()
	}
	fields := periodic.Val()
	look.Last = Occurrence{fields["id"], fields["job"], readMillis(fields["at"])}
	look.Skipped = Occurrence{fields["skipped_id"], fields["skipped_job"], readMillis(fields["skipped_at"])}
	look.Replaced = Occurrence{fields["replaced_id"], fields["replaced_job"], readMillis(fields["replaced_at"])}
	if held.Val() > 0 {
		err := b.eachUnacked(ctx, func(tag, raw, of string) {
			if of != queue {
				return
			}
			if strings.HasPrefix(tag, parkedPrefix) {
				look.Delayed++
			} else {
				look.Running++
			}
		})
		if err != nil {
			return Look{}, err
		}
	}
	if look.Last.ID == "" {
		return look, nil
	}
	var err error
	look.Result, err = b.ReadResult(ctx, look.Last.ID)
	return look, err
}

func readMillis(text string) time.Time {
	millis, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}

// eachUnacked calls f for the unacknowledged messages, or the first of them
// when they are very many.
func (b *Broker) eachUnacked(ctx context.Context, f func(tag, raw, queue string)) error {
	var cursor uint64
	for seen := 0; seen < unackedShown; {
		pairs, next, err := b.client.HScan(ctx, b.keys.unacked(), cursor, "", 500).Result()
		if err != nil {
			return b.explain("looking at unacknowledged messages", err)
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			raw, queue, err := b.readEntry(ctx, pairs[i+1])
			if err == nil {
				f(pairs[i], raw, queue)
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
		seen += len(pairs) / 2
	}
	return nil
}
