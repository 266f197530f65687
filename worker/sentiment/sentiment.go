// Package sentiment scores how people feel in what they write.
//
// A score is VADER's compound (Hutto and Gilbert, "VADER: A Parsimonious
// Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014):
// from -1, most negative, to 1, most positive. Its authors' thresholds make it a
// label; see Label.
package sentiment

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/weir-dev/weir/worker/runner"
)

// Scorer gives each text its compound score in [-1, 1], in the order of texts;
// the score of a text without words is 0. The texts are user's: a scorer that
// asks somebody else asks in that user's name. It is safe for concurrent use,
// and its errors never contain the texts. They are as a task's: runner.Permanent
// where asking again is vain, *runner.RetryAfter where it is known when it is not.
type Scorer interface {
	Score(ctx context.Context, user string, texts []string) ([]float64, error)
}

// Labels of scores.
const (
	Positive = "positive"
	Neutral  = "neutral"
	Negative = "negative"
)

// threshold of VADER's authors, on either side of 0.
const threshold = 0.05

// Label is Positive from 0.05 up, Negative from -0.05 down, and else Neutral.
func Label(compound float64) string {
	switch {
	case compound >= threshold:
		return Positive
	case compound <= -threshold:
		return Negative
	}
	return Neutral
}

// Names of the scorers.
const (
	Lexicon = "lexicon"
	OpenAI  = "openai"
)

// Names that New knows.
func Names() []string { return []string{Lexicon, OpenAI} }

// New makes a scorer by its name. getenv (os.Getenv) gives it its settings;
// see OpenAIFromEnvironment. Errors are Permanent: the name is none of Names, or
// a setting is missing or invalid.
func New(name string, getenv func(string) string) (Scorer, error) {
	switch name {
	case Lexicon:
		return NewLexicon(), nil
	case OpenAI:
		scorer, err := OpenAIFromEnvironment(getenv)
		if err != nil {
			return nil, runner.Permanent(err)
		}
		return scorer, nil
	}
	return nil, runner.Permanent(fmt.Errorf("there is no scorer %.40q: choose one of %s", name, strings.Join(slices.Sorted(slices.Values(Names())), ", ")))
}

// truncate cuts a text after at most limit bytes, between characters.
func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit]
}
