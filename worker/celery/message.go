package celery

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/weir-dev/weir/tracing"
)

// Message is a call that was read from a queue.
type Message struct {
	// Raw is the message as it stood in the queue.
	Raw string
	// ID names the call, and its result.
	ID string
	// Task that is called.
	Task string
	// RootID and ParentID of the tree of calls.
	RootID, ParentID string
	Args             []json.RawMessage
	Kwargs           map[string]json.RawMessage
	// Retries so far.
	Retries int
	// ETA: not before; zero: at once. Expires: not after; zero: never.
	ETA, Expires time.Time
	// SoftTimeLimit and TimeLimit of one run; zero: none given.
	SoftTimeLimit, TimeLimit time.Duration
	// Priority is 0 (first) to 9.
	Priority int
	// IgnoreResult: nobody wants a result.
	IgnoreResult bool
	// Workflow names what follows the call and our workers cannot do: "chain",
	// "chord", "callbacks" or "errbacks"; empty: nothing follows.
	Workflow string

	// Retry and ResultTTL are nil and zero where the message leaves them to the
	// worker.
	Retry     *RetryPolicy
	ResultTTL time.Duration
	// PeriodicTask is "namespace/name" of the resource that it goes back to.
	PeriodicTask string
	// EnqueuedAt is zero for messages of Celery's, which do not say.
	EnqueuedAt time.Time
	// Crashes counts the workers that ended while they ran it, Passes those of
	// ours that did not know its task.
	Crashes, Passes int
	// Trace is what the run follows from; the zero Context: nothing that is known.
	Trace tracing.Context
}

// envelope is kombu's form of a message.
type envelope struct {
	Body            string          `json:"body"`
	ContentEncoding string          `json:"content-encoding"`
	ContentType     string          `json:"content-type"`
	Headers         json.RawMessage `json:"headers"`
	Properties      properties      `json:"properties"`
}

type properties struct {
	CorrelationID string       `json:"correlation_id,omitempty"`
	ReplyTo       string       `json:"reply_to,omitempty"`
	DeliveryMode  int          `json:"delivery_mode"`
	DeliveryInfo  deliveryInfo `json:"delivery_info"`
	Priority      int          `json:"priority"`
	BodyEncoding  string       `json:"body_encoding"`
	DeliveryTag   string       `json:"delivery_tag"`
}

type deliveryInfo struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
}

// headers are those of protocol 2 that a worker heeds.
type headers struct {
	Lang         string      `json:"lang"`
	Task         string      `json:"task"`
	ID           string      `json:"id"`
	Shadow       *string     `json:"shadow"`
	ETA          *string     `json:"eta"`
	Expires      *string     `json:"expires"`
	Group        *string     `json:"group"`
	GroupIndex   *int        `json:"group_index"`
	Retries      int         `json:"retries"`
	TimeLimit    [2]*float64 `json:"timelimit"` // hard, soft; seconds
	RootID       string      `json:"root_id"`
	ParentID     *string     `json:"parent_id"`
	ArgsRepr     string      `json:"argsrepr"`
	KwargsRepr   string      `json:"kwargsrepr"`
	Origin       string      `json:"origin"`
	IgnoreResult bool        `json:"ignore_result"`
	Weir         *extension  `json:"weir,omitempty"`
	traceHeaders
}

// extension is a header of our own, which Celery passes over.
type extension struct {
	Retry        *retryHeader `json:"retry,omitempty"`
	ResultTTL    float64      `json:"result_ttl,omitempty"` // seconds
	PeriodicTask string       `json:"periodic_task,omitempty"`
	EnqueuedAt   float64      `json:"enqueued_at,omitempty"` // Unix seconds
	Crashes      int          `json:"crashes,omitempty"`
	Passes       int          `json:"passes,omitempty"`
}

type retryHeader struct {
	MaxRetries     int     `json:"max_retries"`
	InitialBackoff float64 `json:"initial_backoff"` // seconds
	MaxBackoff     float64 `json:"max_backoff"`     // seconds
}

// embed is the third part of a body: what follows the call.
type embed struct {
	Callbacks json.RawMessage `json:"callbacks"`
	Errbacks  json.RawMessage `json:"errbacks"`
	Chain     json.RawMessage `json:"chain"`
	Chord     json.RawMessage `json:"chord"`
}

// maxMessageBytes of a message that is read; a longer one is a dead letter.
const maxMessageBytes = 32 << 20

// jsonType is the only content type that is read: pickle would run code.
const jsonType = "application/json"

