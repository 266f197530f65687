package proxy

import (
	"bytes"
	"strings"
)

// parseResponse parses on in data, which begins where the head does, and
// reports whether the head is whole. It takes what clients take: a response
// goes to one client, which reads it as it came. Only what would let that
// client and this proxy see different ends of it is an error.
func (h *head) parseResponse(data []byte) (whole bool, err error) {
	for {
		end := bytes.IndexByte(data[h.next:], '\n')
		if end < 0 {
			if len(data) >= maxHeadBytes {
				return false, errTooLarge
			}
			return false, nil
		}
		start := h.next
		end += start
		line := bytes.TrimSuffix(data[start:end], []byte("\r"))
		h.next = end + 1
		switch {
		case h.next > maxHeadBytes || len(h.fields) >= maxFields:
			return false, errTooLarge
		case !h.begun:
			h.begun = true
			err = h.statusLine(line)
		case len(line) == 0:
			h.lines = append(h.lines, start)
			h.size = h.next
			h.settleLength()
			return true, nil
		default:
			err = h.responseField(start, line)
		}
		if err != nil {
			return false, err
		}
	}
}

// statusLine is RFC 9112 section 4.
func (h *head) statusLine(line []byte) error {
	if len(line) < len("HTTP/1.1 200") || string(line[:7]) != "HTTP/1." || line[8] != ' ' ||
		len(line) > 12 && line[12] != ' ' {
		return errStatusLine
	}
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return errStatusLine
		}
		h.status = h.status*10 + int(c-'0')
	}
	h.minor = line[7] - '0'
	if h.minor > 9 || h.status < 100 {
		return errStatusLine
	}
	return nil
}

func (h *head) responseField(start int, line []byte) error {
	if line[0] == ' ' || line[0] == '\t' { // folded: part of the line before
		if len(h.fields) > 0 && framing(canonicalFraming(h.fields[len(h.fields)-1].name)) {
			return errResponseHead
		}
		return nil
	}
	if bytes.IndexByte(line, 0) >= 0 {
		return errResponseHead
	}
	name, value, _ := strings.Cut(view(line), ":")
	h.lines = append(h.lines, start)
	h.fields = append(h.fields, field{name, trimSpace(value)})
	f := &h.fields[len(h.fields)-1]
	switch trimmed := strings.TrimRight(name, " \t"); {
	case sameName(trimmed, "Content-Length"):
		if trimmed != name {
			return errResponseHead
		}
		return h.responseLength(f.value)
	case sameName(trimmed, "Transfer-Encoding"):
		if trimmed != name {
			return errResponseHead
		}
		h.coded = true
		last := f.value[strings.LastIndexByte(f.value, ',')+1:]
		h.chunked = strings.EqualFold(trimSpace(last), "chunked")
	case sameName(trimmed, "Connection"):
		_ = h.addConnection(f.value) // what it names is the client's to ignore
	}
	return nil
}

// canonicalFraming spells the names of the two fields that end a message.
func canonicalFraming(name string) string {
	switch {
	case sameName(name, "Content-Length"):
		return "Content-Length"
	case sameName(name, "Transfer-Encoding"):
		return "Transfer-Encoding"
	}
	return ""
}

// responseLength accepts a length that is told again, RFC 9110 section 8.6.
func (h *head) responseLength(value string) error {
	for part := range strings.SplitSeq(value, ",") {
		length, ok := parseLength(trimSpace(part))
		if !ok || h.length >= 0 && length != h.length {
			return errResponseLength
		}
		h.length = length
	}
	return nil
}

// settleLength settles RFC 9112 section 6.3: Transfer-Encoding overrides.
func (h *head) settleLength() {
	if h.coded && h.minor == 0 { // clients differ: until the connection ends
		h.chunked = false
	}
	if h.coded {
		h.doubled = h.length >= 0
		h.length = -1
	}
}
