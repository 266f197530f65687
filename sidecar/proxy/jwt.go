package proxy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// maxClaimsBytes bounds the claims of a token that are read, decoded.
const maxClaimsBytes = 16 << 10

// base64URL is what RFC 7515 section 2 encodes with, and one spelling of it.
var base64URL = base64.RawURLEncoding.Strict()

// claimOf is a claim at the top level of a JSON Web Token in compact form (RFC
// 7519 section 3): a string, or an integer or boolean as written. It is empty
// when the token is none, or has no such claim, or two (section 4 forbids
// that, and whoever verifies the token may go by either). The signature is not
// looked at.
func claimOf(token, name string) string {
	header, rest, _ := strings.Cut(token, ".")
	payload, signature, three := strings.Cut(rest, ".")
	if !three || header == "" || !inBase64URL(header) || !inBase64URL(payload) || !inBase64URL(signature) ||
		base64URL.DecodedLen(len(payload)) > maxClaimsBytes {
		return ""
	}
	claims, err := base64URL.DecodeString(payload)
	if err != nil || !utf8.Valid(claims) || !json.Valid(claims) {
		return ""
	}
	value, once := member(claims, name)
	if !once {
		return ""
	}
	switch value[0] {
	case '"':
		return unquoted(value)
	case 't', 'f':
		return string(value)
	case '{', '[', 'n':
		return ""
	}
	if bytes.ContainsAny(value, ".eE") {
		return "" // a fraction, or an integer that has other spellings
	}
	return string(value)
}

// inBase64URL reports whether s has only characters of that alphabet. The
// decoder lets line ends pass, and is not asked about all parts.
func inBase64URL(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// member is the value of a member of a JSON object, as written. It is false
// when the text, which is valid JSON, is no object, or has not exactly one
// member of that name.
func member(text []byte, name string) (value []byte, once bool) {
	c := cursor{text: text}
	if c.next() != '{' {
		return nil, false
	}
	c.at++
	for c.next() == '"' {
		found := c.value()
		c.next()
		c.at++ // the colon
		c.next()
		its := c.value()
		if named(found, name) {
			if once {
				return nil, false
			}
			value, once = its, true
		}
		if c.next() == ',' {
			c.at++
		}
	}
	return value, once
}

// named reports whether a JSON string, quotes included, is the name.
func named(quoted []byte, name string) bool {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1:len(quoted)-1]) == name
	}
	return unquoted(quoted) == name
}

// unquoted decodes a JSON string, quotes included.
func unquoted(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	if json.Unmarshal(quoted, &s) != nil {
		return ""
	}
	return s
}

// cursor walks over valid JSON.
type cursor struct {
	text []byte
	at   int
}

// next is the next character that is no white space; 0 at the end.
func (c *cursor) next() byte {
	for ; c.at < len(c.text); c.at++ {
		switch b := c.text[c.at]; b {
		case ' ', '\t', '\r', '\n':
		default:
			return b
		}
	}
	return 0
}

// value steps over the value that begins here and returns it as written.
func (c *cursor) value() []byte {
	begin, depth := c.at, 0
	for c.at < len(c.text) {
		switch c.text[c.at] {
		case '"':
			c.quoted()
			if depth == 0 {
				return c.text[begin:c.at]
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				c.at++
				return c.text[begin:c.at]
			}
			if depth < 0 { // of what is around a number, true, false or null
				return c.text[begin:c.at]
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return c.text[begin:c.at]
			}
		}
		c.at++
	}
	return c.text[begin:c.at]
}

// quoted steps over the string that begins here.
func (c *cursor) quoted() {
	for c.at++; c.at < len(c.text); c.at++ {
		switch c.text[c.at] {
		case '\\':
			c.at++
		case '"':
			c.at++
			return
		}
	}
}
