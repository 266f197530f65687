package tasks

import (
	"math"

	"github.com/weir-dev/weir/worker/sentiment"
)

// tally counts scores.
type tally struct {
	sum                         float64
	positive, neutral, negative int
}

func (t *tally) add(score float64) {
	t.sum += score
	switch sentiment.Label(score) {
	case sentiment.Positive:
		t.positive++
	case sentiment.Negative:
		t.negative++
	default:
		t.neutral++
	}
}

// Messages that were scored.
func (t *tally) Messages() int { return t.positive + t.neutral + t.negative }

// Mean to four decimals, as single scores are given; some is false without one.
func (t *tally) Mean() (mean float64, some bool) {
	if t.Messages() == 0 {
		return 0, false
	}
	return math.Round(t.sum/float64(t.Messages())*1e4) / 1e4, true
}
