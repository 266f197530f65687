package proxy

import (
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// tokenOf is a token with these claims, of a header that says {"alg":"none"}.
func tokenOf(claims string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func TestClaim(t *testing.T) {
	t.Parallel()
	payload := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	const alice = `{"sub":"alice"}`
	long := `{"pad":"` + strings.Repeat("x", maxClaimsBytes-len(`{"pad":"","sub":"alice"}`)) + `","sub":"alice"}`
	for _, c := range []struct{ reason, token, name, want string }{
		{"a string", tokenOf(alice), "sub", "alice"},
		{"an integer as written", tokenOf(`{"uid":12345678901234567890123}`), "uid", "12345678901234567890123"},
		{"a negative one", tokenOf(`{"uid":-7}`), "uid", "-7"},
		{"zero", tokenOf(`{"uid":0}`), "uid", "0"},
		{"a boolean", tokenOf(`{"admin":true}`), "admin", "true"},
		{"the other", tokenOf(`{"admin": false }`), "admin", "false"},
		{"white space anywhere", tokenOf(" {\r\n\t\"a\" : 1 ,\n \"sub\" : \"alice\" }\n"), "sub", "alice"},
		{"after what must be stepped over", tokenOf(`{"a":{"sub":"eve","b":["}","]",{"c":"\"}"}]},"d":[],"e":null,"f":1.5e3,"g":{},"h":"\\","sub":"alice"}`), "sub", "alice"},
		{"a name with dots is a name", tokenOf(`{"a":{"b":"eve"},"a.b":"alice"}`), "a.b", "alice"},
		{"and no path", tokenOf(`{"a":{"b":"eve"}}`), "a.b", ""},
		{"a name that is a URL", tokenOf(`{"https://example.com/id":"alice"}`), "https://example.com/id", "alice"},
		{"escapes in the value", tokenOf(`{"sub":"al\u0069ce\n\"\ud83d\ude00"}`), "sub", "alice\n\"😀"},
		{"escapes in the name", tokenOf(`{"s\u0075b":"alice"}`), "sub", "alice"},
		{"the name has case", tokenOf(`{"Sub":"eve"}`), "sub", ""},
		{"no signature, as RFC 7519 section 6 has it", "eyJhbGciOiJub25lIn0." + payload(alice) + ".", "sub", "alice"},
		{"as long as may be", tokenOf(long), "sub", "alice"},

		{"longer", tokenOf(" " + long), "sub", ""},
		{"twice", tokenOf(`{"sub":"alice","sub":"alice"}`), "sub", ""},
		{"twice, spelled differently", tokenOf(`{"sub":"alice","s\u0075b":"eve"}`), "sub", ""},
		{"three times", tokenOf(`{"sub":"a","sub":"b","sub":"c"}`), "sub", ""},
		{"another twice is another's", tokenOf(`{"a":1,"a":2,"sub":"alice"}`), "sub", "alice"},
		{"nested", tokenOf(`{"a":{"sub":"eve"}}`), "sub", ""},
		{"missing", tokenOf(`{"a":1}`), "sub", ""},
		{"no claims", tokenOf(`{}`), "sub", ""},
		{"empty", tokenOf(`{"sub":""}`), "sub", ""},
		{"null", tokenOf(`{"sub":null}`), "sub", ""},
		{"a list", tokenOf(`{"sub":["alice"]}`), "sub", ""},
		{"an object", tokenOf(`{"sub":{"a":1}}`), "sub", ""},
		{"a fraction", tokenOf(`{"sub":1.0}`), "sub", ""},
		{"an exponent", tokenOf(`{"sub":1e3}`), "sub", ""},
		{"a value that is the name", tokenOf(`{"a":"sub","b":"eve"}`), "sub", ""},
		{"a list of claims", tokenOf(`["sub","alice"]`), "sub", ""},
		{"a string of claims", tokenOf(`"sub"`), "sub", ""},
		{"two objects", tokenOf(alice + alice), "sub", ""},
		{"half an object", tokenOf(`{"sub":"alice"`), "sub", ""},
		{"a comma too many", tokenOf(`{"sub":"alice",}`), "sub", ""},
		{"no UTF-8", tokenOf("{\"sub\":\"\xff\"}"), "sub", ""},
		{"nothing", tokenOf(""), "sub", ""},
		{"no token", "", "sub", ""},
		{"an opaque token", "0123456789abcdef", "sub", ""},
		{"two parts", "e30." + payload(alice), "sub", ""},
		{"four parts", "e30." + payload(alice) + ".c2ln.c2ln", "sub", ""},
		{"no header", "." + payload(alice) + ".c2ln", "sub", ""},
		{"a header of other characters", "e3=0." + payload(alice) + ".c2ln", "sub", ""},
		{"a signature of other characters", "e30." + payload(alice) + ".c2 ln", "sub", ""},
		{"padded", "e30." + base64.URLEncoding.EncodeToString([]byte(`{"sub":"alice"} `)) + ".c2ln", "sub", ""},
		{"the alphabet of base64", "e30." + strings.NewReplacer("-", "+", "_", "/").Replace(payload(`{"a":"???>>>","sub":"alice"}`)) + ".c2ln", "sub", ""},
		{"a line end, which the decoder lets pass", "e30." + payload(alice)[:4] + "\n" + payload(alice)[4:] + ".c2ln", "sub", ""},
		{"encrypted: five parts", "e30.a.b.c.d", "sub", ""},
	} {
		if got := claimOf(c.token, c.name); got != c.want {
			t.Errorf("%s: got %q, want %q", c.reason, got, c.want)
		}
	}
}

// What encoding/json writes is read as it reads it.
func TestClaimAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	value := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return strings.ToValidUTF8(s, "?") }),
		rapid.Map(rapid.Int64(), func(i int64) any { return i }),
		rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		rapid.Map(rapid.SliceOfN(rapid.String(), 0, 3), func(s []string) any { return s }),
		rapid.Map(rapid.MapOfN(rapid.String(), rapid.String(), 0, 3), func(m map[string]string) any { return m }),
		rapid.Just[any](nil),
	)
	rapid.Check(t, func(t *rapid.T) {
		claims := rapid.MapOfN(rapid.SampledFrom([]string{"sub", "a", `"`, "ü", "\\", "<&>", "{"}), value, 0, 7).Draw(t, "claims")
		encoded, err := json.Marshal(claims)
		if err != nil {
			t.Fatal(err)
		}
		for name, value := range claims {
			want := ""
			switch v := value.(type) {
			case string:
				want = v
			case int64:
				want = strconv.FormatInt(v, 10)
			case bool:
				want = strconv.FormatBool(v)
			}
			if got := claimOf(tokenOf(string(encoded)), name); got != want {
				t.Fatalf("%s of %s: got %q, want %q", name, encoded, got, want)
			}
		}
	})
}

