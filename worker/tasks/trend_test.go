package tasks

import (
	"fmt"
	"testing"
	"time"
)

// TestTrendOfAFullDay runs hourly over two days: a day's value is the one of
// its fullest view, though the window leaves the day bit by bit.
func TestTrendOfAFullDay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for hour := range 24 {
		at := time.Date(2026, 11, 25, hour, 30, 0, 0, time.UTC)
		w.push("chat:messages:u1", chat(fmt.Sprint(hour), map[bool]string{true: "great", false: "bad"}[hour < 18], now.Sub(at)))
	}
	const full = `{"mean":0.3331,"label":"positive","messages":24,"positive":18,"neutral":0,"negative":6}`
	for hour := range 60 {
		w.now = time.Date(2026, 11, 25, hour, 0, 0, 0, time.UTC)
		w.mustCall(AnalyzeChatSentiment, nil, "u1")
		got := w.hash("personality:trend:u1")["2026-11-25"]
		if hour >= 24 && got != full {
			t.Fatalf("at %v: got %s, want the whole day's", w.now, got)
		}
	}
}

func TestTrendIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for age := range maxTrendDays + 20 {
		date := now.AddDate(0, 0, -age-1).Format(time.DateOnly)
		w.redis.HSet(t.Context(), "personality:trend:u1", date, `{"mean":0.1,"messages":5}`)
	}
	w.redis.HSet(t.Context(), "personality:trend:u1", "junk", "x", "2026-11-25", "broken")
	w.push("chat:messages:u1", chat("m1", "great", time.Hour))
	w.mustCall(AnalyzeChatSentiment, nil, "u1")
	trend := w.hash("personality:trend:u1")
	if len(trend) != maxTrendDays {
		t.Errorf("got %d days, want %d", len(trend), maxTrendDays)
	}
	check(t, "trend", trend, map[string]string{
		"junk": "absent", "2026-11-25": `{"mean":0.6249,"label":"positive","messages":1,"positive":1,"neutral":0,"negative":0}`,
		now.AddDate(0, 0, -maxTrendDays+1).Format(time.DateOnly): `{"mean":0.1,"messages":5}`,
		now.AddDate(0, 0, -maxTrendDays).Format(time.DateOnly):   "absent",
	})
}
