package sentiment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/tracing"
)

const (
	secretKey  = "sk-very-secret"
	secretText = "my secret diary"
)

// received is a request that an endpoint got.
type received struct {
	path, authorization, user string
	parent, state             string // of the trace
	body                      chatRequest
	texts                     []string
}

// endpoint is an OpenAI-compatible server whose answers answer gives.
type endpoint struct {
	*httptest.Server
	mu  sync.Mutex
	got []received
}

func startEndpoint(t *testing.T, answer func(w http.ResponseWriter, r received)) *endpoint {
	t.Helper()
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		r := received{path: request.URL.Path, authorization: request.Header.Get("Authorization"), user: request.Header.Get("X-User-ID")}
		r.parent, r.state = request.Header.Get("traceparent"), request.Header.Get("tracestate")
		body, _ := io.ReadAll(request.Body)
		var data struct {
			Texts []string `json:"texts"`
		}
		if err := json.Unmarshal(body, &r.body); err != nil || len(r.body.Messages) != 2 {
			t.Errorf("got body %s, error %v", body, err)
		} else if err := json.Unmarshal([]byte(r.body.Messages[1].Content), &data); err != nil {
			t.Errorf("got user message %s: %v", r.body.Messages[1].Content, err)
		}
		r.texts = data.Texts
		e.mu.Lock()
		e.got = append(e.got, r)
		e.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(e.Close)
	return e
}

// scorer that asks the endpoint.
func (e *endpoint) scorer(t *testing.T) Scorer {
	t.Helper()
	scorer, err := OpenAIFromEnvironment(environment(map[string]string{
		baseURLVariable: e.URL + "/v1/", keyVariable: secretKey, modelVariable: "small",
	}))
	if err != nil {
		t.Fatalf("making the scorer: %v", err)
	}
	return scorer
}

// complete answers with a message's content.
func complete(w http.ResponseWriter, content string) {
	_ = json.NewEncoder(w).Encode(map[string]any{"choices": []any{map[string]any{"message": chatMessage{"assistant", content}}}})
}

// rate gives each text a hundred-thousandth of its length.
func rate(w http.ResponseWriter, r received) {
	scores := make([]float64, len(r.texts))
	for i, text := range r.texts {
		scores[i] = float64(len(text)) / 1e5
	}
	content, _ := json.Marshal(map[string]any{"scores": scores})
	complete(w, string(content))
}

func TestOpenAI(t *testing.T) {
	t.Parallel()
	e := startEndpoint(t, rate)
	got, err := e.scorer(t).Score(t.Context(), "user-7", []string{"a", " ", "ccc", "\xffx"})
	if want := []float64{1e-5, 0, 3e-5, 4e-5}; err != nil || !slices.Equal(got, want) {
		t.Fatalf("got %v, error %v, want %v", got, err, want)
	}
	if len(e.got) != 1 {
		t.Fatalf("got %d requests, want 1", len(e.got))
	}
	r := e.got[0]
	if r.path != "/v1/chat/completions" || r.authorization != "Bearer "+secretKey || r.user != "user-7" {
		t.Errorf("got request to %s by %q for %q", r.path, r.authorization, r.user)
	}
	if r.body.Model != "small" || r.body.ResponseFormat["type"] != "json_object" || r.body.Temperature == nil || *r.body.Temperature != 0 {
		t.Errorf("got request %+v", r.body)
	}
	if got, err := e.scorer(t).Score(t.Context(), "u", []string{"", "\n"}); err != nil || !slices.Equal(got, []float64{0, 0}) || len(e.got) != 1 {
		t.Errorf("texts without words: got %v, error %v, %d requests", got, err, len(e.got))
	}
}

// So the sidecar's span of the call is a part of the task's trace.
func TestOpenAIIsAskedInTheTasksTrace(t *testing.T) {
	t.Parallel()
	e := startEndpoint(t, rate)
	scorer := e.scorer(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for i, c := range []struct{ parent, state string }{{parent, "vendor=1"}, {parent, ""}, {"", ""}} {
		ctx := tracing.NewContext(t.Context(), tracing.Parse(c.parent, c.state))
		if _, err := scorer.Score(ctx, "alice", []string{"fine"}); err != nil {
			t.Fatal(err)
		}
		if got := e.got[i]; got.parent != c.parent || got.state != c.state {
			t.Errorf("asked with the parent %q and the state %q, want %q and %q", got.parent, got.state, c.parent, c.state)
		}
	}
}

func TestOpenAIBatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason   string
		texts    []string
		requests int
	}{
		{"one too many", slices.Repeat([]string{"x"}, maxBatchTexts+1), 2},
		{"too many bytes", slices.Repeat([]string{strings.Repeat("ä", 2000)}, 9), 2},
		{"one huge text, cut", []string{strings.Repeat("z", 1<<20)}, 1},
		{"gaps between batches", slices.Repeat([]string{"x", ""}, maxBatchTexts+1), 2},
	} {
		e := startEndpoint(t, rate)
		got, err := e.scorer(t).Score(t.Context(), "u", c.texts)
		if err != nil {
			t.Errorf("%s: %v", c.reason, err)
			continue
		}
		for i, text := range c.texts {
			if want := float64(len(truncate(text, maxOpenAIBytes))) / 1e5; got[i] != want {
				t.Errorf("%s: text %d has score %v, want %v", c.reason, i, got[i], want)
				break
			}
		}
		if len(e.got) != c.requests {
			t.Errorf("%s: got %d requests, want %d", c.reason, len(e.got), c.requests)
		}
		for _, r := range e.got {
			if size := len(strings.Join(r.texts, "")); len(r.texts) > maxBatchTexts || size > maxBatchBytes {
				t.Errorf("%s: a request has %d texts of %d bytes", c.reason, len(r.texts), size)
			}
		}
	}
}

