package celery

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"
)

// DeadLetter is a message that nobody will run, kept so that somebody can look
// at it and put it back.
type DeadLetter struct {
	// ID and Task are empty for a message that cannot be read.
	ID   string `json:"id,omitempty"`
	Task string `json:"task,omitempty"`
	// Reason is one word: unreadable, unsupported, unknown (task), exhausted
	// (retries) or crashed (its workers).
	Reason string `json:"reason"`
	Error  string `json:"error,omitempty"`
	// At is Unix seconds.
	At float64 `json:"at"`
	// Message as it stood in the queue.
	Message string `json:"message"`
}

// DeadLetters of a queue, newest first, at most limit; and how many there are.
func (b *Broker) DeadLetters(ctx context.Context, queue string, limit int) (letters []DeadLetter, total int64, err error) {
	key := b.keys.dead(queue)
	pipe := b.client.Pipeline()
	length := pipe.LLen(ctx, key)
	texts := pipe.LRange(ctx, key, 0, int64(limit)-1)
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, 0, b.explain("reading the dead letters of "+queue, err)
	}
	for _, text := range texts.Val() {
		letters = append(letters, readLetter(text))
	}
	return letters, length.Val(), nil
}

func readLetter(text string) DeadLetter {
	var letter DeadLetter
	if err := json.Unmarshal([]byte(text), &letter); err != nil {
		return DeadLetter{Reason: "unreadable", Error: "the dead letter itself cannot be read", Message: text}
	}
	return letter
}

// reviveScript moves one dead letter back into its queue, and its result back to
// PENDING: nobody who waits should see the old failure.
// KEYS: dead letters, list, result. ARGV: the letter, the message, the result
// (empty: none), its time to live in milliseconds.
var reviveScript = redis.NewScript(`
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
if ARGV[3] ~= '' then redis.call('SET', KEYS[3], ARGV[3], 'PX', ARGV[4]) end
return 1`)

// chosen are dead letters of a queue as they are kept, oldest first: those with
// one of the ids, or all when none is given.
func (b *Broker) chosen(ctx context.Context, queue string, ids []string) (texts []string, err error) {
	texts, err = b.client.LRange(ctx, b.keys.dead(queue), 0, -1).Result()
	if err != nil {
		return nil, b.explain("reading the dead letters of "+queue, err)
	}
	slices.Reverse(texts)
	if len(ids) == 0 {
		return texts, nil
	}
	return slices.DeleteFunc(texts, func(text string) bool { return !slices.Contains(ids, readLetter(text).ID) }), nil
}

// Revive puts dead letters of a queue back, as new: those with one of the ids,
// or all when none is given. Letters that cannot be read stay.
func (b *Broker) Revive(ctx context.Context, queue string, ids ...string) (revived int, err error) {
	texts, err := b.chosen(ctx, queue, ids)
	if err != nil {
		return 0, err
	}
	for _, text := range texts {
		letter := readLetter(text)
		m, message, err := asNew(letter.Message)
		if err != nil {
			continue
		}
		var pending []byte
		if !m.IgnoreResult {
			pending = Outcome{State: Pending}.encode(of{call: m, queue: queue}, time.Now())
		}
		keys := []string{b.keys.dead(queue), b.keys.list(queue, m.Priority), b.keys.result(m.ID)}
		ttl := cmp.Or(m.ResultTTL, DefaultResultTTL)
		moved, err := reviveScript.Run(ctx, b.client, keys, text, message, pending, ttl.Milliseconds()).Int()
		if err != nil {
			return revived, b.explain(fmt.Sprintf("putting the dead letter %s back", letter.ID), err)
		}
		revived += moved
	}
	return revived, nil
}

// asNew is a message without the history of its tries, and without the times
// that have passed meanwhile.
func asNew(raw string) (m *Message, message string, err error) {
	if m, err = Decode(raw); err != nil {
		return nil, "", err
	}
	message, err = revise(raw, func(h map[string]json.RawMessage, x *extension) {
		h["retries"], h["eta"], h["expires"] = encoded(0), encoded(nil), encoded(nil)
		x.Crashes, x.Passes = 0, 0
		x.EnqueuedAt = float64(time.Now().UnixMicro()) / 1e6
	})
	return m, message, err
}

// Bury deletes dead letters of a queue: those with one of the ids, or all when
// none is given.
func (b *Broker) Bury(ctx context.Context, queue string, ids ...string) (buried int, err error) {
	texts, err := b.chosen(ctx, queue, ids)
	if err != nil {
		return 0, err
	}
	for _, text := range texts {
		n, err := b.client.LRem(ctx, b.keys.dead(queue), -1, text).Result()
		if err != nil {
			return buried, b.explain("deleting a dead letter", err)
		}
		buried += int(n)
	}
	return buried, nil
}
