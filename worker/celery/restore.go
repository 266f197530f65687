package celery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
		for _, item := range found {
			fields := item.([]any)
			one := c.restoreOne(fields[0].(string), fields[1].(string), fields[3].(int64) == 1, maxCrashes, &total)
			args = append(args, fields[0], fields[2], one.list, one.put, one.kept)
		}
		if len(args) == 0 {
			return total, nil
		}
		if err := restoreScript.Run(ctx, c.b.client, keys, args...).Err(); err != nil {
			return total, c.b.explain("putting messages back", err)
		}
		if len(found) < restoreBatch {
			return total, nil
		}
	}
}

type restored struct {
	list, put string
	kept      int
}

// restoreOne decides where an entry goes.
func (c *Consumer) restoreOne(tag, text string, died bool, maxCrashes int, total *Restored) restored {
	raw, queue, err := splitEntry(text)
	if err != nil {
		total.Dead++
		return c.letter(c.o.Queues[0], DeadLetter{Reason: "unreadable", Error: err.Error(), Message: text})
	}
	m, err := Decode(raw)
	if m == nil {
		total.Dead++
		return c.letter(queue, DeadLetter{Reason: "unreadable", Error: err.Error(), Message: raw})
	}
	to := restored{list: c.b.keys.list(queue, m.Priority), put: raw}
	if strings.HasPrefix(tag, parkedPrefix) {
		total.Due++
		return to
	}
	if died && m.Crashes+1 >= maxCrashes {
		total.Dead++
		return c.letter(queue, DeadLetter{
			ID: m.ID, Task: m.Task, Reason: "crashed", Message: raw,
			Error: fmt.Sprintf("%d workers in a row ended while they ran it: out of memory, or killed", m.Crashes+1),
		})
	}
	total.Overdue++
	if revised, err := redelivered(raw, died); err == nil {
		to.put = revised
	}
	return to
}

func (c *Consumer) letter(queue string, letter DeadLetter) restored {
	letter.At = float64(time.Now().UnixMicro()) / 1e6
	return restored{list: c.b.keys.dead(queue), put: string(encoded(letter)), kept: c.o.DeadLetters}
}

// splitEntry reads an entry of unacked, ours or kombu's.
func splitEntry(text string) (raw, queue string, err error) {
	var parts []json.RawMessage
	var exchange string
	if err := json.Unmarshal([]byte(text), &parts); err != nil {
		return "", "", fmt.Errorf("reading an unacknowledged message: %w", err)
	}
	if len(parts) != 3 {
		return "", "", errors.New("reading an unacknowledged message: want [message, exchange, routing key]")
	}
	if err := errors.Join(json.Unmarshal(parts[1], &exchange), json.Unmarshal(parts[2], &queue)); err != nil {
		return "", "", fmt.Errorf("reading an unacknowledged message: %w", err)
	}
	return string(parts[0]), queue, CheckQueue(queue)
}

// redelivered marks a message as kombu does when it puts one back.
func redelivered(raw string, died bool) (string, error) {
	return revise(raw, func(h map[string]json.RawMessage, x *extension) {
		h["redelivered"] = json.RawMessage("true")
		if died {
			x.Crashes++
		}
	})
}
