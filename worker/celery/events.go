package celery

import (
	"context"
	"encoding/base64"
	"maps"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// eventExchange is where Celery's events go.
const eventExchange = "celeryev"

// Sender sends Celery's events in the name of a worker: `celery events` and
// Flower show them.
type Sender struct {
	b        *Broker
	hostname string
	clock    atomic.Int64
}

// NewSender sends as the worker of this node name, name@host.
func (b *Broker) NewSender(hostname string) *Sender { return &Sender{b: b, hostname: hostname} }

// Event is one event: its type, as "task-succeeded", and what belongs to it.
type Event struct {
	Type   string
	Fields map[string]any
}

// Send publishes events, all in one exchange. Nobody may listen.
func (s *Sender) Send(ctx context.Context, events ...Event) error {
	pipe := s.b.client.Pipeline()
	for _, e := range events {
		fields := maps.Clone(e.Fields)
		if fields == nil {
			fields = map[string]any{}
		}
		fields["type"], fields["hostname"], fields["pid"] = e.Type, s.hostname, os.Getpid()
		fields["timestamp"], fields["utcoffset"], fields["clock"] = float64(time.Now().UnixMicro())/1e6, 0, s.clock.Add(1)
		routingKey := strings.ReplaceAll(e.Type, "-", ".")
		message := fanoutMessage(fields, eventExchange, routingKey, map[string]any{"hostname": s.hostname})
		pipe.Publish(ctx, s.b.channel(eventExchange, routingKey), message)
	}
	_, err := pipe.Exec(ctx)
	return s.b.explain("sending events", err)
}

// Watched says whether somebody listens to events: if not, none of a task need
// be made.
func (s *Sender) Watched(ctx context.Context) (bool, error) {
	pipe := s.b.client.Pipeline()
	patterns := pipe.PubSubNumPat(ctx)
	channels := pipe.PubSubChannels(ctx, s.b.channel(eventExchange, "*"))
	if _, err := pipe.Exec(ctx); err != nil {
		return false, s.b.explain("asking who listens to events", err)
	}
	return patterns.Val() > 0 || len(channels.Val()) > 0, nil
}

// fanoutMessage is kombu's form of a message to a fan-out exchange.
func fanoutMessage(body any, exchange, routingKey string, headers map[string]any) []byte {
	return encoded(envelope{
		Body: base64.StdEncoding.EncodeToString(encoded(body)), ContentEncoding: "utf-8", ContentType: jsonType,
		Headers: encoded(headers),
		Properties: properties{
			DeliveryMode: 1, DeliveryInfo: deliveryInfo{Exchange: exchange, RoutingKey: routingKey},
			BodyEncoding: "base64", DeliveryTag: uuid.NewString(),
		},
	})
}
