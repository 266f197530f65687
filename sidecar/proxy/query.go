package proxy

import (
	"net/url"
	"strings"
)

// parameterOf is the value of the first parameter of a name in a query, as
// forms encode them: percent-encoded, a plus for a space, separated by
// ampersands only (the URL standard's application/x-www-form-urlencoded, and
// net/url's). It is empty when there is none, and when its encoding is broken,
// of which servers make different things.
func parameterOf(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		its, value, _ := strings.Cut(pair, "=")
		if !decodesTo(its, name) {
			continue
		}
		decoded, err := url.QueryUnescape(value)
		if err != nil {
			return ""
		}
		return decoded
	}
	return ""
}

// decodesTo reports whether name is what encoded says.
func decodesTo(encoded, name string) bool {
	if !strings.ContainsAny(encoded, "%+") {
		return encoded == name
	}
	decoded, err := url.QueryUnescape(encoded)
	return err == nil && decoded == name
}