// Decode reads a message. Its errors say what part is not as protocol 2 has it.
func Decode(raw string) (*Message, error) {
	if len(raw) > maxMessageBytes {
		return nil, fmt.Errorf("the message has %d bytes, at most %d are read", len(raw), maxMessageBytes)
	}
	var e envelope
	if err := json.Unmarshal([]byte(raw), &e); err != nil {
		return nil, fmt.Errorf("reading the message: %w", err)
	}
	var h headers
	if len(e.Headers) == 0 {
		return nil, errors.New("the message has no headers: only Celery's protocol 2 is spoken")
	}
	if err := json.Unmarshal(e.Headers, &h); err != nil {
		return nil, fmt.Errorf("reading the message's headers: %w", err)
	}
	m := &Message{
		Raw: raw, ID: h.ID, Task: h.Task, RootID: h.RootID, Retries: max(h.Retries, 0),
		Priority: e.Properties.Priority, IgnoreResult: h.IgnoreResult, Trace: h.context(),
	}
	// What could be read identifies a message that is refused for the rest.
	if m.Task == "" || m.ID == "" {
		return m, errors.New("the message's headers have no task or no id: only Celery's protocol 2 is spoken")
	}
	if len(m.ID) > 255 {
		return m, fmt.Errorf("the message's id has %d bytes, at most 255 are read", len(m.ID))
	}
	if h.ParentID != nil {
		m.ParentID = *h.ParentID
	}
	var err error
	if m.ETA, err = readTime("eta", h.ETA); err != nil {
		return m, err
	}
	if m.Expires, err = readTime("expires", h.Expires); err != nil {
		return m, err
	}
	m.TimeLimit, m.SoftTimeLimit = seconds(h.TimeLimit[0]), seconds(h.TimeLimit[1])
	if h.Weir != nil {
		m.extend(h.Weir)
	}
	return m, m.readBody(&e)
}

func (m *Message) extend(x *extension) {
	m.ResultTTL, m.PeriodicTask = seconds(&x.ResultTTL), x.PeriodicTask
	m.Crashes, m.Passes = max(x.Crashes, 0), max(x.Passes, 0)
	if x.EnqueuedAt > 0 {
		m.EnqueuedAt = time.UnixMicro(int64(x.EnqueuedAt * 1e6))
	}
	if x.Retry != nil {
		m.Retry = &RetryPolicy{
			MaxRetries:     max(x.Retry.MaxRetries, 0),
			InitialBackoff: seconds(&x.Retry.InitialBackoff),
			MaxBackoff:     seconds(&x.Retry.MaxBackoff),
		}
	}
}

