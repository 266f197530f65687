package celery

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Depth of a queue.
type Depth struct {
	// Waiting messages, and DeadLetters.
	Waiting, DeadLetters int64
	// Heads are the messages that are taken next, one for each priority in use.
	Heads []Head
}

// Head is a message that is taken next.
type Head struct {
	ID string
	// EnqueuedAt is zero for messages of Celery's, which do not say.
	EnqueuedAt time.Time
}

// Depths reads how much waits in some queues, in one exchange.
func (b *Broker) Depths(ctx context.Context, queues []string) ([]Depth, error) {
	pipe := b.client.Pipeline()
	var lengths, dead []*redis.IntCmd
	var heads []*redis.StringCmd
	for _, queue := range queues {
		for _, list := range b.keys.lists(queue) {
			lengths = append(lengths, pipe.LLen(ctx, list))
			heads = append(heads, pipe.LIndex(ctx, list, -1))
		}
		dead = append(dead, pipe.LLen(ctx, b.keys.dead(queue)))
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, b.explain("reading the depth of queues", err)
	}
	depths := make([]Depth, len(queues))
	for i := range depths {
		d := &depths[i]
		d.DeadLetters = dead[i].Val()
		for j := i * len(prioritySteps); j < (i+1)*len(prioritySteps); j++ {
			d.Waiting += lengths[j].Val()
			if text := heads[j].Val(); text != "" {
				if m, _ := Decode(text); m != nil {
					d.Heads = append(d.Heads, Head{ID: m.ID, EnqueuedAt: m.EnqueuedAt})
				}
			}
		}
	}
	return depths, nil
}

// IsRefusal says whether Redis answered that a command cannot be carried out as
// it is, as with a key of another type: to repeat it is of no use.
func IsRefusal(err error) bool {
	said, is := errors.AsType[redis.Error](err)
	if !is {
		return false
	}
	text := said.Error()
	for _, passing := range []string{"max number of clients", "-OOM ", "-READONLY ", "-MISCONF ", "-NOREPLICAS ", "-MASTERDOWN "} {
		if strings.Contains(text, passing) {
			return false // a script's error begins with ERR before Redis 7
		}
	}
	for _, prefix := range []string{"WRONGTYPE", "ERR", "NOPERM"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}
