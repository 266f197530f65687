package sentiment

import (
	"context"
	"math"
	"strings"
	"sync"

	"github.com/jonreiter/govader"
)

// maxLexiconBytes of a text are scored. VADER is made for tweets and rates
// sentences; a mood is clear long before 16 KiB, which take some 4 ms.
const maxLexiconBytes = 16 << 10

// analyzer is made at first use, from 7,500 words, and kept by all: scoring only
// reads its maps and its compiled expressions, so that it needs no lock.
var analyzer = sync.OnceValue(govader.NewSentimentIntensityAnalyzer)

type lexicon struct {
	analyzer *govader.SentimentIntensityAnalyzer
}

// NewLexicon is a scorer by VADER's lexicon and rules, for English. It asks
// nobody, and scores the same text always the same, to four decimals as the
// reference does. Of a text it scores the first 16 KiB.
func NewLexicon() Scorer { return lexicon{analyzer()} }

func (l lexicon) Score(ctx context.Context, _ string, texts []string) ([]float64, error) {
	scores := make([]float64, len(texts))
	for i, text := range texts {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		// The reference splits at any white space, the library at single spaces:
		// a line break would hide the words around it.
		words := strings.Join(strings.Fields(truncate(text, maxLexiconBytes)), " ")
		compound := l.analyzer.PolarityScores(words).Compound
		scores[i] = math.Round(compound*1e4) / 1e4
	}
	return scores, nil
}
