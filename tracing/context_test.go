package tracing

import (
	"strings"
	"testing"
)

const (
	traceHex = "0af7651916cd43dd8448eb211c80319c"
	spanHex  = "b7ad6b7169203331"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason, parent string
		valid, sampled bool
	}{
		{"sampled", "00-" + traceHex + "-" + spanHex + "-01", true, true},
		{"not sampled", "00-" + traceHex + "-" + spanHex + "-00", true, false},
		{"flags of a later level", "00-" + traceHex + "-" + spanHex + "-ff", true, true},
		{"a later version with more", "01-" + traceHex + "-" + spanHex + "-01-what", true, true},
		{"a later version", "cc-" + traceHex + "-" + spanHex + "-01", true, true},
		{"a later version that goes on otherwise", "01-" + traceHex + "-" + spanHex + "-01.what", false, false},
		{"version 00 with more", "00-" + traceHex + "-" + spanHex + "-01-what", false, false},
		{"version ff", "ff-" + traceHex + "-" + spanHex + "-01", false, false},
		{"upper case", "00-" + strings.ToUpper(traceHex) + "-" + spanHex + "-01", false, false},
		{"no trace", "00-" + strings.Repeat("0", 32) + "-" + spanHex + "-01", false, false},
		{"no span", "00-" + traceHex + "-" + strings.Repeat("0", 16) + "-01", false, false},
		{"too short", "00-" + traceHex + "-" + spanHex + "-0", false, false},
		{"no digits", "00-" + traceHex + "-" + spanHex + "-0g", false, false},
		{"other separators", "00_" + traceHex + "-" + spanHex + "-01", false, false},
		{"nothing", "", false, false},
	} {
		got := Parse(c.parent, "vendor=1")
		if got.Valid() != c.valid || got.Sampled() != c.sampled {
			t.Errorf("%s: got %+v, want valid %v and sampled %v", c.reason, got, c.valid, c.sampled)
		}
		if (got.State == "vendor=1") != c.valid {
			t.Errorf("%s: the state is %q, which means something beside a parent only", c.reason, got.State)
		}
	}
	if got := Parse("00-"+traceHex+"-"+spanHex+"-01", strings.Repeat("x", maxStateBytes+1)); got.State != "" || !got.Valid() {
		t.Errorf("got %+v of a state that is too long, want the parent alone", got)
	}
}

func TestAContextIsWrittenAsItIsRead(t *testing.T) {
	t.Parallel()
	const text = "00-" + traceHex + "-" + spanHex + "-03"
	c := Parse(text, "")
	if got := c.Parent(); got != text {
		t.Errorf("got %s, want %s", got, text)
	}
	if got := (&Context{}).Parent(); got != "" {
		t.Errorf("got %q of no context, want nothing", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("00-"+traceHex+"-"+spanHex+"-01", "a=b")
	f.Add("01-"+traceHex+"-"+spanHex+"-01-", "")
	f.Fuzz(func(t *testing.T, parent, state string) {
		c := Parse(parent, state)
		if !c.Valid() {
			if c != (Context{}) { // nothing of it
				t.Errorf("got %+v of %q, which is no traceparent", c, parent)
			}
			return
		}
		if again := Parse(c.Parent(), state); again != c {
			t.Errorf("got %+v, and %+v from %s", c, again, c.Parent())
		}
	})
}
