package celery

import (
	"context"
	"errors"
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
		var err error
		if look.Running, look.Delayed, err = b.countUnacked(ctx, queue); err != nil {
			return Look{}, err
		}
	}
	if look.Last.ID == "" {
		return look, nil
	}
	var err error
	look.Result, err = b.ReadResult(ctx, look.Last.ID)
	if _, away := errors.AsType[*brokerError](err); err != nil && !away {
		look.Result.Error, err = err.Error(), nil // pickle, say: no reason to see nothing at all
	}
	return look, err
}

func readMillis(text string) time.Time {
	millis, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(millis).UTC()
}

// unackedPage is how many unacknowledged messages are looked at in one exchange.
const unackedPage = 1000

// eachTag calls f for the tags of the unacknowledged messages, page by page.
func (b *Broker) eachTag(ctx context.Context, f func(tags []string) error) error {
	for start := int64(0); ; start += unackedPage {
		tags, err := b.client.ZRange(ctx, b.keys.unackedIndex(), start, start+unackedPage-1).Result()
		if err != nil {
			return b.explain("looking at unacknowledged messages", err)
		}
		if len(tags) > 0 {
			if err := f(tags); err != nil {
				return err
			}
		}
		if len(tags) < unackedPage {
			return nil
		}
	}
}

// countUnacked counts a queue's unacknowledged messages: those that run, and
// those that are parked.
func (b *Broker) countUnacked(ctx context.Context, queue string) (running, delayed int64, err error) {
	taken, parked := takenTag(queue), parkedTag(queue)
	err = b.eachTag(ctx, func(tags []string) error {
		var celerys []string
		for _, tag := range tags {
			switch {
			case strings.HasPrefix(tag, taken):
				running++
			case strings.HasPrefix(tag, parked):
				delayed++
			case !isOurs(tag):
				celerys = append(celerys, tag)
			}
		}
		return b.eachEntry(ctx, celerys, func(_, _, of string) {
			if of == queue {
				running++
			}
		})
	})
	return running, delayed, err
}

// eachEntry calls f for the unacknowledged messages of these tags, as far as
// they can be read and are still there.
func (b *Broker) eachEntry(ctx context.Context, tags []string, f func(tag, raw, queue string)) error {
	if len(tags) == 0 {
		return nil
	}
	entries, err := b.client.HMGet(ctx, b.keys.unacked(), tags...).Result()
	if err != nil {
		return b.explain("looking at unacknowledged messages", err)
	}
	for i, entry := range entries {
		text, there := entry.(string)
		if !there {
			continue
		}
		if raw, queue, err := b.readEntry(ctx, text); err == nil {
			f(tags[i], raw, queue)
		}
	}
	return nil
}
