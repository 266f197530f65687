package celery

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// where a message goes at its end.
const (
	toNowhere = "done"
	toFront   = "front" // taken next
	toParking = "park"
	toDead    = "dead"
)

// Ending is what becomes of a delivery. It is made by one of the functions
// below and carried out by Finish.
type Ending struct {
	tag              string
	resultKey        string
	result           []byte
	resultTTL        time.Duration
	where, list, put string
	score, newTag    string
}

// End acknowledges a delivery with its outcome. Without a wish for a result none
// is written.
func (c *Consumer) End(d *Delivery, o Outcome, children []string, resultTTL time.Duration) Ending {
	e := Ending{tag: d.Tag, where: toNowhere}
	c.withResult(&e, d, o, children, resultTTL)
	return e
}

// GiveBack puts a delivery where it is taken next, as if it had not been taken.
func (c *Consumer) GiveBack(d *Delivery) Ending {
	return Ending{tag: d.Tag, where: toFront, list: c.b.keys.list(d.Queue, priorityOf(d)), put: d.Raw}
}

// Retry parks a delivery until then, as its next try, and says so in its result.
func (c *Consumer) Retry(d *Delivery, o Outcome, then time.Time, resultTTL time.Duration) (Ending, error) {
	raw, err := revise(d.Raw, func(h map[string]json.RawMessage, x *extension) {
		h["retries"] = encoded(d.Retries + 1)
		h["eta"] = encoded(isoTime(then))
		x.Crashes, x.Passes = 0, 0
	})
	if err != nil {
		return Ending{}, err
	}
	e := c.park(d, raw, then)
	c.withResult(&e, d, o, nil, resultTTL)
	return e, nil
}

// Park lays a delivery aside until its own time.
func (c *Consumer) Park(d *Delivery, then time.Time) Ending { return c.park(d, d.Raw, then) }

// Pass gives a delivery to other workers of its queue, in a while: this one does
// not know its task.
func (c *Consumer) Pass(d *Delivery, then time.Time) (Ending, error) {
	raw, err := revise(d.Raw, func(_ map[string]json.RawMessage, x *extension) { x.Passes++ })
	if err != nil {
		return Ending{}, err
	}
	return c.park(d, raw, then), nil
}

// Dead puts a delivery to the dead letters of its queue, and writes its result.
func (c *Consumer) Dead(d *Delivery, o Outcome, reason string, now time.Time, resultTTL time.Duration) Ending {
	letter := DeadLetter{Reason: reason, At: float64(now.UnixMicro()) / 1e6, Message: d.Raw}
	if d.Message != nil {
		letter.ID, letter.Task = d.ID, d.Task
	}
	if o.Err != nil {
		letter.Error = shortenError(o.Err)
	}
	e := Ending{
		tag: d.Tag, where: toDead, list: c.b.keys.dead(d.Queue), put: string(encoded(letter)),
		score: strconv.Itoa(c.o.DeadLetters),
	}
	if d.Message != nil && d.ID != "" {
		c.withResult(&e, d, o, nil, resultTTL)
	}
	return e
}

// MaxEndings of one Finish.
const MaxEndings = 256

// Finish carries endings out, all in one exchange. It returns how many messages
// had been given to others meanwhile.
func (c *Consumer) Finish(ctx context.Context, endings []Ending) (lost int, err error) {
	args := make([]any, 0, 9*len(endings))
	for i := range endings {
		e := &endings[i]
		args = append(args, e.tag, e.resultKey, e.result, e.resultTTL.Milliseconds(), e.where, e.list, e.put, e.score, e.newTag)
	}
	lost, err = finishScript.Run(ctx, c.b.client, []string{c.b.keys.unacked(), c.b.keys.unackedIndex(), c.b.keys.running()}, args...).Int()
	return lost, c.b.explain("acknowledging messages", err)
}

// Started writes STARTED for deliveries that are still held.
func (c *Consumer) Started(ctx context.Context, deliveries []*Delivery, value any, now time.Time, resultTTL func(*Delivery) time.Duration) error {
	var args []any
	for _, d := range deliveries {
		if d.Message == nil || d.IgnoreResult {
			continue
		}
		outcome := Outcome{State: Started, Value: encoded(value)}
		args = append(args, d.Tag, c.b.keys.result(d.ID), outcome.encode(c.about(d, nil), now), resultTTL(d).Milliseconds())
	}
	if len(args) == 0 {
		return nil
	}
	return c.b.explain("saying what has started", startedScript.Run(ctx, c.b.client, []string{c.b.keys.unacked()}, args...).Err())
}

func (c *Consumer) withResult(e *Ending, d *Delivery, o Outcome, children []string, ttl time.Duration) {
	if d.IgnoreResult {
		return
	}
	e.resultKey = c.b.keys.result(d.ID)
	e.result = o.encode(c.about(d, children), time.Now())
	e.resultTTL = max(ttl, time.Millisecond)
}

func (c *Consumer) about(d *Delivery, children []string) of {
	return of{call: d.Message, queue: d.Queue, worker: c.o.Hostname, began: d.BeganAt, children: children}
}

// park keeps a message in unacked with a score with which every worker, ours or
// Celery's, puts it back when its time has come.
func (c *Consumer) park(d *Delivery, raw string, then time.Time) Ending {
	score := float64(then.UnixMicro())/1e6 - c.b.visibility.Seconds()
	return Ending{
		tag: d.Tag, where: toParking,
		put:    string(entry(raw, d.Queue)),
		score:  strconv.FormatFloat(max(score, 0), 'f', 6, 64),
		newTag: parkedTag(d.Queue) + uuid.NewString(),
	}
}

func priorityOf(d *Delivery) int {
	if d.Message == nil {
		return 0
	}
	return d.Priority
}
