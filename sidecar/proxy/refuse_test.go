package proxy

import (
	"encoding/base64"
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

var update = flag.Bool("update", false, "write the golden files anew")

// twoPolicies are a refusal by the first, by both of its limits, and room at
// the second.
func twoPolicies(t *testing.T) (claims, limiter.Decision) {
	t.Helper()
	hour := ruleset.Limit{Requests: 200, WindowMillis: 3_600_000}
	minute := ruleset.Limit{Requests: 100, WindowMillis: 60_000}
	compiled := mustCompile(t, basic("spotify", nil), basic("team", nil))
	c := claims{policies: compiled.policies, takes: make([]limiter.Take, 2)}
	return c, limiter.Decision{RetryAfter: 11_482_001 * time.Microsecond, Quotas: []limiter.Quota{
		{Take: 0, Limit: hour, Remaining: 0, Reset: time.Second, RetryAfter: time.Second},
		{Take: 0, Limit: minute, Remaining: 0, Reset: 11_482_001 * time.Microsecond, RetryAfter: 11_482_001 * time.Microsecond},
		{Take: 1, Limit: hour, Remaining: 7, Reset: 40 * time.Second},
	}}
}

func TestRefusalGolden(t *testing.T) {
	t.Parallel()
	c, d := twoPolicies(t)
	reject := mustCompile(t, basic("spotify", func(p *ruleset.Policy) { p.IfMissing = ruleset.IfMissingReject })).policies[0]
	for name, f := range map[string]*refusal{
		"quota-exceeded":   new(refusal).quotaExceeded(&c, d),
		"store":            storeUnavailable(),
		"identity-missing": unnamed(reject),
		"unreachable":      unreachable(),
	} {
		w := httptest.NewRecorder()
		f.write(w, httptest.NewRequest(http.MethodGet, "/", nil))
		var got strings.Builder
		got.WriteString("# " + rateLimitDraft + "\n")
		got.WriteString(http.StatusText(w.Code) + "\n")
		if err := w.Header().Write(&got); err != nil {
			t.Fatal(err)
		}
		got.WriteString("\n" + w.Body.String() + "\n")
		file := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatalf("%v: write it with `go test ./sidecar/proxy -update`", err)
		}
		if normal := strings.ReplaceAll(got.String(), "\r\n", "\n"); normal != strings.ReplaceAll(string(want), "\r\n", "\n") {
			t.Errorf("%s:\n got %s\nwant %s", name, normal, want)
		}
	}
}

// What a gRPC client's own types read from the refusal.
func TestGRPCRefusal(t *testing.T) {
	t.Parallel()
	c, d := twoPolicies(t)
	r := httptest.NewRequest(http.MethodPost, "/a.B/C", nil)
	r.Header.Set("Content-Type", "application/grpc+proto")
	w := httptest.NewRecorder()
	new(refusal).quotaExceeded(&c, d).write(w, r)
	h := w.Header()
	if w.Code != http.StatusOK || h.Get("Grpc-Status") != "8" || h.Get("Content-Type") != "application/grpc" || w.Body.Len() > 0 {
		t.Fatalf("answer %d %v %q, want trailers only with grpc-status 8", w.Code, h, w.Body)
	}
	encoded, err := base64.RawStdEncoding.DecodeString(h.Get("Grpc-Status-Details-Bin"))
	if err != nil {
		t.Fatal(err)
	}
	var got status.Status
	if err := proto.Unmarshal(encoded, &got); err != nil {
		t.Fatal(err)
	}
	message, err := url.PathUnescape(h.Get("Grpc-Message"))
	if err != nil || got.GetCode() != 8 || got.GetMessage() != message || len(got.GetDetails()) != 2 {
		t.Fatalf("status %v, grpc-message %q (%v); want code 8, the same message, two details", &got, message, err)
	}
	var retry errdetails.RetryInfo
	if err := got.GetDetails()[0].UnmarshalTo(&retry); err != nil {
		t.Fatal(err)
	}
	if want := 11_483 * time.Millisecond; retry.GetRetryDelay().AsDuration() != want {
		t.Errorf("retry delay %s, want %s", retry.GetRetryDelay().AsDuration(), want)
	}
	var quota errdetails.QuotaFailure
	if err := got.GetDetails()[1].UnmarshalTo(&quota); err != nil {
		t.Fatal(err)
	}
	if v := quota.GetViolations(); len(v) != 1 || v[0].GetSubject() != "service:spotify" || v[0].GetDescription() != message {
		t.Errorf("violations %v, want one of service:spotify", v)
	}
}

func TestPercentEncoded(t *testing.T) {
	t.Parallel()
	if got, want := percentEncoded("100% \"ä\"\n"), `100%25 "%C3%A4"%0A`; got != want {
		t.Errorf("percentEncoded = %q, want %q", got, want)
	}
}

