package celery

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"time"
)

const (
	// restoreBatch is how many entries are put back in one exchange.
	restoreBatch = 100
	// DefaultMaxCrashes is how many workers may die with a message before it is
	// a dead letter: one that ends its worker would end them all, for ever.
	DefaultMaxCrashes = 5
)

// entry is what unacked holds of a taken message.
func entry(raw, queue string) []byte {
	return encoded([]json.RawMessage{json.RawMessage(raw), json.RawMessage(`""`), encoded(queue)})
}

// Restored says what Restore found.
type Restored struct {
	// Due messages were parked, Overdue taken by workers that have died.
	Due, Overdue int
	// Dead went to the dead letters.
	Dead int
}

// Restore puts back what is due and what dead workers held, of all queues, as
// every Celery worker does. Call it each second.
func (c *Consumer) Restore(ctx context.Context, maxCrashes int) (Restored, error) {
	keys := []string{c.b.keys.unacked(), c.b.keys.unackedIndex(), c.b.keys.running()}
	var total Restored
	for {
		found, err := overdueScript.Run(ctx, c.b.client, keys, c.b.visibility.Seconds(), c.o.Lease.Seconds(), restoreBatch).Slice()
		if err != nil {
			return total, c.b.explain("looking for messages to put back", err)
		}
		var args []any
		var counts []*int // of what each is
		for _, item := range found {
			fields := item.([]any)
			raw, queue, err := c.b.readEntry(ctx, fields[1].(string))
			one := restored{}
			if _, away := errors.AsType[*brokerError](err); away && !IsRefusal(err) {
				return total, err
			}
			if err != nil {
				one = c.letter(c.o.Queues[0], DeadLetter{Reason: "unreadable", Error: err.Error(), Message: fields[1].(string)})
				counts = append(counts, &total.Dead)
			} else {
				var count *int
				one, count = c.restoreOne(fields[0].(string), raw, queue, fields[3].(int64) == 1, maxCrashes, &total)
				counts = append(counts, count)
			}
			args = append(args, fields[0], fields[2], one.list, one.put, one.kept, one.resultKey, one.result, one.ttl.Milliseconds())
		}
		if len(args) == 0 {
			return total, nil
		}
		put, err := restoreScript.Run(ctx, c.b.client, keys, args...).Int64Slice()
		if err != nil {
			return total, c.b.explain("putting messages back", err)
		}
		for i, n := range put {
			*counts[i] += int(n)
		}
		if len(found) < restoreBatch {
			return total, nil
		}
	}
}

type restored struct {
	list, put string
	kept      int
	resultKey string // empty: its result stays as it is
	result    []byte
	ttl       time.Duration
}

// restoreOne decides where an entry goes, and which of the counts it is for.
func (c *Consumer) restoreOne(tag, raw, queue string, died bool, maxCrashes int, total *Restored) (restored, *int) {
	m, err := Decode(raw)
	if m == nil && !isOurs(tag) && strings.HasPrefix(raw, "{") {
		// Somebody else's kind of message, for those who take from that queue.
		to := restored{list: c.b.keys.list(queue, 0), put: raw}
		if revised, err := redelivered(raw, false); err == nil {
			to.put = revised
		}
		return to, &total.Overdue
	}
	if m == nil {
		return c.letter(queue, DeadLetter{Reason: "unreadable", Error: err.Error(), Message: raw}), &total.Dead
	}
	to := restored{list: c.b.keys.list(queue, m.Priority), put: raw}
	if strings.HasPrefix(tag, parkedPrefix) {
		return to, &total.Due
	}
	if died && m.Crashes+1 >= maxCrashes {
		err := fmt.Errorf("%d workers in a row ended while they ran it: out of memory, or killed", m.Crashes+1)
		to = c.letter(queue, DeadLetter{ID: m.ID, Task: m.Task, Reason: "crashed", Message: raw, Error: err.Error()})
		if !m.IgnoreResult {
			o := Outcome{State: Failure, Err: err, ErrType: "WorkerLostError", ErrModule: "billiard.exceptions"}
			to.resultKey, to.result = c.b.keys.result(m.ID), o.encode(of{call: m, queue: queue}, time.Now())
			to.ttl = cmp.Or(m.ResultTTL, DefaultResultTTL)
		}
		return to, &total.Dead
	}
	if revised, err := redelivered(raw, died); err == nil {
		to.put = revised
	}
	if died && m.Crashes > 0 {
		// Which of the messages that were held together ended the worker is not
		// known: apart, the innocent ones end well.
		if revised, err := delayed(to.put, time.Now().Add(rand.N(time.Second<<min(m.Crashes, 4)))); err == nil { //nolint:gosec // no secret
			to.put = revised
		}
	}
	return to, &total.Overdue
}

