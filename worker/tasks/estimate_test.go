package tasks

import (
	"math"
	"testing"
)

func TestWeightings(t *testing.T) {
	t.Parallel()
	if len(weightings) != len(kinds) {
		t.Errorf("there are %d weightings and %d kinds", len(weightings), len(kinds))
	}
	for _, kind := range kinds {
		seen := map[string]string{}
		if unitMinutes[kind] == 0 {
			t.Errorf("%s: an activity that does not say how long it lasted weighs nothing", kind)
		}
		for place, group := range weightings[kind] {
			if group.source == "" || len(group.genres) == 0 {
				t.Errorf("%s, %s: want a source and genres", kind, group.name)
			}
			for _, genre := range group.genres {
				if other := seen[genre]; other != "" {
					t.Errorf("%s: %q is both %s and %s", kind, genre, other, group.name)
				}
				seen[genre] = group.name
				if got, known := findGroup(kind, genre); !known || got != place {
					t.Errorf("%s: %q is not found: it is not written as genres are compared", kind, genre)
				}
			}
			for _, weight := range group.weights {
				if math.Abs(weight) > 0.3 || weight == 0 {
					t.Errorf("%s, %s: weight %v is beyond what the sources report", kind, group.name, weight)
				}
			}
		}
	}
}

func TestFindGroup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ kind, genre, want string }{
		{"music", "jazz", "reflective and complex"}, {"music", "Hip-Hop", "energetic and rhythmic"},
		{"music", "southern hip hop", "energetic and rhythmic"}, {"music", "indie pop", "upbeat and conventional"},
		{"music", "soft rock", "mellow"}, {"music", "Classic Rock", "intense and rebellious"}, {"music", "R&B", "mellow"},
		{"music", "polka", ""}, {"music", "", ""}, {"music", "pop quiz", ""}, {"video", "Sci-Fi", "thrilling"},
		{"video", "Science & Technology", "cerebral"}, {"games", "Action-Adventure", "action-adventure and platform"},
		{"games", "MMORPG", "role-playing and strategy"}, {"games", "jazz", ""}, {"books", "novel", ""},
	} {
		got := ""
		if place, known := findGroup(c.kind, c.genre); known {
			got = weightings[c.kind][place].name
		}
		if got != c.want {
			t.Errorf("%s %q: got group %q, want %q", c.kind, c.genre, got, c.want)
		}
	}
}

func TestEstimate(t *testing.T) {
	t.Parallel()
	percentile := func(deviation float64) float64 { return 0.5 * (1 + math.Erf(deviation/math.Sqrt2)) }
	type part struct {
		kind string
		a    activity
	}
	of := func(kind string, minutes float64, genres ...string) part {
		return part{kind, activity{genres: genres, minutes: minutes}}
	}
	for _, c := range []struct {
		reason string
		parts  []part
		trait  trait
		want   float64
	}{
		{"nothing says nothing", nil, openness, 0.5},
		{"one kind only", []part{of("games", 10, "party")}, extraversion, percentile(reported)},
		{"the unit does not matter alone", []part{of("games", 0, "party")}, extraversion, percentile(reported)},
		{"shares of time", []part{of("games", 30, "party"), of("games", 90, "racing")}, extraversion, percentile(reported / 4)},
		{"a group without weights counts as time", []part{of("video", 30, "horror"), of("video", 30, "action")}, agreeableness, percentile(-reported / 2)},
		{"kinds count alike", []part{of("games", 180, "party"), of("music", 1, "jazz")}, extraversion, percentile(reported / 2)},
		{"the genres of an activity share its time", []part{of("games", 60, "party", "rpg")}, extraversion, percentile(reported / 2)},
		{"unknown genres have no part", []part{of("games", 60, "party", "unheard of")}, extraversion, percentile(reported)},
		{"unknown activities have no part", []part{of("games", 60, "party"), of("music", 60, "polka")}, extraversion, percentile(reported)},
	} {
		day := mix{}
		for _, part := range c.parts {
			day.add(part.kind, part.a)
		}
		if got := day.estimate()[c.trait]; math.Abs(got-c.want) > 1e-12 {
			t.Errorf("%s: got %v, want %v", c.reason, got, c.want)
		}
	}
}

func TestHalfLife(t *testing.T) {
	t.Parallel()
	believed, other := unknownTraits(), traits{1, 0, 0.5, 0.5, 0.5}
	for range halfLife {
		believed = believed.smooth(other)
	}
	if math.Abs(believed[openness]-0.75) > 1e-12 || math.Abs(believed[conscientiousness]-0.25) > 1e-12 || believed[extraversion] != 0.5 {
		t.Errorf("after %d days: got %v, want half of the way", halfLife, believed)
	}
}
