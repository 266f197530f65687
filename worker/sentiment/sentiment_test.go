package sentiment

import (
	"math"
	"testing"
	"unicode/utf8"

	"github.com/weir-dev/weir/worker/runner"
)

func TestLabel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		compound float64
		want     string
	}{
		{1, Positive}, {0.05, Positive}, {0.0499, Neutral}, {0, Neutral},
		{-0.0499, Neutral}, {-0.05, Negative}, {-1, Negative},
	} {
		if got := Label(c.compound); got != c.want {
			t.Errorf("Label(%v): got %s, want %s", c.compound, got, c.want)
		}
	}
}

func TestNew(t *testing.T) {
	t.Parallel()
	settings := environment(map[string]string{keyVariable: "k", modelVariable: "m"})
	for _, name := range Names() {
		if scorer, err := New(name, settings); err != nil || scorer == nil {
			t.Errorf("New(%q): got %v, error %v", name, scorer, err)
		}
	}
	for _, c := range []struct{ reason, name string }{
		{"no name", ""}, {"an unknown name", "vader"}, {"other case", "OpenAI"}, {"a setting is missing", OpenAI},
	} {
		if _, err := New(c.name, environment(nil)); err == nil || !runner.IsPermanent(err) {
			t.Errorf("%s: got error %v, want a permanent one", c.reason, err)
		}
	}
	if _, err := New("vader", settings); err.Error() != `there is no scorer "vader": choose one of lexicon, openai` {
		t.Errorf("the error does not name the choices: %v", err)
	}
}

func TestTruncate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text  string
		limit int
		want  string
	}{
		{"short", 5, "short"}, {"longer", 4, "long"}, {"ää", 3, "ä"}, {"😀", 3, ""}, {"\x80\x80\x80", 2, ""}, {"", 0, ""},
	} {
		got := truncate(c.text, c.limit)
		if got != c.want {
			t.Errorf("truncate(%q, %d): got %q, want %q", c.text, c.limit, got, c.want)
		}
		if utf8.ValidString(c.text) && !utf8.ValidString(got) {
			t.Errorf("truncate(%q, %d) cut a character", c.text, c.limit)
		}
	}
}

func environment(settings map[string]string) func(string) string {
	return func(name string) string { return settings[name] }
}

func inRange(score float64) bool { return !math.IsNaN(score) && score >= -1 && score <= 1 }
