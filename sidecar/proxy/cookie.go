package proxy

import "strings"

// cookieOf is the value of the first cookie of a name (RFC 6265 section
// 4.2.1), over all Cookie fields; empty when there is none. User agents send
// the one with the longest path first (section 5.4), and most servers take it.
//
// Servers differ in whether they take quotes around a value off and decode what
// is percent-encoded. Both are done here: a caller whose session has several
// spellings for the application has one quota all the same.
func cookieOf(fields []field, name string) string {
	for i := range fields {
		if !sameName(fields[i].name, "Cookie") {
			continue
		}
		for pair := range strings.SplitSeq(fields[i].value, ";") {
			its, value, is := strings.Cut(pair, "=")
			if is && trimSpace(its) == name {
				return unescaped(withoutQuotes(trimSpace(value)))
			}
		}
	}
	return ""
}

func withoutQuotes(s string) string {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		return s[1 : len(s)-1]
	}
	return s
}
