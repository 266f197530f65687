package celery

import (
	"context"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// browsePage is how many keys or messages one exchange reads.
const browsePage = 500

// EachResult calls f for every result that is kept, page by page, in no order;
// one may come twice. Results that cannot be read are left out. f's error ends it.
func (b *Broker) EachResult(ctx context.Context, f func([]Result) error) error {
	return b.eachKey(ctx, b.keys.result("*"), func(keys []string) error {
		for page := range slices.Chunk(keys, browsePage) {
			ids := make([]string, len(page))
			for i, key := range page {
				ids[i] = strings.TrimPrefix(key, b.keys.result(""))
			}
			results, err := b.ReadResults(ctx, ids)
			if err != nil {
				return err
			}
			if err := f(results); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachKey calls f for the keys that match, page by page.
func (b *Broker) eachKey(ctx context.Context, match string, f func([]string) error) error {
	for cursor := uint64(0); ; {
		keys, next, err := b.client.Scan(ctx, cursor, match, 2*browsePage).Result()
		if err != nil {
			return b.explain("looking for keys", err)
		}
		if len(keys) > 0 {
			if err := f(keys); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// ReadResults asks the backend about calls, in one exchange. Those that it knows
// nothing of, or that cannot be read, are left out.
func (b *Broker) ReadResults(ctx context.Context, ids []string) ([]Result, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = b.keys.result(id)
	}
	texts, err := b.client.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, b.explain("reading results", err)
	}
	results := make([]Result, 0, len(texts))
	for i, value := range texts {
		if text, there := value.(string); there {
			if r, err := decodeResult(ids[i], text); err == nil {
				results = append(results, r)
			}
		}
	}
	return results, nil
}

// Waiting are messages of a queue: at most limit of each priority, those taken
// next or, with newest, those that came last. What cannot be read is left out.
func (b *Broker) Waiting(ctx context.Context, queue string, limit int, newest bool) ([]*Message, error) {
	var waiting []*Message
	for _, list := range b.keys.lists(queue) {
		for read := 0; read < limit; read += browsePage {
			n := int64(min(browsePage, limit-read))
			start := int64(read)
			if !newest {
				start = -start - n
			}
			texts, err := b.client.LRange(ctx, list, start, start+n-1).Result()
			if err != nil {
				return nil, b.explain("reading what waits in "+queue, err)
			}
			for _, text := range texts {
				if m, _ := Decode(text); m != nil && m.ID != "" {
					m.Raw = "" // it would be held with the rest
					waiting = append(waiting, m)
				}
			}
			if len(texts) < int(n) {
				break
			}
		}
	}
	return waiting, nil
}

// Held is a message that was taken, and has not been acknowledged.
type Held struct {
	*Message
	Queue string
	// Parked: it waits for its time. Running: one of our workers took it; Celery's
	// take some ahead.
	Parked, Running bool
}

// EachHeld calls f for the messages that are held, as far as they can be read.
func (b *Broker) EachHeld(ctx context.Context, f func(Held)) error {
	return b.eachTag(ctx, func(tags []string) error {
		return b.eachEntry(ctx, tags, func(tag, raw, queue string) {
			if m, _ := Decode(raw); m != nil && m.ID != "" {
				m.Raw = ""
				f(Held{m, queue, strings.HasPrefix(tag, parkedPrefix), strings.HasPrefix(tag, takenPrefix)})
			}
		})
	})
}

// Queues that applications have bound, and those that have dead letters.
func (b *Broker) Queues(ctx context.Context) ([]string, error) {
	found := map[string]bool{}
	err := b.eachKey(ctx, b.keys.binding("*"), func(keys []string) error {
		pipe := b.client.Pipeline()
		var members []*redis.StringSliceCmd
		for _, key := range keys {
			if strings.Contains(key, controlExchange) || strings.Contains(key, eventExchange) {
				continue // what Celery's tools listen with
			}
			members = append(members, pipe.SMembers(ctx, key))
		}
		if _, err := pipe.Exec(ctx); err != nil && !IsRefusal(err) {
			return b.explain("reading which queues are bound", err)
		}
		for _, set := range members {
			for _, binding := range set.Val() {
				if parts := strings.Split(binding, separator); len(parts) == 3 && checkList(parts[2]) == nil {
					found[parts[2]] = true
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = b.eachKey(ctx, b.keys.dead("*"), func(keys []string) error {
		for _, key := range keys {
			found[strings.TrimPrefix(key, b.keys.dead(""))] = true
		}
		return nil
	})
	queues := make([]string, 0, len(found))
	for queue := range found {
		queues = append(queues, queue)
	}
	slices.Sort(queues)
	return queues, err
}
