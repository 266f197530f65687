package tasks

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/weir-dev/weir/worker/runner"
)

// played is an activity without an id, so long before now.
func played(genre string, ago time.Duration) string {
	return fmt.Sprintf(`{"genre": %q, "timestamp": %d}`, genre, now.Add(-ago).UnixMilli())
}

const days = 24 * time.Hour

func TestUpdatePersonality(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("activity:games:u1", played("party", time.Hour), played("unheard of", time.Hour), played("party", time.Hour),
		"x", `{"timestamp": 1}`, `{"genre": "rpg"}`, played("rpg", -time.Hour))
	result := w.mustCall(UpdatePersonality, nil, "u1")
	check(t, "result", result, map[string]string{
		"user_id": "u1", "days": "1", "activity_through": "2026-11-25", "activities_read": "7", "activities_counted": "1",
		"activities_settled": "0", "unrecognized": "1", "duplicates": "1", "truncated": "false", "restarted": "false",
		"skipped": "map[bad_timestamp:1 in_future:1 no_genre:1 not_json_object:1]",
	})
	// A day of party games only is the 54th percentile's, and the first day moves
	// the estimate by 1 - 2^(-1/14) towards it.
	want := 0.5 + (1-math.Exp2(-1.0/14))*(0.5*(1+math.Erf(0.10/math.Sqrt2))-0.5)
	check(t, "profile", w.hash("personality:profile:u1"), map[string]string{
		"extraversion": fmt.Sprintf("%.4f", want), "openness": "0.5000", "conscientiousness": "0.5000", "agreeableness": "0.5000",
		"neuroticism": "0.5000", "personality_days": "1", "activity_through": "2026-11-25",
		"personality_updated_at": "2026-11-25T12:00:00Z",
	})
	if got := result["traits"].(map[string]any)["extraversion"].(float64); math.Abs(got-want) > 1e-9 {
		t.Errorf("got extraversion %v, want %v", got, want)
	}
}

func TestEachActivityCountsOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for day := range 40 {
		w.push("activity:music:u1", played([]string{"jazz", "rock", "pop"}[day%3], time.Duration(40-day)*days))
		w.push("activity:video:u1", played("documentary", time.Duration(40-day)*days))
	}
	w.mustCall(UpdatePersonality, nil, "u1")
	before := w.dump()
	w.now = w.now.Add(time.Minute)
	w.mustCall(UpdatePersonality, nil, "u1")
	if after := w.dump(); after != before {
		t.Errorf("a second run changed\n%s\nto\n%s", before, after)
	}

	estimates := func() map[string]string {
		fields := w.hash("personality:profile:u1")
		delete(fields, fieldSettled)
		delete(fields, fieldPersonality)
		return fields
	}
	want := estimates()
	for range 4 {
		w.now = w.now.Add(days)
		w.mustCall(UpdatePersonality, nil, "u1")
		if got := estimates(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("days without activity changed %v to %v", want, got)
		}
	}
}

// TestDailyRunsMakeWhatOneMakes compares a user whose profile is updated each
// day with one whose profile is made at the end, from the same activity.
func TestDailyRunsMakeWhatOneMakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for day := range 30 {
		w.now = now.Add(time.Duration(day-30) * days)
		for _, user := range []string{"daily", "once"} {
			w.push("activity:games:"+user, played([]string{"rpg", "party", "racing"}[day%3], time.Duration(30-day)*days))
		}
		w.mustCall(UpdatePersonality, nil, "daily")
	}
	w.mustCall(UpdatePersonality, nil, "once")
	daily, once := w.hash("personality:profile:daily"), w.hash("personality:profile:once")
	if fmt.Sprint(daily) != fmt.Sprint(once) || once["personality_days"] != "30" {
		t.Errorf("daily runs make\n%v\none run makes\n%v", daily, once)
	}
}

func TestActivityThatArrivesLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.push("activity:games:u1", played("party", 3*days), played("party", time.Hour))
	w.mustCall(UpdatePersonality, nil, "u1")
	w.push("activity:games:u1", played("rpg", days)) // yesterday is still open
	check(t, "late by a day", w.mustCall(UpdatePersonality, nil, "u1"), map[string]string{"days": "3", "activities_counted": "2", "activities_settled": "1"})
	w.push("activity:games:u1", played("rpg", 4*days))
	check(t, "too late", w.mustCall(UpdatePersonality, nil, "u1"), map[string]string{"days": "3", "activities_counted": "2", "activities_settled": "2"})
}

func TestPersonalityOfUnknownUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check(t, "no activity", w.mustCall(UpdatePersonality, nil, "u1"), map[string]string{"traits": "<nil>", "days": "0", "activity_through": ""})
	if dump := w.dump(); dump != "{}" {
		t.Errorf("a user without activity left %s", dump)
	}
	for _, user := range []any{"", "a\nb", []int{1}, 1.5} {
		if _, err := w.call(UpdatePersonality, map[string]any{"user_id": user}); !runner.IsPermanent(err) {
			t.Errorf("user %q: got error %v, want a permanent one", user, err)
		}
	}
}

func TestUnreadableState(t *testing.T) {
	t.Parallel()
	for _, state := range []string{
		"x", "null", `{"days": -1}`, `{"through": "soon", "days": 1, "traits": [0.5, 0.5, 0.5, 0.5, 0.5]}`,
		`{"through": "2026-11-20", "days": 1, "traits": [0.5, 0.5, 0.5, 0.5, 7]}`,
	} {
		w := newWorld(t)
		w.redis.HSet(t.Context(), "personality:profile:u1", fieldSettled, state)
		w.push("activity:games:u1", played("party", 10*days))
		check(t, state, w.mustCall(UpdatePersonality, nil, "u1"), map[string]string{"restarted": "true", "days": "1"})
		check(t, state+" once more", w.mustCall(UpdatePersonality, nil, "u1"), map[string]string{"restarted": "false", "days": "1"})
	}
}

func TestUpdatePersonalityOfAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, key := range []string{"activity:music:u1", "activity:video:u1", "activity:games:u2", "activity:books:u3", "activity:music:a:b"} {
		w.push(key, "x")
	}
	result := w.mustCall(UpdatePersonality, nil)
	check(t, "result", result, map[string]string{"users": "3", "skipped_users": "0"})
	var users []string
	for _, child := range w.enqueued {
		users = append(users, child.Kwargs["user_id"].(string))
		if child.Task != UpdatePersonality || child.Queue != "personality" {
			t.Errorf("got child %+v", child)
		}
	}
	slices.Sort(users)
	if !slices.Equal(users, []string{"a:b", "u1", "u2"}) {
		t.Errorf("got children for %q, each user once", users)
	}
}
