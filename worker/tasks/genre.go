package tasks

import "strings"

// groupOf maps the genres of each kind of activity to their groups' places.
var groupOf = func() map[string]map[string]int {
	places := map[string]map[string]int{}
	for kind, groups := range weightings {
		places[kind] = map[string]int{}
		for place, group := range groups {
			for _, genre := range group.genres {
				places[kind][genre] = place
			}
		}
	}
	return places
}()

// separators that catalogues write differently.
var separators = strings.NewReplacer("-", " ", "_", " ", "/", " ", "&", " and ")

// findGroup tells a genre's group. Where it is unknown as a whole, its last words
// decide, the longest known: "southern hip hop" is hip hop, and "indie pop" pop.
func findGroup(kind, genre string) (place int, known bool) {
	words := strings.Fields(separators.Replace(strings.ToLower(genre)))
	for ; len(words) > 0; words = words[1:] {
		if place, known = groupOf[kind][strings.Join(words, " ")]; known {
			return place, true
		}
	}
	return 0, false
}
