package proxy

import "strings"

// edits reports whether the head changes on its way: what Connection names
// goes no further (RFC 9110 section 7.6.1), nor does what policies strip, and a
// recorded request tells of its span.
func (s *session) edits() bool {
	h := &s.in
	return s.span != nil || s.forwards || h.connection.others || h.connection.upgrade && hasToken(h.upgrades, "h2c") || s.stripsAny()
}

// stripsAny reports whether any policy strips a field, here or in a trailer.
func (s *session) stripsAny() bool {
	for _, p := range s.policies {
		if len(p.stripped) > 0 {
			return true
		}
	}
	return false
}

// appendEdited writes the request's head without what goes no further.
func (s *session) appendEdited(b, data []byte) []byte {
	h := &s.in
	// After an upgrade to h2c requests could not be told apart; RFC 9110 section
	// 7.8 lets anybody ignore it, and RFC 9113 has dropped it.
	noUpgrade := hasToken(h.upgrades, "h2c")
	if s.forwards { // RFC 9112 sections 3.2.1 and 3.2.2
		b = s.appendOriginForm(b)
		authority, _ := absolute(h.target)
		b = appendLine(b, "Host", authority)
	} else {
		b = append(b, data[:h.lines[0]]...)
	}
	for i, f := range h.fields {
		switch {
		case s.forwards && (sameName(f.name, "Host") || sameName(f.name, "Proxy-Authorization") || sameName(f.name, "Proxy-Connection")):
		case sameName(f.name, "Connection"):
			b = appendConnection(b, f, noUpgrade)
		case strips(s.policies, f.name), s.tracedField(f.name), h.connection.others && h.nominated(f.name),
			noUpgrade && (sameName(f.name, "Upgrade") || sameName(f.name, "HTTP2-Settings")):
		default:
			b = append(b, data[h.lines[i]:h.lines[i+1]]...)
		}
	}
	return append(s.appendTraced(b), "\r\n"...)
}

// appendOriginForm writes the request line as the destination itself expects it.
func (s *session) appendOriginForm(b []byte) []byte {
	b = append(append(b, s.in.method...), ' ')
	path := s.seen.path
	if path == "" {
		path = "/"
	}
	b = append(b, path...)
	if i := strings.IndexByte(s.in.target, '?'); i >= 0 {
		b = append(b, s.in.target[i:]...)
	}
	return append(append(b, " HTTP/1."...), '0'+s.in.minor, '\r', '\n')
}

// kept are the connection options that this proxy obeys, or passes on because
// its two connections stand for one.
var kept = []string{"close", "keep-alive", "upgrade", "te"}

// appendConnection writes a Connection field with the options that go on.
func appendConnection(b []byte, f field, noUpgrade bool) []byte {
	line := appendLine(nil, f.name, "")
	line = line[:len(line)-2]
	empty := len(line)
	for option := range strings.SplitSeq(f.value, ",") {
		option = trimSpace(option)
		for _, known := range kept {
			if !strings.EqualFold(option, known) || noUpgrade && known == "upgrade" {
				continue
			}
			if len(line) > empty {
				line = append(line, ", "...)
			}
			line = append(line, option...)
		}
	}
	if len(line) == empty {
		return b
	}
	return append(append(b, line...), "\r\n"...)
}

// nominated reports whether Connection names the field.
func (h *head) nominated(name string) bool {
	for _, known := range kept {
		if sameName(name, known) {
			return false
		}
	}
	for _, f := range h.fields {
		if sameName(f.name, "Connection") && hasToken(f.value, name) {
			return true
		}
	}
	return false
}

// hasToken reports whether a comma-separated list has the token, without case.
func hasToken(list, token string) bool {
	for item := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(trimSpace(item), token) {
			return true
		}
	}
	return false
}

// withoutTrailers keeps the trailer section of a piece back, until it is whole.
func (s *session) withoutTrailers(piece []byte) []byte {
	at := s.body.trailerAt
	if at < 0 {
		return piece
	}
	s.trailers = append(s.trailers, piece[at:]...)
	return piece[:at]
}

// appendTrailers writes the trailer section without what policies strip.
func (s *session) appendTrailers(b []byte) []byte {
	for line := range strings.Lines(string(s.trailers)) {
		name, _, _ := strings.Cut(line, ":")
		if !strips(s.policies, name) {
			b = append(b, line...)
		}
	}
	s.trailers = s.trailers[:0]
	return b
}