func TestOpenAIModelWithItsOwnTemperature(t *testing.T) {
	t.Parallel()
	e := startEndpoint(t, func(w http.ResponseWriter, r received) {
		if r.body.Temperature != nil {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"error": {"param": "temperature", "code": "unsupported_value"}}`)
			return
		}
		rate(w, r)
	})
	scorer := e.scorer(t)
	for range 2 {
		if _, err := scorer.Score(t.Context(), "u", []string{"x"}); err != nil {
			t.Fatalf("scoring: %v", err)
		}
	}
	if len(e.got) != 3 {
		t.Errorf("got %d requests, want 3: the refusal is remembered", len(e.got))
	}
}

func TestOpenAIAnswersThatAreNotBelieved(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, content string }{
		{"no JSON", "I would say " + secretText},
		{"an array", "[0.1, 0.2]"},
		{"too few", `{"scores": [0.1]}`},
		{"too many", `{"scores": [0.1, 0.2, 0.3]}`},
		{"too large", `{"scores": [0.1, 1.01]}`},
		{"too small", `{"scores": [-1.5, 0]}`},
		{"null", `{"scores": [0.1, null]}`},
		{"text", `{"scores": [0.1, "0.2"]}`},
		{"not a number", `{"scores": [0.1, NaN]}`},
		{"infinite", `{"scores": [0.1, 1e999]}`},
		{"another name", `{"sentiments": [0.1, 0.2]}`},
		{"more than the object", `{"scores": [0.1, 0.2]} ` + secretText},
		{"nothing", ""},
	} {
		e := startEndpoint(t, func(w http.ResponseWriter, _ received) { complete(w, c.content) })
		got, err := e.scorer(t).Score(t.Context(), "u", []string{secretText, "x"})
		if err == nil {
			t.Errorf("%s: got %v, want an error", c.reason, got)
			continue
		}
		checkSecrets(t, c.reason, err)
	}
	for _, c := range []struct{ reason, body string }{
		{"no JSON", "<html>" + secretText}, {"no choices", "{}"}, {"endless", strings.Repeat(" ", maxAnswerBytes+1)},
	} {
		e := startEndpoint(t, func(w http.ResponseWriter, _ received) { fmt.Fprint(w, c.body) })
		if got, err := e.scorer(t).Score(t.Context(), "u", []string{"x"}); err == nil {
			t.Errorf("body %s: got %v, want an error", c.reason, got)
		}
	}
}

func TestOpenAIEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	revoked := errors.New("revoked")
	e := startEndpoint(t, func(http.ResponseWriter, received) {
		cancel(revoked)
		<-ctx.Done()
	})
	if _, err := e.scorer(t).Score(ctx, "u", []string{"x"}); !errors.Is(err, revoked) {
		t.Errorf("got error %v, want the context's cause", err)
	}
}

func checkSecrets(t *testing.T, reason string, err error) {
	t.Helper()
	for _, secret := range []string{secretKey, secretText} {
		if strings.Contains(fmt.Sprintf("%v %+v", err, err), secret) {
			t.Errorf("%s: the error shows %q: %v", reason, secret, err)
		}
	}
}

// A user with more texts than the limit admits in a window would never be done
// if the second request's refusal threw the first one's scores away.
func TestOpenAIKeepsWhatItHasWhileItWaits(t *testing.T) {
	t.Parallel()
	requests := 0
	e := startEndpoint(t, func(w http.ResponseWriter, r received) {
		if requests++; requests == 2 { // one at a time
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		rate(w, r)
	})
	scores, err := e.scorer(t).Score(t.Context(), "u", slices.Repeat([]string{"x"}, maxBatchTexts+1))
	if err != nil || len(scores) != maxBatchTexts+1 || requests != 3 {
		t.Errorf("got %d scores after %d requests, error %v; want all after 3", len(scores), requests, err)
	}
}