// Whatever comes, what is found is what encoding/json finds.
func FuzzClaim(f *testing.F) {
	for _, seed := range []string{`{"sub":"alice"}`, `{"a":{"sub":[1,"\""]},"sub":-1}`, `{"sub":tru`, `[{"sub"`, "{\"sub\":\"\\ud800\"}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, claims []byte) {
		claimOf(string(claims), "sub") // as a whole token
		got := claimOf(tokenOf(string(claims)), "sub")
		if got == "" {
			return
		}
		var all map[string]json.RawMessage
		if err := json.Unmarshal(claims, &all); err != nil {
			t.Fatalf("%q yields %q, and is no object: %v", claims, got, err)
		}
		want := string(all["sub"])
		if strings.HasPrefix(want, `"`) {
			if err := json.Unmarshal(all["sub"], &want); err != nil {
				t.Fatal(err)
			}
		}
		if got != want {
			t.Fatalf("%q yields %q, want %q", claims, got, want)
		}
	})
}

func BenchmarkClaim(b *testing.B) {
	token := tokenOf(`{"iss":"https://issuer.example.com/","aud":["a","b"],"exp":1795612848,"iat":1795612248,"azp":"client","scope":"openid profile","sub":"auth0|5f7c8ec7c33c6c004bbafe82"}`)
	b.ReportAllocs()
	for b.Loop() {
		if claimOf(token, "sub") == "" {
			b.Fatal("no claim")
		}
	}
}
