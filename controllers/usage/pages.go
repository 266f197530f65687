package usage

import (
	"encoding/base64"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Bounds of a page.
const (
	defaultPage = 100
	maxPage     = 500
)

// page is which part of a list is wanted.
type page struct {
	limit int
	// after is what the page before ended with; empty: this is the first.
	after string
}

// tokenMark begins what a continue token is made of.
const tokenMark = "1:"

// tokenAfter is the parameter continue of the page after. It is opaque: nobody
// else's business what it is made of.
func tokenAfter(last string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(tokenMark + last))
}

// page reads the parameters limit and continue, beside which there are others.
func (q *asked) page(others ...string) (page, error) {
	p := page{limit: defaultPage}
	for name, values := range q.URL.Query() {
		switch {
		case len(values) != 1:
			return p, problem(http.StatusBadRequest, "The parameter %s is given %d times.", shortened(name, maxUserBytes), len(values))
		case name == "limit":
			limit, err := strconv.Atoi(values[0])
			if err != nil || limit < 1 || limit > maxPage {
				return p, problem(http.StatusBadRequest, "limit is a number from 1 to %d.", maxPage)
			}
			p.limit = limit
		case name == "continue":
			text, err := base64.RawURLEncoding.DecodeString(values[0])
			after, ours := strings.CutPrefix(string(text), tokenMark)
			if err != nil || !ours {
				return p, problem(http.StatusBadRequest, "continue is what the page before said, and nothing else.")
			}
			p.after = after
		case !slices.Contains(others, name):
			return p, problem(http.StatusBadRequest, "There is no parameter %s here.", shortened(name, maxUserBytes))
		}
	}
	return p, nil
}

// ranked is a page of a list that has no names to go by: those from a rank on. It
// changes between pages, so that one may be on two of them, or on none.
func ranked[T any](p page, all []T) (part []T, next string, err error) {
	from := 0
	if p.after != "" {
		if from, err = strconv.Atoi(p.after); err != nil || from < 0 {
			return nil, "", problem(http.StatusBadRequest, "continue is what the page before said, and nothing else.")
		}
	}
	from = min(from, len(all))
	to := min(from+p.limit, len(all))
	if to < len(all) {
		next = tokenAfter(strconv.Itoa(to))
	}
	return all[from:to], next, nil
}
