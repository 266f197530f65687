package celery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"time"

	"github.com/redis/go-redis/v9"
)

// controlExchange is where Celery's remote control goes.
const controlExchange = "celery.pidbox"

// revokedTTL is how long a revocation is remembered, maxRevoked how many are.
const (
	revokedTTL = 24 * time.Hour
	maxRevoked = 50_000
)

// Command is one of remote control, as `celery inspect` and `celery control`
// send it.
type Command struct {
	Method      string
	Arguments   map[string]json.RawMessage
	destination []string
	pattern     string
	matcher     string
	replyTo     deliveryInfo
	ticket      string
}

// command is the message's body.
type command struct {
	Method      string                     `json:"method"`
	Arguments   map[string]json.RawMessage `json:"arguments"`
	Destination []string                   `json:"destination"`
	Pattern     *string                    `json:"pattern"`
	Matcher     *string                    `json:"matcher"`
	Ticket      *string                    `json:"ticket"`
	ReplyTo     *deliveryInfo              `json:"reply_to"`
}

// maxCommandBytes of a command that is read.
const maxCommandBytes = 1 << 20

func readCommand(text string) (*Command, error) {
	if len(text) > maxCommandBytes {
		return nil, fmt.Errorf("a command of remote control has %d bytes, at most %d are read", len(text), maxCommandBytes)
	}
	var e envelope
	var c command
	if err := json.Unmarshal([]byte(text), &e); err != nil {
		return nil, fmt.Errorf("reading a command of remote control: %w", err)
	}
	body, err := base64.StdEncoding.DecodeString(e.Body)
	if err != nil {
		return nil, fmt.Errorf("reading a command of remote control: %w", err)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return nil, fmt.Errorf("reading a command of remote control: %w", err)
	}
	read := &Command{Method: c.Method, Arguments: c.Arguments, destination: c.Destination}
	if c.Pattern != nil && c.Matcher != nil {
		read.pattern, read.matcher = *c.Pattern, *c.Matcher
	}
	if c.ReplyTo != nil && c.Ticket != nil {
		read.replyTo, read.ticket = *c.ReplyTo, *c.Ticket
	}
	return read, nil
}

// For says whether a command is for the worker of this node name.
func (c *Command) For(hostname string) bool {
	for _, destination := range c.destination {
		if destination == hostname {
			return true
		}
	}
	switch c.matcher {
	case "glob":
		matched, err := path.Match(c.pattern, hostname)
		return err == nil && matched
	case "pcre":
		expression, err := regexp.Compile(c.pattern)
		return err == nil && expression.MatchString(hostname)
	}
	return len(c.destination) == 0
}

// Commands listens to remote control until ctx ends; a lost connection is
// opened again. What cannot be read goes to refused.
func (b *Broker) Commands(ctx context.Context, handle func(*Command), refused func(error)) {
	subscription := b.client.Subscribe(ctx, b.channel(controlExchange, ""))
	defer func() { _ = subscription.Close() }()
	messages := subscription.Channel(redis.WithChannelHealthCheckInterval(3 * time.Second))
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				return
			}
			command, err := readCommand(message.Payload)
			if err != nil {
				refused(err)
				continue
			}
			handle(command)
		}
	}
}

// Reply answers a command in the name of a worker; nothing happens when nobody
// asked for an answer.
func (b *Broker) Reply(ctx context.Context, c *Command, hostname string, answer any) error {
	if c.replyTo.RoutingKey == "" {
		return nil
	}
	doing := "answering remote control"
	// The asker has bound its queue to the exchange that it names.
	queue, err := b.boundQueue(ctx, c.replyTo.Exchange, c.replyTo.RoutingKey)
	if err != nil || queue == "" {
		return err // who does not listen any more gets no answer
	}
	message := fanoutMessage(map[string]any{hostname: answer}, c.replyTo.Exchange, c.replyTo.RoutingKey,
		map[string]any{"ticket": c.ticket, "clock": 1})
	return b.explain(doing, b.client.LPush(ctx, b.keys.prefix+queue, message).Err())
}

// broadcast sends a command to all workers, without asking for answers.
func (b *Broker) broadcast(ctx context.Context, method string, arguments map[string]any) error {
	c := map[string]any{"method": method, "arguments": arguments, "destination": nil, "pattern": nil, "matcher": nil}
	message := fanoutMessage(c, controlExchange, "", map[string]any{})
	return b.explain("sending "+method+" to the workers", b.client.Publish(ctx, b.channel(controlExchange, ""), message).Err())
}

// Remember keeps revoked ids, so that workers that start later heed them too.
func (b *Broker) Remember(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	now := time.Now()
	members := make([]redis.Z, len(ids))
	for i, id := range ids {
		members[i] = redis.Z{Score: float64(now.Add(revokedTTL).UnixMilli()), Member: id}
	}
	pipe := b.client.TxPipeline()
	pipe.ZAdd(ctx, b.keys.revoked(), members...)
	pipe.ZRemRangeByScore(ctx, b.keys.revoked(), "-inf", fmt.Sprint(now.UnixMilli()))
	pipe.ZRemRangeByRank(ctx, b.keys.revoked(), 0, -maxRevoked-1)
	_, err := pipe.Exec(ctx)
	return b.explain("remembering revoked calls", err)
}

// Revoke keeps a call from running. With terminate it is ended where it runs.
func (b *Broker) Revoke(ctx context.Context, id string, terminate bool) error {
	if err := b.Remember(ctx, id); err != nil {
		return err
	}
	return b.broadcast(ctx, "revoke", map[string]any{"task_id": id, "terminate": terminate, "signal": "SIGTERM"})
}
