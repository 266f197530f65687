package tasks

import (
	"encoding/json"
	"strings"
	"time"
)

// activityPrefix, a kind, a colon and the user's id make the key of the user's
// activities of that kind.
const activityPrefix = "activity:"

const (
	maxGenres     = 16 // of one activity; further ones are not read
	maxGenreBytes = 64
	minMinutes    = 1.0
	maxMinutes    = 180.0
)

// activity is something that a user listened to, watched or played.
type activity struct {
	key     string // tells it from others
	genres  []string
	minutes float64 // 0: not said
	at      time.Time
}

// parseActivity reads {"id", "genre" or "genres" or "category", "minutes",
// "timestamp"}: genres are a string or an array of strings, and minutes can be
// duration_seconds or duration_ms. id and length may be absent.
func parseActivity(element string) (a activity, fault malformed) {
	if len(element) > maxElementBytes {
		return a, tooLarge
	}
	var record map[string]json.RawMessage
	if json.Unmarshal([]byte(element), &record) != nil || record == nil {
		return a, notJSON
	}
	var known bool
	if a.key, known = recordKey(record["id"], element); !known {
		return a, badID
	}
	for _, field := range []string{"genre", "genres", "category"} {
		a.genres = append(a.genres, parseGenres(record[field])...)
	}
	if len(a.genres) == 0 {
		return a, noGenre
	}
	a.genres = a.genres[:min(len(a.genres), maxGenres)]
	a.minutes = parseMinutes(record)
	if a.at, known = parseTimestamp(record["timestamp"]); !known {
		return a, badTimestamp
	}
	return a, ""
}

func parseGenres(data json.RawMessage) []string {
	var one string
	var many []string
	if json.Unmarshal(data, &one) == nil {
		many = []string{one}
	} else if json.Unmarshal(data, &many) != nil {
		return nil
	}
	var genres []string
	for _, genre := range many {
		if genre = strings.TrimSpace(genre); genre != "" && len(genre) <= maxGenreBytes {
			genres = append(genres, genre)
		}
	}
	return genres
}

// parseMinutes is 0 where a record does not say how long the activity lasted, or
// nothing that can be true. What was left running all day weighs three hours.
func parseMinutes(record map[string]json.RawMessage) float64 {
	for _, length := range []struct {
		field    string
		inMinute float64
	}{{"minutes", 1}, {"duration_seconds", 60}, {"duration_ms", 60_000}} {
		var number float64
		if json.Unmarshal(record[length.field], &number) == nil && number > 0 {
			return min(max(number/length.inMinute, minMinutes), maxMinutes)
		}
	}
	return 0
}
