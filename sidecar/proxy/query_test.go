package proxy

import (
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParameter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ reason, query, name, want string }{
		{"alone", "user=alice", "user", "alice"},
		{"among others", "a=1&user=alice&b=2", "user", "alice"},
		{"the first of several", "user=alice&user=eve", "user", "alice"},
		{"decoded", "user=al%69ce%20b+c%2Bd", "user", "alice b c+d"},
		{"an equal sign in the value", "user=a=b", "user", "a=b"},
		{"the name decoded", "us%65r=alice", "user", "alice"},
		{"a name with a space", "user+id=alice", "user id", "alice"},
		{"a name with a plus", "user%2Bid=alice", "user+id", "alice"},
		{"which none has that is not encoded", "user+id=alice", "user+id", ""},
		{"a name with brackets", "user[id]=alice", "user[id]", "alice"},
		{"a semicolon separates nothing", "a=1;user=eve&user=alice;b=2", "user", "alice;b=2"},
		{"the name has case", "User=eve", "user", ""},
		{"no value", "user=", "user", ""},
		{"no equal sign", "user&user=eve", "user", ""},
		{"a broken escape", "user=%4", "user", ""},
		{"is not made good by another", "user=%zz&user=eve", "user", ""},
		{"another's is another's", "a=%zz&%zz=1&user=alice", "user", "alice"},
		{"none", "a=1", "user", ""},
		{"no query", "", "user", ""},
	} {
		if got := parameterOf(c.query, c.name); got != c.want {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
}

// What net/url encodes is read as it was.
func TestParameterAgreesWithNetURL(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String()
		values := rapid.MapOfN(text, rapid.SliceOfN(text, 1, 2), 0, 4).Draw(t, "values")
		query := url.Values(values).Encode()
		for name, all := range values {
			if got := parameterOf(query, name); got != all[0] {
				t.Fatalf("%q of %q: got %q, want %q", name, query, got, all[0])
			}
		}
	})
}

func FuzzParameter(f *testing.F) {
	f.Add("a=1&user=%61+b", "user")
	f.Add("&&=%", "")
	f.Fuzz(func(t *testing.T, query, name string) {
		got := parameterOf(query, name)
		if got == "" || strings.Contains(query, ";") { // of which net/url makes nothing
			return
		}
		if values, _ := url.ParseQuery(query); values.Get(name) != got {
			t.Fatalf("%q of %q is %q, net/url has %q", name, query, got, values.Get(name))
		}
	})
}
