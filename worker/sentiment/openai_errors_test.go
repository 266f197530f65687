package sentiment

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/runner"
)

func TestOpenAIRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, retryAfter string
		status             int
		permanent          bool
		delay              time.Duration // 0: no RetryAfter
		says               string
	}{
		{reason: "the sidecar's limit", status: 429, retryAfter: "7", delay: 7 * time.Second, says: "429"},
		{reason: "overload", status: 503, retryAfter: "2", delay: 2 * time.Second, says: "503"},
		{reason: "at once", status: 429, retryAfter: "0", delay: time.Second},
		{reason: "a day", status: 429, retryAfter: "86400", delay: maxRetryDelay},
		{reason: "a date long ago", status: 429, retryAfter: "Wed, 21 Oct 2015 07:28:00 GMT", delay: time.Second},
		{reason: "a date far away", status: 429, retryAfter: "Fri, 31 Dec 2099 23:59:59 GMT", delay: maxRetryDelay},
		{reason: "no Retry-After", status: 429},
		{reason: "an unreadable one", status: 429, retryAfter: "soon"},
		{reason: "a negative one", status: 429, retryAfter: "-1"},
		{reason: "an endless one", status: 429, retryAfter: strings.Repeat("9", 100)},
		{reason: "a broken server", status: 500, retryAfter: "5"},
		{reason: "a bad gateway", status: 502},
		{reason: "a bad model", status: 400, permanent: true, says: modelVariable},
		{reason: "a bad key", status: 401, permanent: true, says: keyVariable},
		{reason: "a key without rights", status: 403, permanent: true, says: keyVariable},
		{reason: "a bad path", status: 404, permanent: true, says: baseURLVariable},
		{reason: "a redirect", status: 307, permanent: true, says: baseURLVariable},
	} {
		e := startEndpoint(t, func(w http.ResponseWriter, _ received) {
			if c.retryAfter != "" {
				w.Header().Set("Retry-After", c.retryAfter)
			}
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			fmt.Fprintf(w, `{"error": {"message": "Incorrect API key %s for %s", "param": "%s"}}`, secretKey, secretText, secretText)
		})
		_, err := e.scorer(t).Score(t.Context(), "u", []string{secretText})
		if err == nil {
			t.Errorf("%s: want an error", c.reason)
			continue
		}
		var later *runner.RetryAfter
		if is := errors.As(err, &later); is != (c.delay != 0) || is && later.Delay != c.delay {
			t.Errorf("%s: got %#v, want a delay of %v", c.reason, later, c.delay)
		}
		if runner.IsPermanent(err) != c.permanent || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got permanent %v, %q, want permanent %v and %q in it", c.reason, runner.IsPermanent(err), err, c.permanent, c.says)
		}
		if len(e.got) != 1 {
			t.Errorf("%s: got %d requests, want 1", c.reason, len(e.got))
		}
		checkSecrets(t, c.reason, err)
	}
}

func TestOpenAIThatIsAway(t *testing.T) {
	t.Parallel()
	e := startEndpoint(t, rate)
	scorer := e.scorer(t)
	e.Close()
	_, err := scorer.Score(t.Context(), "u", []string{secretText})
	if err == nil || runner.IsPermanent(err) {
		t.Fatalf("got %v, want an error that is worth a retry", err)
	}
	checkSecrets(t, "away", err)
}

func TestOpenAIFromEnvironment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, base, key, model, says string
	}{
		{"all default", "", secretKey, "m", ""},
		{"a local server", "http://127.0.0.1:11434/v1", "none", "llama3:8b", ""},
		{"no key", "", "", "m", keyVariable},
		{"a key with its file's line break", "", secretKey + "\n", "m", keyVariable},
		{"a huge key", "", strings.Repeat(secretKey, 1000), "m", keyVariable},
		{"no model", "", secretKey, "", modelVariable},
		{"a model with a space", "", secretKey, "gpt 4", modelVariable},
		{"no scheme", "api.openai.com/v1", secretKey, "m", baseURLVariable},
		{"another scheme", "ftp://api.openai.com", secretKey, "m", baseURLVariable},
		{"no host", "https:///v1", secretKey, "m", baseURLVariable},
		{"no URL", "https://h:port" + secretKey, secretKey, "m", baseURLVariable},
		{"a password", "https://u:" + secretKey + "@h/v1", secretKey, "m", baseURLVariable},
		{"a query", "https://h/v1?key=" + secretKey, secretKey, "m", baseURLVariable},
	} {
		_, err := OpenAIFromEnvironment(environment(map[string]string{
			baseURLVariable: c.base, keyVariable: c.key, modelVariable: c.model,
		}))
		if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got error %v, want one about %q", c.reason, err, c.says)
		}
		if err != nil {
			checkSecrets(t, c.reason, err)
		}
	}
}
