package tasks

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"time"
)

// Times outside of these years are mistakes of a unit, not times.
var (
	earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// layouts of times as text: RFC 3339, with T or a space, with or without zone
// (then UTC), as Python's isoformat() and str() write them. Fractions of a
// second are read with each.
var layouts = []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05"}

// parseTimestamp reads a time from a JSON string in one of layouts, or from Unix
// seconds or milliseconds, as a number or a string of one. Seconds reach 1e11 in
// the year 5138 and milliseconds did in 1973, so that a number says which it is.
func parseTimestamp(data json.RawMessage) (time.Time, bool) {
	text := string(data)
	if strings.HasPrefix(text, `"`) {
		if json.Unmarshal(data, &text) != nil {
			return time.Time{}, false
		}
		text = strings.TrimSpace(text)
		for _, layout := range layouts {
			if at, err := time.Parse(layout, text); err == nil {
				return plausible(at)
			}
		}
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(number) || math.Abs(number) > 1e14 {
		return time.Time{}, false
	}
	if math.Abs(number) < 1e11 {
		number *= 1000
	}
	return plausible(time.UnixMicro(int64(math.Round(number * 1000))))
}

func plausible(at time.Time) (time.Time, bool) {
	return at.UTC(), !at.Before(earliest) && at.Before(latest)
}

// day of a time is its date in UTC: 2006-01-02.
func day(at time.Time) string { return at.UTC().Format(time.DateOnly) }
