package celery

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/redis/go-redis/v9"
)

// purgeScript removes one message from unacked.
// KEYS: unacked, unacked_index, weir.running. ARGV: tag.
var purgeScript = redis.NewScript(`
local held = redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return held`)

// purgePage is how many messages are read at a time.
const purgePage = 500

// purgePasses over a list that still gave something, at most.
const purgePasses = 5

// Purge removes the messages that go back to a PeriodicTask from its queue,
// from unacked and from the dead letters, and what is remembered of it.
func (b *Broker) Purge(ctx context.Context, periodicTask, queue string) (removed int, err error) {
	for _, list := range b.keys.lists(queue) {
		// Others may take from the list meanwhile, and shift it: look once more.
		for range purgePasses {
			n, err := b.purgeList(ctx, list, func(text string) bool { return goesBackTo(text, periodicTask) })
			removed += n
			if err != nil {
				return removed, err
			}
			if n == 0 {
				break
			}
		}
	}
	n, err := b.purgeList(ctx, b.keys.dead(queue), func(text string) bool {
		return goesBackTo(readLetter(text).Message, periodicTask)
	})
	removed += n
	if err != nil {
		return removed, err
	}
	var tags []string
	err = b.eachTag(ctx, func(page []string) error {
		var candidates []string
		for _, tag := range page {
			if !isOurs(tag) || strings.HasPrefix(tag, takenTag(queue)) || strings.HasPrefix(tag, parkedTag(queue)) {
				candidates = append(candidates, tag)
			}
		}
		return b.eachEntry(ctx, candidates, func(tag, raw, of string) {
			if of == queue && goesBackTo(raw, periodicTask) {
				tags = append(tags, tag)
			}
		})
	})
	if err != nil {
		return removed, err
	}
	for _, tag := range tags {
		n, err := purgeScript.Run(ctx, b.client, []string{b.keys.unacked(), b.keys.unackedIndex(), b.keys.running()}, tag).Int()
		if err != nil {
			return removed, b.explain("removing messages of "+periodicTask, err)
		}
		removed += n
	}
	return removed, b.explain("forgetting "+periodicTask, b.client.Del(ctx, b.keys.periodic(periodicTask)).Err())
}

// purgeList removes the values of a list that are wanted gone, page by page
// from its right end, at which workers take.
func (b *Broker) purgeList(ctx context.Context, list string, gone func(string) bool) (removed int, err error) {
	for kept := int64(0); ; {
		page, err := b.client.LRange(ctx, list, -kept-purgePage, -kept-1).Result()
		if err != nil {
			return removed, b.explain("looking for messages to remove", err)
		}
		if len(page) == 0 {
			return removed, nil
		}
		for _, text := range page {
			if !gone(text) {
				kept++
				continue
			}
			n, err := b.client.LRem(ctx, list, -1, text).Result()
			if err != nil {
				return removed, b.explain("removing messages", err)
			}
			removed += int(n)
		}
		if int64(len(page)) < purgePage {
			return removed, nil
		}
	}
}

func goesBackTo(raw, periodicTask string) bool {
	var e struct {
		Headers struct {
			Weir extension `json:"weir"`
		} `json:"headers"`
	}
	return json.Unmarshal([]byte(raw), &e) == nil && e.Headers.Weir.PeriodicTask == periodicTask
}
