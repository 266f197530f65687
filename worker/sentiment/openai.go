package sentiment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/weir-dev/weir/worker/runner"
)

// Bounds of one request, so that its answer fits a small model's.
const (
	maxBatchTexts   = 50
	maxBatchBytes   = 32 << 10
	maxOpenAIBytes  = 4 << 10 // of one text
	requestTimeout  = time.Minute
	maxSettingBytes = 2048
)

// Variables of OpenAIFromEnvironment.
const (
	baseURLVariable = "OPENAI_BASE_URL"
	keyVariable     = "OPENAI_API_KEY"
	modelVariable   = "OPENAI_MODEL"
)

const defaultBaseURL = "https://api.openai.com/v1"

type openAI struct {
	endpoint string
	host     string // for errors
	key      string
	model    string
	client   *http.Client
	// keepTemperature: the model refuses to be asked for another.
	keepTemperature atomic.Bool
}

// OpenAIFromEnvironment is a scorer that asks an OpenAI-compatible endpoint, at
// OPENAI_BASE_URL (default https://api.openai.com/v1), with the key
// OPENAI_API_KEY, for the model OPENAI_MODEL. It sends at most 50 texts and
// 32 KiB a request, of each text the first 4 KiB, and names the user in
// X-User-ID, as the sample policy `openai` reads it: the sidecar holds each
// user's calls to that user's quota. It asks for temperature 0; the scores of a
// text can nevertheless differ from run to run, as models' answers do.
//
// Answers become errors so: 429 and 503 with Retry-After are
// *runner.RetryAfter, for the first request; later ones wait up to 90 seconds
// and are sent again; redirects and refusals that only another setting can
// change are Permanent, others are worth a retry.
func OpenAIFromEnvironment(getenv func(string) string) (Scorer, error) {
	base, err := url.Parse(strings.TrimRight(cmp.Or(getenv(baseURLVariable), defaultBaseURL), "/"))
	switch {
	case err != nil: // not in the error: it may hold a password
		return nil, fmt.Errorf("%s is not a URL: write it as %s", baseURLVariable, defaultBaseURL)
	case base.Scheme != "https" && base.Scheme != "http", base.Hostname() == "":
		return nil, fmt.Errorf("%s must be http:// or https:// and a host, as %s", baseURLVariable, defaultBaseURL)
	case base.User != nil, base.RawQuery != "", base.Fragment != "":
		return nil, fmt.Errorf("%s must have neither user, query nor fragment: the key belongs in %s", baseURLVariable, keyVariable)
	}
	key, model := getenv(keyVariable), getenv(modelVariable)
	if err := checkSetting(keyVariable, key, "the endpoint's key (any word where it asks for none)"); err != nil {
		return nil, err
	}
	if err := checkSetting(modelVariable, model, "the model's name, as gpt-4o-mini"); err != nil {
		return nil, err
	}
	return &openAI{
		endpoint: base.String() + "/chat/completions", host: base.Host, key: key, model: model,
		client: &http.Client{
			Timeout: requestTimeout,
			// A redirect would carry users' texts to a host that nobody named.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// checkSetting never shows the value.
func checkSetting(variable, value, is string) error {
	switch {
	case value == "":
		return fmt.Errorf("the openai scorer needs %s: set it to %s", variable, is)
	case len(value) > maxSettingBytes:
		return fmt.Errorf("%s is longer than %d bytes: set it to %s", variable, maxSettingBytes, is)
	case strings.ContainsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }):
		return fmt.Errorf("%s contains white space or a control character (a line break at its end?): set it to %s", variable, is)
	}
	return nil
}

func (o *openAI) Score(ctx context.Context, user string, texts []string) ([]float64, error) {
	scores := make([]float64, len(texts))
	scored := false // a request has been answered
	for start := 0; start < len(texts); {
		batch, places := nextBatch(texts, start)
		start = places.end
		if len(batch) == 0 {
			continue
		}
		answer, err := o.ask(ctx, user, batch)
		if errors.Is(err, errTemperature) {
			o.keepTemperature.Store(true)
			answer, err = o.ask(ctx, user, batch)
		}
		// What needs more requests than the limit admits in a window would never
		// end if each retry began anew: it waits, and keeps what it has.
		for scored && pause(ctx, err) {
			answer, err = o.ask(ctx, user, batch)
		}
		scored = true
		if err != nil {
			return nil, fmt.Errorf("scoring %d texts by the model at %s: %w", len(batch), o.host, err)
		}
		for i, place := range places.of {
			scores[place] = answer[i]
		}
	}
	return scores, nil
}

// maxPause is the longest wait for the next request.
const maxPause = 90 * time.Second

// pause waits as long as an error says, if that is worth it.
func pause(ctx context.Context, err error) (waited bool) {
	later, is := errors.AsType[*runner.RetryAfter](err)
	if !is || later.Delay > maxPause {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(later.Delay):
		return true
	}
}

// places of a batch's texts among all, and of the first text after them.
type places struct {
	of  []int
	end int
}

// nextBatch takes texts from start on as far as they fit a request. Texts
// without words stay out: they cost tokens and score 0.
func nextBatch(texts []string, start int) ([]string, places) {
	var batch []string
	var at places
	size := 0
	for at.end = start; at.end < len(texts) && len(batch) < maxBatchTexts; at.end++ {
		text := strings.ToValidUTF8(truncate(strings.TrimSpace(texts[at.end]), maxOpenAIBytes), "\uFFFD")
		if text == "" {
			continue
		}
		if size += len(text); size > maxBatchBytes && len(batch) > 0 {
			break
		}
		batch, at.of = append(batch, text), append(at.of, at.end)
	}
	return batch, at
}