func (m *Message) readBody(e *envelope) error {
	if e.ContentType != jsonType {
		return fmt.Errorf("the message's content type is %.64q: only %s is read (task_serializer = json)", e.ContentType, jsonType)
	}
	body := []byte(e.Body)
	switch e.Properties.BodyEncoding {
	case "base64":
		var err error
		if body, err = base64.StdEncoding.DecodeString(e.Body); err != nil {
			return fmt.Errorf("reading the message's body: %w", err)
		}
	case "":
	default:
		return fmt.Errorf("the message's body_encoding is %.64q: want base64", e.Properties.BodyEncoding)
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(body, &parts); err != nil {
		return fmt.Errorf("reading the message's body: %w", err)
	}
	if len(parts) != 3 {
		return fmt.Errorf("the message's body has %d parts: want [args, kwargs, embed]", len(parts))
	}
	if err := json.Unmarshal(parts[0], &m.Args); err != nil {
		return fmt.Errorf("reading the message's args: %w", err)
	}
	if err := json.Unmarshal(parts[1], &m.Kwargs); err != nil {
		return fmt.Errorf("reading the message's kwargs: %w", err)
	}
	var follows embed
	if err := json.Unmarshal(parts[2], &follows); err != nil {
		return fmt.Errorf("reading what follows the message's call: %w", err)
	}
	for _, f := range []struct {
		name  string
		value json.RawMessage
	}{{"chord", follows.Chord}, {"chain", follows.Chain}, {"callbacks", follows.Callbacks}, {"errbacks", follows.Errbacks}} {
		if v := string(f.value); v != "" && v != "null" && v != "[]" {
			m.Workflow = f.name
			break
		}
	}
	return nil
}

// Encode makes the message of a call. now is when it is enqueued.
func (s *Signature) Encode(now time.Time, origin string) ([]byte, error) {
	args, kwargs := s.Args, s.Kwargs
	if args == nil {
		args = []any{}
	}
	if kwargs == nil {
		kwargs = map[string]any{}
	}
	body, err := json.Marshal([]any{args, kwargs, embed{}})
	if err != nil {
		return nil, fmt.Errorf("encoding the arguments of %s: %w", s.Task, err)
	}
	argsRepr, _ := json.Marshal(args)
	kwargsRepr, _ := json.Marshal(kwargs)
	h := headers{
		Lang: "py", Task: s.Task, ID: s.ID, RootID: s.RootID, Origin: origin,
		ETA: writeTime(s.ETA), Expires: writeTime(s.Expires),
		TimeLimit: [2]*float64{inSeconds(s.TimeLimit), inSeconds(s.SoftTimeLimit)},
		ArgsRepr:  shorten(string(argsRepr)), KwargsRepr: shorten(string(kwargsRepr)),
		Weir: &extension{
			ResultTTL: s.ResultTTL.Seconds(), PeriodicTask: s.PeriodicTask,
			EnqueuedAt: float64(now.UnixMicro()) / 1e6,
		},
		traceHeaders: writeTrace(s.Trace),
	}
	if h.RootID == "" {
		h.RootID = s.ID
	}
	if s.ParentID != "" {
		h.ParentID = &s.ParentID
	}
	if s.Retry != nil {
		h.Weir.Retry = &retryHeader{
			MaxRetries:     s.Retry.MaxRetries,
			InitialBackoff: s.Retry.InitialBackoff.Seconds(),
			MaxBackoff:     s.Retry.MaxBackoff.Seconds(),
		}
	}
	encodedHeaders, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding the headers of %s: %w", s.Task, err)
	}
	return json.Marshal(envelope{
		Body: base64.StdEncoding.EncodeToString(body), ContentEncoding: "utf-8", ContentType: jsonType,
		Headers: encodedHeaders,
		Properties: properties{
			CorrelationID: s.ID, ReplyTo: uuid.NewString(), DeliveryMode: 2,
			DeliveryInfo: deliveryInfo{RoutingKey: s.Queue}, Priority: s.Priority,
			BodyEncoding: "base64", DeliveryTag: uuid.NewString(),
		},
	})
}

// revise changes some headers of a message and keeps all others, also those
// that this package does not know.
func revise(raw string, change func(h map[string]json.RawMessage, x *extension)) (string, error) {
	var e map[string]json.RawMessage
	var h map[string]json.RawMessage
	if err := json.Unmarshal([]byte(raw), &e); err != nil {
		return "", fmt.Errorf("reading the message: %w", err)
	}
	if err := json.Unmarshal(e["headers"], &h); err != nil || h == nil {
		return "", fmt.Errorf("reading the message's headers: %w", err)
	}
	x := &extension{}
	if present := h["weir"]; present != nil {
		if err := json.Unmarshal(present, x); err != nil {
			return "", fmt.Errorf("reading the message's header weir: %w", err)
		}
	}
	before := *x
	change(h, x)
	if *x != before {
		h["weir"] = encoded(x)
	}
	e["headers"] = encoded(h)
	return string(encoded(e)), nil
}

// encoded is for values that always encode.
func encoded(value any) json.RawMessage {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", value, err))
	}
	return text
}

const maxRepr = 1024

func shorten(text string) string {
	if len(text) <= maxRepr {
		return text
	}
	return text[:maxRepr] + "..."
}

// timeFormats are ISO 8601 as Celery's versions write it; without a zone it is UTC.
var timeFormats = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02 15:04:05.999999999Z07:00"}

func readTime(name string, text *string) (time.Time, error) {
	if text == nil || *text == "" {
		return time.Time{}, nil
	}
	for _, format := range timeFormats {
		if t, err := time.Parse(format, *text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("the message's %s is %.64q: want ISO 8601, like 2026-01-31T12:00:00+00:00", name, *text)
}

// isoFormat is what Python's datetime.isoformat writes in UTC.
const isoFormat = "2006-01-02T15:04:05.000000+00:00"

func isoTime(t time.Time) string { return t.UTC().Format(isoFormat) }

func writeTime(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := isoTime(t)
	return &text
}

// maxDuration bounds what a message may ask for: a year.
const maxDuration = 366 * 24 * time.Hour

func seconds(value *float64) time.Duration {
	if value == nil || !(*value > 0) {
		return 0
	}
	if *value > maxDuration.Seconds() {
		return maxDuration
	}
	return time.Duration(*value * float64(time.Second))
}

func inSeconds(d time.Duration) *float64 {
	if d <= 0 {
		return nil
	}
	value := d.Seconds()
	return &value
}
