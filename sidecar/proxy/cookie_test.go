package proxy

import (
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// linesOf are fields of one name.
func linesOf(name string, values ...string) []field {
	fields := make([]field, 0, len(values))
	for _, value := range values {
		fields = append(fields, field{name, value})
	}
	return fields
}

func TestCookie(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		lines  []string
		want   string
	}{
		{"alone", []string{"session=abc"}, "abc"},
		{"among others", []string{"a=1; session=abc; b=2"}, "abc"},
		{"the first of several", []string{"session=abc; session=def"}, "abc"},
		{"over all fields", []string{"a=1", "b=2; session=abc", "session=def"}, "abc"},
		{"without the space that separates", []string{"a=1;session=abc;b=2"}, "abc"},
		{"with more of it", []string{"a=1;\t session = abc ;b=2"}, "abc"},
		{"a value with equal signs", []string{"session=YWJj=="}, "YWJj=="},
		{"quoted is the same", []string{`session="abc"`}, "abc"},
		{"one quote is no pair", []string{`session="`}, `"`},
		{"percent-encoded is the same", []string{"session=%61b%63"}, "abc"},
		{"what is no escape stays", []string{"session=100%;a=1"}, "100%"},
		{"the name has case", []string{"Session=abc"}, ""},
		{"the name is whole", []string{"xsession=1; sessionx=2; session.=3"}, ""},
		{"a name inside a value", []string{"a=session=abc"}, ""},
		{"no value", []string{"session="}, ""},
		{"an empty one first is the first", []string{"session=; session=abc"}, ""},
		{"no equal sign is no pair", []string{"session; session=abc"}, "abc"},
		{"no name", []string{"=session"}, ""},
		{"nothing between", []string{";;; session=abc"}, "abc"},
		{"nothing at all", []string{""}, ""},
		{"no cookies", nil, ""},
	} {
		if got := cookieOf(linesOf("cookie", c.lines...), "session"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
	if got := cookieOf(linesOf("Set-Cookie", "session=abc"), "session"); got != "" {
		t.Errorf("another field: got %q", got)
	}
}

// Where net/http finds a cookie, it is the same, but for space around its
// value. What has no equal sign is a cookie without name (RFC 6265bis section
// 5.6), which net/http takes for one without value.
func TestCookieAgreesWithNetHTTP(t *testing.T) {
	t.Parallel()
	pair := rapid.Custom(func(t *rapid.T) string {
		return rapid.SampledFrom([]string{"session", "Session", "a", ""}).Draw(t, "name") +
			rapid.SampledFrom([]string{"=", " ="}).Draw(t, "equals") +
			rapid.SampledFrom([]string{"", "abc", `"abc"`, "a=b", " a "}).Draw(t, "value")
	})
	rapid.Check(t, func(t *rapid.T) {
		lines := []string{
			strings.Join(rapid.SliceOfN(pair, 0, 4).Draw(t, "first"), rapid.SampledFrom([]string{";", "; "}).Draw(t, "separator")),
			strings.Join(rapid.SliceOfN(pair, 0, 4).Draw(t, "second"), "; "),
		}
		r := http.Request{Header: http.Header{"Cookie": lines}}
		cookie, err := r.Cookie("session")
		if err != nil {
			return
		}
		if got := cookieOf(linesOf("Cookie", lines...), "session"); got != strings.TrimSpace(cookie.Value) {
			t.Fatalf("%q: got %q, net/http has %q", lines, got, cookie.Value)
		}
	})
}

func FuzzCookie(f *testing.F) {
	f.Add(`a=1; session="%61b"`, "session")
	f.Add("=;;==", "")
	f.Fuzz(func(t *testing.T, line, name string) {
		got := cookieOf(linesOf("Cookie", line), name)
		if len(got) > len(line) || got != "" && !strings.Contains(line, name) {
			t.Fatalf("%q of %q is %q", name, line, got)
		}
	})
}