func TestRateLimitFields(t *testing.T) {
	t.Parallel()
	limit := func(n, seconds int64) ruleset.Limit { return ruleset.Limit{Requests: n, WindowMillis: seconds * 1000} }
	for _, c := range []struct {
		reason        string
		d             limiter.Decision
		policy, state string
	}{
		{
			"untouched quotas are full now",
			limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: limit(5, 60), Remaining: 5}}},
			`"a";q=5;w=60`, `"a";r=5;t=0`,
		},
		{
			"the one with the least left, its time rounded up",
			limiter.Decision{Admitted: true, Quotas: []limiter.Quota{
				{Limit: limit(5, 60), Remaining: 4, Reset: time.Minute},
				{Limit: limit(100, 3600), Remaining: 1, Reset: 1001 * time.Millisecond},
			}},
			`"a";q=100;w=3600`, `"a";r=1;t=2`,
		},
		{
			"a lowered limit has nothing left, not less",
			limiter.Decision{Admitted: true, Quotas: []limiter.Quota{{Limit: limit(5, 1), Remaining: -3, Reset: time.Millisecond}}},
			`"a";q=5;w=1`, `"a";r=0;t=1`,
		},
		{
			"never is no time",
			limiter.Decision{RetryAfter: -1, Quotas: []limiter.Quota{{Limit: limit(5, 1), Remaining: 5, RetryAfter: -1}}},
			`"a";q=5;w=1`, `"a";r=5`,
		},
		{"no quotas, no fields", limiter.Decision{Admitted: true}, "", ""},
	} {
		compiled := mustCompile(t, basic("a", nil))
		h := http.Header{}
		addRateLimitFields(h, appendQuotaItems(nil, &claims{policies: compiled.policies}, c.d))
		if got := strings.Join(h[fieldRateLimitPolicy], ""); got != c.policy {
			t.Errorf("%s: RateLimit-Policy %s, want %s", c.reason, got, c.policy)
		}
		if got := strings.Join(h[fieldRateLimit], ""); got != c.state {
			t.Errorf("%s: RateLimit %s, want %s", c.reason, got, c.state)
		}
	}
	if got, want := string(appendSFString(nil, "a\"\\\xff")), `"a\"\\?"`; got != want {
		t.Errorf("appendSFString = %s, want %s", got, want)
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0: "1", time.Microsecond: "1", time.Second: "1", time.Second + 1: "2", -1: "",
	} {
		h := http.Header{}
		setRetryAfter(h, d)
		if got := h.Get("Retry-After"); got != want {
			t.Errorf("Retry-After of %s = %q, want %q", d, got, want)
		}
	}
}

// Who is refused unnamed learns what to send.
func TestUnnamedSaysWhatToSend(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		source ruleset.Source
		want   string
	}{
		{ruleset.Source{Header: &ruleset.HeaderSource{Name: "x-user-ID"}}, "Send the header x-user-ID."},
		{ruleset.Source{BearerToken: true}, "Send a bearer token in the header Authorization."},
		{ruleset.Source{JWTClaim: "sub"}, `Send a JSON Web Token with the claim "sub" as bearer token in the header Authorization.`},
		{ruleset.Source{Cookie: "session"}, "Send the cookie session."},
		{ruleset.Source{QueryParameter: "user"}, `Send the parameter "user" in the URL's query.`},
		{
			ruleset.Source{ClientIP: &ruleset.ClientIPSource{TrustedHops: 2, IPv6PrefixLength: 64}},
			"Send it through the proxies that append to the header X-Forwarded-For.",
		},
	} {
		reject := mustCompile(t, basic("p", func(p *ruleset.Policy) {
			p.IfMissing, p.Sources = ruleset.IfMissingReject, []ruleset.Source{c.source}
		})).policies[0]
		if got := unnamed(reject).problem.Detail; !strings.HasSuffix(got, c.want) {
			t.Errorf("%+v: %q, want it to end in %q", c.source, got, c.want)
		}
	}
}

// The body is what encoding/json makes of it.
func TestProblemIsEncodedAsJSON(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{`a "b"\`, "<&>", "plain"}))
		p := problem{
			Type: text.Draw(t, "type"), Title: text.Draw(t, "title"), Detail: text.Draw(t, "detail"),
			Status: rapid.Int().Draw(t, "status"), Policy: text.Draw(t, "policy"), Service: text.Draw(t, "service"),
			ViolatedPolicies: rapid.SliceOfN(text, 0, 3).Draw(t, "violated"),
			Limit:            rapid.Int64().Draw(t, "limit"), Window: rapid.Int64Range(0, 2).Draw(t, "window"), RetryAfterMillis: rapid.Int64Range(0, 2).Draw(t, "retry"),
		}
		want, err := json.Marshal(&p)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.appendJSON(nil); string(got) != string(want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}
