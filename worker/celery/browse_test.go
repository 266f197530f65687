package celery

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestWhatIsThereCanBeBrowsed(t *testing.T) {
	t.Parallel()
	f := newFixture(t, Options{KeyPrefix: "app:"})
	ctx := t.Context()
	f.send(Signature{ID: "first", Task: "t", Queue: "q", Args: []any{1, "two"}, Kwargs: map[string]any{"three": 3.5}, PeriodicTask: "ns/hourly"})
	c := f.consumer(ConsumerOptions{Hostname: "weir@pod"})
	held := f.takeOne(c)
	held.BeganAt = time.Now().Add(-time.Second)
	f.enqueue(numbered(1200)...)
	f.send(Signature{ID: "urgent", Task: "t", Queue: "q", Priority: 9})

	waiting, err := f.Waiting(ctx, "q", 700, false)
	if err != nil || len(waiting) != 701 {
		t.Fatalf("want 700 of one priority and 1 of another, got %d, error %v", len(waiting), err)
	}
	if waiting[0].ID != "id-499" || waiting[499].ID != "id-0" { // a page has the newest first
		t.Errorf("want those that are taken next, got %s … %s", waiting[0].ID, waiting[499].ID)
	}
	newest, err := f.Waiting(ctx, "q", 2, true)
	if err != nil || len(newest) != 3 || newest[0].ID != "id-1199" || newest[2].ID != "urgent" {
		t.Errorf("want the two newest and one of another priority, got %d, error %v", len(newest), err)
	}

	ids := func() (running, parked []string) {
		err := f.EachHeld(ctx, func(h Held) {
			if h.Queue != "q" {
				t.Errorf("%s is of queue %q, want q", h.ID, h.Queue)
			}
			if h.Parked {
				parked = append(parked, h.ID)
			} else {
				running = append(running, h.ID)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return running, parked
	}
	if running, parked := ids(); !slices.Equal(running, []string{"first"}) || parked != nil {
		t.Errorf("running %v, parked %v, want the first to run", running, parked)
	}
	retry, err := c.Retry(held, Outcome{State: Retry, Err: errors.New("not yet")}, time.Now().Add(time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	f.finish(c, retry)
	if running, parked := ids(); running != nil || !slices.Equal(parked, []string{"first"}) {
		t.Errorf("running %v, parked %v, want the first to be parked", running, parked)
	}

	f.finish(c, c.Dead(f.takeOne(c), Outcome{State: Failure, Err: errors.New("broken")}, "exhausted", time.Now(), time.Hour))
	f.redis.SAdd(ctx, "app:_kombu.binding.reports", "reports"+separator+separator+"reports")
	f.redis.SAdd(ctx, "app:_kombu.binding.reply.celery.pidbox", "x"+separator+separator+"x.reply.celery.pidbox")
	if queues, err := f.Queues(ctx); err != nil || !slices.Equal(queues, []string{"q", "reports"}) {
		t.Errorf("want the queue with a dead letter and the bound one, got %v, error %v", queues, err)
	}

	found := map[string]Result{}
	err = f.EachResult(ctx, func(page []Result) error {
		for _, r := range page {
			found[r.ID] = r
		}
		return nil
	})
	if err != nil || len(found) != 2 {
		t.Fatalf("want 2 results, got %v, error %v", found, err)
	}
	got := found["first"]
	if got.State != Retry || got.Task != "t" || got.Queue != "q" || got.Worker != "weir@pod" || got.PeriodicTask != "ns/hourly" ||
		string(got.Args) != `[1,"two"]` || string(got.Kwargs) != `{"three":3.5}` || got.EnqueuedAt.IsZero() ||
		time.Since(got.StartedAt) < time.Second || got.Error != "Exception: not yet" || got.Traceback == "" {
		t.Errorf("want all that is known of the call, got %+v", got)
	}
	if r := found["id-0"]; r.State != Failure || string(r.Args) != "[]" {
		t.Errorf("want the dead letter's failure, got %+v", r)
	}
}

func TestResultsDoNotRepeatLongArguments(t *testing.T) {
	t.Parallel()
	m := &Message{ID: "x", Task: "t", Kwargs: map[string]json.RawMessage{"text": encoded(string(make([]byte, maxArguments)))}}
	r, err := decodeResult("x", string(Outcome{State: Success}.encode(of{call: m, children: []string{"y", "z"}}, time.Now())))
	if err != nil || r.Args != nil || r.Kwargs != nil || !slices.Equal(r.Children, []string{"y", "z"}) {
		t.Errorf("want no arguments and two children, got %+v, error %v", r, err)
	}
}

func TestEventsAreRead(t *testing.T) {
	t.Parallel()
	event := func(body string) string {
		return string(fanoutMessage(json.RawMessage(body), eventExchange, "task.multi", map[string]any{}))
	}
	for _, c := range []struct {
		reason, payload string
		want            []string
	}{
		{"one", event(`{"type":"task-received","uuid":"a","args":"(1,)"}`), []string{"a (1,)"}},
		{"a list", event(`[{"type":"task-started","uuid":"a","args":null},{"type":"task-started","uuid":"b","args":[2]}]`), []string{"a ", "b [2]"}},
		{"no type", event(`{"uuid":"a"}`), nil},
		{"no JSON", "no", nil},
	} {
		var got []string
		for _, h := range readEvents(c.payload) {
			got = append(got, h.UUID+" "+string(h.Args))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add(string(fanoutMessage(map[string]any{"type": "task-received", "uuid": "x"}, eventExchange, "task.received", map[string]any{})))
	f.Fuzz(func(_ *testing.T, text string) { readEvents(text) })
}

// Whoever writes results decides what is in them, but not how long it takes to
// read them.
func TestAnErrorOfManyPartsIsBounded(t *testing.T) {
	t.Parallel()
	parts := strings.Repeat(`"part",`, 10_000)
	r, err := decodeResult("id", `{"status":"FAILURE","result":{"exc_type":"E","exc_message":[`+parts+`"last"]}}`)
	if err != nil || !strings.HasPrefix(r.Error, "E: part, part") || len(r.Error) > maxReadErrorBytes+100 {
		t.Errorf("an error of %d bytes, %v", len(r.Error), err)
	}
	if r, err = decodeResult("id", `{"status":"FAILURE","result":{"exc_type":"E","exc_message":["one",2]}}`); err != nil || r.Error != "E: one, 2" {
		t.Errorf("%q, %v", r.Error, err)
	}
}