// delayed is a message that is not to run before then.
func delayed(raw string, then time.Time) (string, error) {
	return revise(raw, func(h map[string]json.RawMessage, _ *extension) { h["eta"] = encoded(isoTime(then)) })
}

func (c *Consumer) letter(queue string, letter DeadLetter) restored {
	letter.At = float64(time.Now().UnixMicro()) / 1e6
	return restored{list: c.b.keys.dead(queue), put: string(encoded(letter)), kept: c.o.DeadLetters}
}

// readEntry reads an entry of unacked, ours or kombu's: the message, and the
// queue that it belongs to.
func (b *Broker) readEntry(ctx context.Context, text string) (raw, queue string, err error) {
	doing := "reading an unacknowledged message"
	var parts []json.RawMessage
	if err := json.Unmarshal([]byte(text), &parts); err != nil {
		return "", "", fmt.Errorf("%s: %w", doing, err)
	}
	if len(parts) != 3 {
		return "", "", errors.New(doing + ": want [message, exchange, routing key]")
	}
	var exchange, routingKey string
	if err := errors.Join(json.Unmarshal(parts[1], &exchange), json.Unmarshal(parts[2], &routingKey)); err != nil {
		return "", "", fmt.Errorf("%s: %w", doing, err)
	}
	queue = routingKey
	if exchange != "" {
		bound, err := b.boundQueue(ctx, exchange, routingKey)
		if err != nil {
			return "", "", err
		}
		if bound != "" {
			queue = bound
		}
	}
	return string(parts[0]), queue, checkList(queue)
}

// boundQueue is the queue that an application has bound to an exchange by a
// routing key, or for a topic exchange by a pattern, which kombu keeps as a
// regular expression; empty where none is.
func (b *Broker) boundQueue(ctx context.Context, exchange, routingKey string) (string, error) {
	bindings, err := b.client.SMembers(ctx, b.keys.binding(exchange)).Result()
	if err != nil {
		return "", b.explain("reading the bindings of exchange "+exchange, err)
	}
	for _, binding := range bindings {
		parts := strings.Split(binding, separator)
		if len(parts) != 3 {
			continue
		}
		pattern, err := regexp.Compile(parts[1])
		if parts[0] == routingKey || parts[1] != "" && err == nil && pattern.MatchString(routingKey) {
			return parts[2], nil
		}
	}
	return "", nil
}

// redelivered marks a message as kombu does when it puts one back.
func redelivered(raw string, died bool) (string, error) {
	raw, err := revise(raw, func(h map[string]json.RawMessage, x *extension) {
		h["redelivered"] = json.RawMessage("true")
		if died {
			x.Crashes++
		}
	})
	var e, p, info map[string]json.RawMessage
	if err != nil || json.Unmarshal([]byte(raw), &e) != nil || json.Unmarshal(e["properties"], &p) != nil ||
		json.Unmarshal(p["delivery_info"], &info) != nil || info == nil {
		return raw, err // kombu passes over what is not there, too
	}
	info["redelivered"] = json.RawMessage("true") // this one Celery reads
	p["delivery_info"] = encoded(info)
	e["properties"] = encoded(p)
	return string(encoded(e)), nil
}
