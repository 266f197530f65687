package pages

import (
	"fmt"
	"regexp"
	"strings"
)

// ellipsis stands for anything within a line, and alone on a line for any
// number of lines.
const ellipsis = "…"

// age is what kubectl prints of a time: "12s", "3m5s".
var age = regexp.MustCompile(`^([0-9]+[dhms]){1,2}$`)

// Match compares what was printed with what a page says. Spaces count as one,
// an age as any age, and "…" stands for anything. The error shows both.
func Match(want, got string) error {
	if linesMatch(lines(want), lines(got)) {
		return nil
	}
	return fmt.Errorf("want, where %s is anything:\n%s\ngot:\n%s", ellipsis, indented(want), indented(got))
}

func lines(text string) []string { return strings.Split(strings.TrimSpace(text), "\n") }

func linesMatch(want, got []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case strings.TrimSpace(want[0]) == ellipsis:
		for left := 0; left <= len(got); left++ {
			if linesMatch(want[1:], got[left:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && expression(want[0]).MatchString(got[0]) && linesMatch(want[1:], got[1:])
}

// expression is a line as a regular expression.
func expression(line string) *regexp.Regexp {
	words := strings.Fields(line)
	for i, word := range words {
		if age.MatchString(word) {
			words[i] = `(<unknown>|<invalid>|([0-9]+[dhms]){1,2})`
			continue
		}
		words[i] = strings.ReplaceAll(regexp.QuoteMeta(word), ellipsis, `.*`)
	}
	return regexp.MustCompile(`^\s*` + strings.Join(words, `\s+`) + `\s*$`)
}

func indented(text string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ")
}
