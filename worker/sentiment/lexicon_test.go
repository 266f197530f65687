package sentiment

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLexicon has its scores from the output of the reference's demo
// (cjhutto/vaderSentiment).
func TestLexicon(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text string
		want float64
	}{
		{"VADER is smart, handsome, and funny.", 0.8316},
		{"VADER is smart, handsome, and funny!", 0.8439},
		{"VADER is very smart, handsome, and funny.", 0.8545},
		{"VADER is VERY SMART, handsome, and FUNNY.", 0.9227},
		{"VADER is VERY SMART, handsome, and FUNNY!!!", 0.9342},
		{"VADER is not smart, handsome, nor funny.", -0.7424},
		{"The book was good.", 0.4404},
		{"At least it isn't a horrible book.", 0.431},
		{"Today SUX!", -0.5461},
		{"Not bad at all", 0.431},
	} {
		if got := score(t, c.text); got != c.want {
			t.Errorf("%q: got %v, want %v", c.text, got, c.want)
		}
	}
	if line, space := score(t, "I am\nhappy\ttoday"), score(t, "I am happy today"); line != space {
		t.Errorf("white space matters: %v with a line break, %v with spaces", line, space)
	}
}

func TestLexiconOfHostileTexts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, text string
	}{
		{"nothing", ""},
		{"white space only", " \t\r\n\u00a0\u2003"},
		{"punctuation only", "?!.,;:-_()[]{}'\"`~" + strings.Repeat("!", 1000)},
		{"not UTF-8", "good \xff\xfe\x80 bad \xc3"},
		{"control characters", "\x00\x01good\x7f\u202ebad\u0000"},
		{"combining characters", "g" + strings.Repeat("\u0301", 10_000)},
		{"a megabyte without a space", strings.Repeat("good", 1<<18)},
		{"a megabyte of words", strings.Repeat("bad ", 1<<18)},
		{"emoji only, each of which becomes words", strings.Repeat("😀", 1<<18)},
		{"idioms at the edges", "kind of kind"},
		{"negations only", "no not never least but no"},
	} {
		started := time.Now()
		if got := score(t, c.text); !inRange(got) {
			t.Errorf("%s: got %v, want a score in [-1, 1]", c.reason, got)
		}
		if took := time.Since(started); took > 5*time.Second {
			t.Errorf("%s: took %v", c.reason, took)
		}
	}
	if got := score(t, ""); got != 0 {
		t.Errorf("nothing said: got %v, want 0", got)
	}
	far := strings.Repeat("word ", maxLexiconBytes/5+1) + "horrible terrible awful"
	if got := score(t, far); got != 0 {
		t.Errorf("words after the bound: got %v, want 0", got)
	}
}

func TestLexiconOfManyAtOnce(t *testing.T) {
	t.Parallel()
	texts := []string{"I LOVE this!!", "This is horrible, but I kind of like it", "no", "not bad", "😀 👎", ""}
	want, err := NewLexicon().Score(t.Context(), "u", texts)
	if err != nil {
		t.Fatalf("scoring: %v", err)
	}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 50 {
				if got, err := NewLexicon().Score(t.Context(), "u", texts); err != nil || !slices.Equal(got, want) {
					t.Errorf("got %v, error %v, want %v", got, err, want)
					return
				}
			}
		})
	}
	wait.Wait()
}

func TestLexiconEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	revoked := errors.New("revoked")
	cancel(revoked)
	if _, err := NewLexicon().Score(ctx, "u", []string{"good"}); !errors.Is(err, revoked) {
		t.Errorf("got error %v, want the context's cause", err)
	}
}

func FuzzLexicon(f *testing.F) {
	for _, seed := range []string{"", "not bad", "kind of", "no 😀 but", "a\xffb", "at least very least"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := score(t, text); !inRange(got) {
			t.Errorf("%q: got %v", text, got)
		}
	})
}

func score(t *testing.T, text string) float64 {
	t.Helper()
	scores, err := NewLexicon().Score(t.Context(), "u", []string{text})
	if err != nil || len(scores) != 1 {
		t.Fatalf("got %d scores, error %v", len(scores), err)
	}
	return scores[0]
}
