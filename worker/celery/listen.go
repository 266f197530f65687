package celery

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// Heard is an event that a worker sent, ours or Celery's. What it does not say
// is empty.
type Heard struct {
	Type      string  `json:"type"`
	Hostname  string  `json:"hostname"`
	Timestamp float64 `json:"timestamp"` // Unix seconds

	// Of a task.
	UUID         string  `json:"uuid"`
	Name         string  `json:"name"`
	Args         text    `json:"args"`
	Kwargs       text    `json:"kwargs"`
	ParentID     string  `json:"parent_id"`
	Retries      int     `json:"retries"`
	Result       text    `json:"result"`
	Exception    text    `json:"exception"`
	Traceback    text    `json:"traceback"`
	Runtime      float64 `json:"runtime"` // seconds
	Queue        string  `json:"queue"`
	PeriodicTask string  `json:"periodic_task"`

	// Of a worker.
	Active    int    `json:"active"`
	Processed int64  `json:"processed"`
	Software  string `json:"sw_ident"`
	Version   string `json:"sw_ver"`
}

// At is when it was sent.
func (h *Heard) At() time.Time { return unixTime(h.Timestamp) }

// text is a string, or any other JSON as it stands.
type text string

func (t *text) UnmarshalJSON(raw []byte) error {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		*t = text(s)
	} else if string(raw) != "null" {
		*t = text(raw)
	}
	return nil
}

// maxEventBytes of a message of events that is read.
const maxEventBytes = 4 << 20

// readEvents reads one message: an event, or a list of some, as Celery's workers
// send when much happens.
func readEvents(payload string) []Heard {
	var e envelope
	if len(payload) > maxEventBytes || json.Unmarshal([]byte(payload), &e) != nil {
		return nil
	}
	body := []byte(e.Body)
	if e.Properties.BodyEncoding == "base64" {
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return nil
		}
	}
	var all []json.RawMessage
	if json.Unmarshal(body, &all) != nil {
		all = []json.RawMessage{body}
	}
	var heard []Heard
	for _, one := range all {
		var h Heard
		if json.Unmarshal(one, &h) == nil && h.Type != "" {
			heard = append(heard, h)
		}
	}
	return heard
}

// listenBuffer is how many messages wait to be heard; more are lost.
const listenBuffer = 20_000

// Listener is told what workers say.
type Listener struct {
	// Events that were sent.
	Events func([]Heard)
	// Result of a call was written.
	Result func(id string)
	// Began to listen, or again after the connection was lost: what happened
	// before was not heard.
	Began func()
}

// Listen listens to events and results until ctx ends; a lost connection is
// opened again. While somebody does, our workers send events of tasks.
func (b *Broker) Listen(ctx context.Context, to Listener) {
	results := b.keys.result("")
	events := b.channel(eventExchange, "*")
	subscription := b.client.PSubscribe(ctx, events, results+"*")
	defer func() { _ = subscription.Close() }()
	messages := subscription.ChannelWithSubscriptions(redis.WithChannelSize(listenBuffer), redis.WithChannelHealthCheckInterval(3*time.Second))
	for {
		select {
		case <-ctx.Done():
			return
		case message, open := <-messages:
			if !open {
				return
			}
			switch m := message.(type) {
			case *redis.Subscription:
				if m.Channel == events {
					to.Began()
				}
			case *redis.Message:
				if id, is := strings.CutPrefix(m.Channel, results); is {
					to.Result(id)
				} else if heard := readEvents(m.Payload); len(heard) > 0 {
					to.Events(heard)
				}
			}
		}
	}
}
