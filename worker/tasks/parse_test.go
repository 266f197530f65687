package tasks

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestParseTimestamp(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 25, 10, 30, 15, 0, time.UTC)
	for _, c := range []struct {
		reason, json string
		want         time.Time // zero: refused
	}{
		{"RFC 3339", `"2026-11-25T10:30:15Z"`, at},
		{"another zone", `"2026-11-25T16:00:15+05:30"`, at},
		{"a fraction", `"2026-11-25T10:30:15.250Z"`, at.Add(250 * time.Millisecond)},
		{"no zone, as Python's utcnow().isoformat()", `"2026-11-25T10:30:15.000001"`, at.Add(time.Microsecond)},
		{"a space, as Python's str()", `"2026-11-25 10:30:15+00:00"`, at},
		{"a space and no zone", `" 2026-11-25 10:30:15 "`, at},
		{"seconds", "1795602615", at},
		{"seconds with a fraction, as Python's time()", "1795602615.25", at.Add(250 * time.Millisecond)},
		{"milliseconds, as JavaScript's Date.now()", "1795602615250", at.Add(250 * time.Millisecond)},
		{"seconds as text", `"1795602615"`, at},
		{"milliseconds as text", `"1795602615000"`, at},
		{"an exponent", "1.795602615e9", at},
		{"nothing", "", time.Time{}},
		{"null", "null", time.Time{}},
		{"an empty text", `""`, time.Time{}},
		{"words", `"yesterday"`, time.Time{}},
		{"a date only", `"2026-11-25"`, time.Time{}},
		{"no such day", `"2026-02-30T10:30:15Z"`, time.Time{}},
		{"zero", "0", time.Time{}},
		{"negative", "-1795602615", time.Time{}},
		{"microseconds", "1795602615250000", time.Time{}},
		{"infinite", `"Inf"`, time.Time{}},
		{"no number", `"NaN"`, time.Time{}},
		{"a year too far", `"9999-01-01T00:00:00Z"`, time.Time{}},
		{"an object", `{"$date": 1795602615}`, time.Time{}},
		{"true", "true", time.Time{}},
	} {
		got, is := parseTimestamp(json.RawMessage(c.json))
		if is != !c.want.IsZero() || is && !got.Equal(c.want) {
			t.Errorf("%s: %s is %v, %v, want %v", c.reason, c.json, got, is, c.want)
		}
	}
}

func TestParseMessage(t *testing.T) {
	t.Parallel()
	const at = `"timestamp": 1795602615`
	for _, c := range []struct {
		reason, element, key string
		fault                malformed
	}{
		{"as documented", `{"id": "m1", "role": "user", "content": "hi", ` + at + `}`, "id:m1", ""},
		{"a number as id", `{"id": 7, "role": "user", "content": "hi", ` + at + `}`, "id:7", ""},
		{"another case", `{"id": "m1", "role": " User ", "content": "", ` + at + `}`, "id:m1", ""},
		{"more fields", `{"id": "m1", "role": "user", "content": "hi", "model": {"x": []}, ` + at + `}`, "id:m1", ""},
		{"nothing", "", "", notJSON},
		{"no JSON", "{", "", notJSON},
		{"an array", "[]", "", notJSON},
		{"null", "null", "", notJSON},
		{"text", `"hi"`, "", notJSON},
		{"two objects", "{}{}", "", notJSON},
		{"an object as id", `{"id": {}, "role": "user", "content": "hi", ` + at + `}`, "", badID},
		{"an empty id", `{"id": "", "role": "user", "content": "hi", ` + at + `}`, "", badID},
		{"a fraction as id", `{"id": 1.5, "role": "user", "content": "hi", ` + at + `}`, "", badID},
		{"no role", `{"id": "m1", "content": "hi", ` + at + `}`, "", badRole},
		{"a number as role", `{"id": "m1", "role": 1, "content": "hi", ` + at + `}`, "", badRole},
		{"no content", `{"id": "m1", "role": "user", ` + at + `}`, "", badContent},
		{"null as content", `{"id": "m1", "role": "user", "content": null, ` + at + `}`, "", badContent},
		{"parts as content", `{"id": "m1", "role": "user", "content": ["hi"], ` + at + `}`, "", badContent},
		{"no timestamp", `{"id": "m1", "role": "user", "content": "hi"}`, "", badTimestamp},
		{"too large", `{"content": "` + strings.Repeat("x", maxElementBytes) + `"}`, "", tooLarge},
	} {
		m, fault := parseMessage(c.element)
		if fault != c.fault || fault == "" && (m.key != c.key || m.role != "user" || m.at.IsZero()) {
			t.Errorf("%s: got %+v, fault %q, want key %q, fault %q", c.reason, m, fault, c.key, c.fault)
		}
	}
}

