package dashboard

import (
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestNothingOnAPageIsHidden(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain, ünïcode, 漢字 and 🙂": "plain, ünïcode, 漢字 and 🙂",
		"two\nlines\tand a tab":    "two\nlines\tand a tab",
		"\u202eexe.gnp":            "⟨U+202E⟩exe.gnp",
		"a\u200bb\ufeffc\u00add":   "a⟨U+200B⟩b⟨U+FEFF⟩c⟨U+00AD⟩d",
		"\x1b[31m\x00\r\x7f\u0085": "⟨U+001B⟩[31m⟨U+0000⟩⟨U+000D⟩⟨U+007F⟩⟨U+0085⟩",
		"tag \U000e0041":           "tag ⟨U+E0041⟩",
		"broken \xff\xc0":          "broken \ufffd\ufffd",
	} {
		if got := string(shown([]byte(text))); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func FuzzShown(f *testing.F) {
	f.Add("\u202eabc\x00<b>\xff")
	f.Fuzz(func(t *testing.T, text string) {
		once := shown([]byte(text))
		if !utf8.Valid(once) || firstHidden(once) >= 0 {
			t.Errorf("%q leaves something hidden: %q", text, once)
		}
		if !bytes.Equal(shown(once), once) {
			t.Errorf("%q is another when it is shown again", text)
		}
		if strings.Count(string(once), "<") != strings.Count(text, "<") {
			t.Errorf("%q gains or loses markup", text)
		}
	})
}

func TestWhatIsSealedIsOursAndEnds(t *testing.T) {
	t.Parallel()
	s, err := newSealer(nil)
	if err != nil {
		t.Fatal(err)
	}
	another, err := newSealer(nil)
	if err != nil {
		t.Fatal(err)
	}
	text := s.seal("session", "secret", time.Hour)
	if got, ok := s.open("session", text); !ok || got != "secret" {
		t.Errorf("opened %q, %v", got, ok)
	}
	if strings.Contains(text, "secret") || text == s.seal("session", "secret", time.Hour) {
		t.Error("it can be read, or is the same each time")
	}
	for what, open := range map[string]func() (string, bool){
		"for another purpose": func() (string, bool) { return s.open("said", text) },
		"by another":          func() (string, bool) { return another.open("session", text) },
		"changed":             func() (string, bool) { return s.open("session", "A"+text[1:]) },
		"cut":                 func() (string, bool) { return s.open("session", text[:10]) },
		"empty":               func() (string, bool) { return s.open("session", "") },
		"that has ended":      func() (string, bool) { return s.open("session", s.seal("session", "x", -time.Second)) },
	} {
		if got, ok := open(); ok {
			t.Errorf("what was sealed is opened %s: %q", what, got)
		}
	}
	if _, err := newSealer([]byte("short")); err == nil {
		t.Error("a short key is accepted")
	}
}

func TestNextIsAnAddressOfThisPage(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"/tasks?q=a": "/tasks?q=a", "": "/", "tasks": "/", "//evil.example": "/", `/\evil.example`: "/", "https://evil.example": "/", "/a\nb": "/",
	} {
		if got := local(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
}
