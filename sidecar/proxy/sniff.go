package proxy

import (
	"bytes"
	"slices"
	"strings"
	"time"
)

// protocol is what a connection's first bytes say that it speaks.
type protocol int

const (
	// undecided: more bytes may still make it either.
	undecided protocol = iota
	speaksHTTP
	speaksTLS
	speaksOther
	// speaksHTTP2: HTTP/2 in clear, by prior knowledge.
	speaksHTTP2
	// resemblesHTTP: RTSP and ICE, whose requests HTTP servers have been seen
	// to answer (Node.js does).
	resemblesHTTP
)

const (
	// sniffBytes are read at most before deciding. A request line that is
	// longer is HTTP when all of it so far could be.
	sniffBytes = 1024
	// sniffWait is how long a client may be silent, or pause within its first
	// line, before that itself decides. Clients that speak first send with or
	// right after the handshake's last segment.
	sniffWait = 150 * time.Millisecond
)

// The methods of RFC 9110 and RFC 5789.
var plainMethods = []string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}

// classify decides on a connection's first bytes. Whatever an HTTP server
// might take for a request must be HTTP here, or limits could be evaded; what
// is then malformed is net/http's to refuse.
func classify(data []byte) protocol {
	data = bytes.TrimLeft(data, "\r\n") // RFC 9112 section 2.2: servers ignore empty lines
	if len(data) == 0 {
		return undecided
	}
	if data[0] == 0x16 { // a TLS record of type handshake, of any version
		switch {
		case len(data) == 1:
			return undecided
		case data[1] == 0x03:
			return speaksTLS
		}
		return speaksOther
	}
	start := span(data, isSpace)
	method := data[start : start+span(data[start:], isTokenChar)]
	rest := data[start+len(method):]
	odd := start > 0
	switch {
	case odd && !startsMethod(method):
		return speaksOther
	case len(rest) == 0:
		return undecided
	case len(method) == 0 || !isSpace(rest[0]):
		return speaksOther
	}
	return classifyLine(method, rest, odd)
}

// classifyLine decides on what follows the method of a request line. Spaces of
// all kinds separate, as in CPython's http.server. A line that is odd, with
// spaces before it or control characters within, is a request only with a
// method of RFC 9110: binary protocols begin like that, too.
func classifyLine(method, rest []byte, odd bool) protocol {
	line, _, whole := bytes.Cut(rest, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	odd = odd || slices.ContainsFunc(line, func(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f })
	if odd && !slices.Contains(plainMethods, string(method)) {
		return speaksOther
	}
	if !whole {
		return undecided
	}
	fields := words(line)
	if len(fields) == 0 {
		return speaksOther
	}
	last := bytes.ToUpper(fields[len(fields)-1])
	switch {
	case string(method) == "PRI" && bytes.Equal(last, []byte("HTTP/2.0")):
		return speaksHTTP2
	case bytes.HasPrefix(last, []byte("HTTP/")):
		return speaksHTTP
	case bytes.HasPrefix(last, []byte("RTSP/")), bytes.HasPrefix(last, []byte("ICE/")):
		return resemblesHTTP
	case len(fields) == 1 && slices.Contains(plainMethods, string(method)) &&
		(last[0] == '/' || bytes.Contains(last, []byte("://"))):
		return speaksHTTP // HTTP/0.9
	}
	return speaksOther
}

// startsMethod reports whether one of the plain methods begins so.
func startsMethod(token []byte) bool {
	return slices.ContainsFunc(plainMethods, func(m string) bool { return strings.HasPrefix(m, string(token)) })
}

// span is the length of the prefix whose bytes all satisfy f.
func span(data []byte, f func(byte) bool) int {
	if i := slices.IndexFunc(data, func(c byte) bool { return !f(c) }); i >= 0 {
		return i
	}
	return len(data)
}

// isSpace reports what Python's str.split separates at in a line of ISO 8859-1.
func isSpace(c byte) bool {
	return c == ' ' || '\t' <= c && c <= '\r' && c != '\n' && c != '\r' || 0x1c <= c && c <= 0x1f || c == 0x85 || c == 0xa0
}

// words are the parts of a line between spaces.
func words(line []byte) [][]byte {
	spaced := slices.Clone(line)
	for i, c := range spaced {
		if isSpace(c) || c == '\r' {
			spaced[i] = ' '
		}
	}
	return bytes.Fields(spaced)
}

// classifyLate decides on bytes after which the client paused, or that filled
// the buffer. What could still become a request is HTTP: pausing must not be
// a way around a limit, and ReadHeaderTimeout bounds the rest.
func classifyLate(data []byte) protocol {
	if kind := classify(data); kind != undecided {
		return kind
	}
	if data[0] == 0x16 {
		return speaksTLS // who reads the Hello finds out
	}
	return speaksHTTP
}

// isTokenChar is tchar of RFC 9110 section 5.6.2.
func isTokenChar(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}
