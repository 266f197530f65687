package celery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/redis/go-redis/v9"
)

// replyExchange is where Celery's tools have answers to remote control sent.
const replyExchange = "reply." + controlExchange

// Inspect asks all workers, as `celery inspect` does, and waits so long for
// answers, each under its worker's node name.
func (b *Broker) Inspect(ctx context.Context, method string, wait time.Duration) (map[string]json.RawMessage, error) {
	doing := "asking workers for " + method
	id, ticket := uuid.NewString(), uuid.NewString()
	queue := id + "." + replyExchange
	binding := id + separator + separator + queue
	key := b.keys.prefix + queue
	if err := b.client.SAdd(ctx, b.keys.binding(replyExchange), binding).Err(); err != nil {
		return nil, b.explain(doing, err)
	}
	defer func() {
		pipe := b.client.Pipeline()
		pipe.SRem(context.WithoutCancel(ctx), b.keys.binding(replyExchange), binding)
		pipe.Del(context.WithoutCancel(ctx), key)
		_, _ = pipe.Exec(context.WithoutCancel(ctx)) // nobody else uses them
	}()
	command := fanoutMessage(map[string]any{
		"method": method, "arguments": map[string]any{}, "destination": nil, "pattern": nil, "matcher": nil,
		"ticket": ticket, "reply_to": deliveryInfo{Exchange: replyExchange, RoutingKey: id},
	}, controlExchange, "", map[string]any{"clock": 1, "expires": float64(time.Now().Add(wait).UnixMicro()) / 1e6})
	if err := b.client.Publish(ctx, b.channel(controlExchange, ""), command).Err(); err != nil {
		return nil, b.explain(doing, err)
	}
	client := b.dedicated(1, wait)
	defer func() { _ = client.Close() }()
	answers := map[string]json.RawMessage{}
	for deadline := time.Now().Add(wait); ; {
		left := time.Until(deadline)
		if left < 10*time.Millisecond {
			return answers, nil
		}
		reply, err := client.BLPop(ctx, left, key).Result()
		if errors.Is(err, redis.Nil) {
			return answers, nil
		}
		if err != nil {
			return answers, b.explain(doing, err)
		}
		readAnswers(reply[1], answers)
	}
}

// readAnswers adds what a reply says.
func readAnswers(reply string, answers map[string]json.RawMessage) {
	var e envelope
	if len(reply) > maxEventBytes || json.Unmarshal([]byte(reply), &e) != nil {
		return
	}
	body, err := base64.StdEncoding.DecodeString(e.Body)
	if err != nil {
		return
	}
	var said map[string]json.RawMessage
	if json.Unmarshal(body, &said) != nil {
		return
	}
	for hostname, answer := range said {
		answers[hostname] = answer
	}
}

// ActiveCall is what a worker runs, as it answers to "active".
type ActiveCall struct {
	ID        string  `json:"id"`
	Name      string  `json:"name"`
	Args      text    `json:"args"`
	Kwargs    text    `json:"kwargs"`
	TimeStart float64 `json:"time_start"` // Unix seconds; 0: not yet
}

// StartedAt is when it began.
func (a *ActiveCall) StartedAt() time.Time { return unixTime(a.TimeStart) }