func TestRecordKey(t *testing.T) {
	t.Parallel()
	keys := map[string]string{}
	long := strings.Repeat("x", 1000)
	for _, c := range []struct{ reason, id, element string }{
		{"a short id", `"m1"`, "{}"}, {"another", `"m2"`, "{}"}, {"a long id", `"` + long + `1"`, "{}"}, {"another long id", `"` + long + `2"`, "{}"},
		{"no id", "", "{1}"}, {"no id, another record", "null", "{2}"}, {"no id, a long record", "", long + "1"}, {"no id, another long record", "", long + "2"},
	} {
		key, valid := recordKey(json.RawMessage(c.id), c.element)
		if !valid || len(key) > maxKeyBytes || keys[key] != "" {
			t.Errorf("%s: got a key of %d bytes, valid %v, the same as of %q", c.reason, len(key), valid, keys[key])
		}
		keys[key] = c.reason
	}
}

func FuzzParseMessage(f *testing.F) {
	for _, seed := range []string{
		"", "null", "{}", `{"id": 1, "role": "user", "content": "hi", "timestamp": "2026-11-25T10:30:15Z"}`,
		`{"id": "x", "role": "user", "content": "\ud800", "timestamp": 1e300}`, "{\"id\": \"\xff\"}",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, element string) {
		m, fault := parseMessage(element)
		if fault == "" && (m.key == "" || m.at.Before(earliest) || !m.at.Before(latest) || !json.Valid([]byte(element))) {
			t.Errorf("%q is taken for %+v", element, m)
		}
		elementTime(element)
	})
}

func FuzzParseActivity(f *testing.F) {
	for _, seed := range []string{
		"", "null", "{}", `{"genre": "pop", "minutes": 3, "timestamp": 1795602615}`,
		`{"genres": ["a", 1], "category": {}, "duration_ms": -1e308, "timestamp": "1795602615"}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, element string) {
		a, fault := parseActivity(element)
		if fault != "" {
			return
		}
		if a.key == "" || len(a.genres) == 0 || len(a.genres) > maxGenres || a.minutes < 0 || a.minutes > maxMinutes {
			t.Errorf("%q is taken for %+v", element, a)
		}
		for _, kind := range kinds {
			day := mix{}
			day.add(kind, a)
			for _, estimate := range day.estimate() {
				if !(estimate > 0 && estimate < 1) {
					t.Errorf("%q makes %v", element, day.estimate())
				}
			}
		}
	})
}

func TestParseWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want time.Duration // 0: refused
	}{
		{"24h", 24 * time.Hour}, {"1m", time.Minute}, {"7d", 7 * 24 * time.Hour}, {"31d", maxWindow}, {"744h", maxWindow},
		{"1h30m", 90 * time.Minute}, {"59s", 0}, {"32d", 0}, {"744h1s", 0}, {"0", 0}, {"-24h", 0}, {"24", 0}, {"", 0},
		{"d", 0}, {"1.5d", 0}, {"-1d", 0}, {"+1d", 0}, {"99999999999999999999d", 0}, {"a day", 0}, {strings.Repeat("9", 1000) + "h", 0},
	} {
		got, err := parseWindow(c.text)
		if got != c.want || (err != nil) != (c.want == 0) {
			t.Errorf("parseWindow(%.20q): got %v, error %v, want %v", c.text, got, err, c.want)
		}
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("parseWindow(%.20q): the error has %d bytes", c.text, len(err.Error()))
		}
	}
}

func TestCheckUserID(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		id    string
		valid bool
	}{
		{"u1", true}, {"a:b", true}, {"*?[x]\\", true}, {"ünï", true}, {" ", true}, {strings.Repeat("x", maxUserIDBytes), true},
		{"", false}, {strings.Repeat("x", maxUserIDBytes+1), false}, {"a\nb", false}, {"a\x00", false}, {"a\u0085", false}, {"\xff", false},
	} {
		if err := checkUserID(c.id); (err == nil) != c.valid {
			t.Errorf("checkUserID(%.20q): got %v, want valid: %v", c.id, err, c.valid)
		}
	}
}
