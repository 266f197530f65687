package tasks

import (
	"maps"
	"math"
	"slices"
)

// population is where an estimate starts, and stays without evidence: half of
// the population has less of the trait, and half more.
const population = 0.5

// halfLife is the number of days with activity after which what was believed
// before counts half.
const halfLife = 14

// fade is the weight of one day.
var fade = 1 - math.Exp2(-1.0/halfLife)

// traits are estimates of the Big Five: the share of the population that has
// less of each.
type traits [traitCount]float64

func unknownTraits() traits {
	var t traits
	for i := range t {
		t[i] = population
	}
	return t
}

// smooth moves the estimates towards one day's.
func (t traits) smooth(today traits) traits {
	for i := range t {
		t[i] += fade * (today[i] - t[i])
	}
	return t
}

// mix is how a day's activity is spread: minutes by kind and group.
type mix map[string][]float64

// add counts an activity's genres, with equal parts of its time. recognized is
// false where none is in any group.
func (m mix) add(kind string, a activity) (recognized bool) {
	var places []int
	for _, genre := range a.genres {
		if place, known := findGroup(kind, genre); known {
			places = append(places, place)
		}
	}
	if len(places) == 0 {
		return false
	}
	if m[kind] == nil {
		m[kind] = make([]float64, len(weightings[kind]))
	}
	minutes := a.minutes
	if minutes == 0 {
		minutes = unitMinutes[kind]
	}
	for _, place := range places {
		m[kind][place] += minutes / float64(len(places))
	}
	return true
}

// estimate the traits of somebody whose days are like this. Within a kind of
// activity a group's share of the time stands for the preference, in standard
// deviations, and with the group's weight becomes that many of the trait; kinds
// count alike; the normal distribution makes a share of the population of it.
func (m mix) estimate() traits {
	var deviations [traitCount]float64
	for _, kind := range kinds {
		total := 0.0
		for _, minutes := range m[kind] {
			total += minutes
		}
		for place, minutes := range m[kind] {
			for trait, weight := range weightings[kind][place].weights {
				deviations[trait] += weight * minutes / total / float64(len(m))
			}
		}
	}
	var t traits
	for i, deviation := range deviations {
		t[i] = 0.5 * (1 + math.Erf(deviation/math.Sqrt2))
	}
	return t
}

// settled is what is believed of a user from the days that are over.
type settled struct {
	// Through is the last day that counted, as 2006-01-02; empty: none.
	Through string `json:"through"`
	// Days with activity that counted.
	Days int `json:"days"`
	// Traits in the order openness, conscientiousness, extraversion,
	// agreeableness, neuroticism.
	Traits traits `json:"traits"`
}

// advance counts the days after s.Through, in order: those before the day
// `open` for good, the others for the moment, in the returned current only.
func (s settled) advance(days map[string]mix, open string) (next, current settled) {
	next, current = s, s
	for _, date := range slices.Sorted(maps.Keys(days)) {
		if date <= s.Through {
			continue
		}
		current = settled{Through: date, Days: current.Days + 1, Traits: current.Traits.smooth(days[date].estimate())}
		if date < open {
			next = current
		}
	}
	return next, current
}
