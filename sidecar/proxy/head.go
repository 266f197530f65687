package proxy

import (
	"bytes"
	"errors"
	"strings"
	"unsafe"
)

const (
	// maxHeadBytes bounds a request's and a response's head. Of the servers in
	// use only Go's allows more by default (1 MiB).
	maxHeadBytes = 128 << 10
	// maxFields bounds the lines of a head.
	maxFields = 1000
	// maxLengthDigits keeps a Content-Length within an int64.
	maxLengthDigits = 18
)

// malformed is a message that means different things to different readers, or
// nothing to any. Its text is for whoever sent it.
type malformed struct {
	status int
	detail string
}

func (m *malformed) Error() string { return m.detail }

func badHead(detail string) error { return &malformed{status: 400, detail: detail} }

var (
	errBareLF      = badHead("A line of the head ends in LF without CR (RFC 9112 section 2.2).")
	errRequestLine = badHead("The request line is not \"method target HTTP/1.1\" with single spaces (RFC 9112 section 3).")
	errTarget      = badHead("The request-target is none of RFC 9112 section 3.2.")
	errAuthority   = badHead("The request-target names another host than the Host field (RFC 9112 section 3.2.2).")
	errVersion     = &malformed{505, "Of HTTP/1 the versions 1.0 and 1.1 are known (RFC 9110 section 15.6.6)."}
	errFieldLine   = badHead("A field line is not \"name: value\": folded, with space before the colon, or with characters that none may have (RFC 9112 section 5).")
	errTooLarge    = &malformed{431, "The head has more than 128 KiB or 1,000 fields."}
	errHost        = badHead("There must be one Host field with a host, and nothing else, in it (RFC 9112 section 3.2).")
	errLength      = badHead("Content-Length is not one number of at most 18 digits (RFC 9112 section 6.3).")
	errCoding      = &malformed{501, "Of transfer codings only \"chunked\", once, is known (RFC 9112 section 6.1)."}
	errFraming     = badHead("The body's length is told by both Transfer-Encoding and Content-Length, or by Transfer-Encoding in HTTP/1.0, or there is one with CONNECT (RFC 9112 section 6.1).")
	errLookalike   = badHead("A field's name is taken for Content-Length or Transfer-Encoding by servers that read \"_\" as \"-\".")
	errNominated   = badHead("Connection names a field that is not for one connection (RFC 9110 section 7.6.1).")
	errChunk       = badHead("The chunked body is malformed (RFC 9112 section 7.1).")

	errStatusLine     = errors.New("the response does not begin with a status line of HTTP/1")
	errResponseLength = errors.New("the response's body has several lengths")
	errResponseHead   = errors.New("the response's head cannot be read")
)

// connectionOptions of a Connection field, RFC 9110 section 7.6.1.
type connectionOptions struct {
	close, keepAlive, upgrade bool
	// others names fields that are for this connection only.
	others bool
}

// head is the head of a message, parsed where it lies: its strings are parts
// of the buffer. It can be parsed on when more has come, as long as what came
// before has not moved.
type head struct {
	// lines are where each field's line begins; the last is the empty line.
	lines  []int
	fields []field
	// size in bytes, the empty line included; 0 until it has come.
	size int
	// next is where parsing goes on.
	next int
	// begun: the request line or status line has been read.
	begun bool

	method, target string
	minor          byte
	status         int

	host       string
	hosts      int
	length     int64 // Content-Length; -1 without
	chunked    bool
	coded      bool // there is a Transfer-Encoding
	doubled    bool // a response with Transfer-Encoding and Content-Length
	connection connectionOptions
	upgrades   string // all Upgrade fields
	expects    bool   // 100-continue
}

// forget drops what a large head has left: it keeps the memory of that.
func (h *head) forget() {
	if h.size > bufferBytes {
		*h = head{length: -1}
	}
}

func (h *head) reset() {
	*h = head{lines: h.lines[:0], fields: h.fields[:0], length: -1}
}

// view is a part of the buffer as a string: valid until it changes.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// parseRequest parses on in data, which begins where the head does. It
// reports whether the head is whole. It is strict: what it accepts means the
// same to everybody.
func (h *head) parseRequest(data []byte) (whole bool, err error) {
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
		if end == start || data[end-1] != '\r' {
			return false, errBareLF
		}
		line := data[start : end-1]
		h.next = end + 1
		switch {
		case h.next > maxHeadBytes || len(h.fields) >= maxFields:
			return false, errTooLarge
		case !h.begun:
			h.begun = true
			err = h.requestLine(line)
		case len(line) == 0:
			h.lines = append(h.lines, start)
			h.size = h.next
			return true, h.checkRequest()
		default:
			h.lines = append(h.lines, start)
			err = h.requestField(line)
		}
		if err != nil {
			return false, err
		}
	}
}

// requestLine is RFC 9112 section 3.
func (h *head) requestLine(line []byte) error {
	space := bytes.IndexByte(line, ' ')
	last := len(line) - len(" HTTP/1.1")
	if space <= 0 || last <= space+1 || line[last] != ' ' {
		return errRequestLine
	}
	version := line[last+1:]
	method, target := line[:space], line[space+1:last]
	if string(version[:5]) != "HTTP/" || version[6] != '.' {
		return errRequestLine
	}
	if version[5] != '1' || version[7] != '0' && version[7] != '1' {
		return errVersion
	}
	for _, c := range method {
		if class[c]&token == 0 {
			return errRequestLine
		}
	}
	for _, c := range target {
		if class[c]&targetChar == 0 {
			return errTarget
		}
	}
	h.method, h.target, h.minor = view(method), view(target), version[7]-'0'
	switch {
	case h.method == "CONNECT":
		if !validHost(h.target) || !strings.Contains(h.target, ":") {
			return errTarget
		}
	case target[0] == '/', h.method == "OPTIONS" && h.target == "*":
	default:
		if _, ok := absolute(h.target); !ok {
			return errTarget
		}
	}
	return nil
}

// absolute is the authority of a target in absolute form.
func absolute(target string) (authority string, ok bool) {
	scheme, rest, ok := strings.Cut(target, "://")
	if !ok || !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https") {
		return "", false
	}
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		rest = rest[:end]
	}
	return rest, rest != "" && validHost(rest)
}

func (h *head) requestField(line []byte) error {
	f, err := fieldLine(line)
	if err != nil {
		return err
	}
	h.fields = append(h.fields, f)
	// By length first: most fields are none of these.
	switch len(f.name) {
	case len("Host"):
		if sameName(f.name, "Host") {
			h.hosts++
			h.host = f.value
		}
	case len("Expect"):
		if sameName(f.name, "Expect") {
			h.expects = strings.EqualFold(f.value, "100-continue")
		}
	case len("Upgrade"):
		if sameName(f.name, "Upgrade") {
			if h.upgrades != "" { // several lines are one list (RFC 9110 section 5.3)
				h.upgrades += ", "
			}
			h.upgrades += f.value
		}
	case len("Connection"):
		if sameName(f.name, "Connection") {
			return h.addConnection(f.value)
		}
	case len("Content-Length"):
		return h.requestLength(f)
	case len("Transfer-Encoding"):
		return h.requestCoding(f)
	}
	return nil
}

func (h *head) requestLength(f field) error {
	switch {
	case sameName(f.name, "Content-Length"):
		if h.length >= 0 {
			return errLength
		}
		length, ok := parseLength(f.value)
		if !ok {
			return errLength
		}
		h.length = length
	case lookalike(f.name, "Content-Length"):
		return errLookalike
	}
	return nil
}

func (h *head) requestCoding(f field) error {
	switch {
	case sameName(f.name, "Transfer-Encoding"):
		if h.coded || !strings.EqualFold(f.value, "chunked") {
			return errCoding
		}
		h.coded, h.chunked = true, true
	case lookalike(f.name, "Transfer-Encoding"):
		return errLookalike
	}
	return nil
}

// lookalike reports whether the names differ in "_" for "-" alone.
func lookalike(name, want string) bool {
	return strings.Contains(name, "_") && strings.EqualFold(strings.ReplaceAll(name, "_", "-"), want)
}

// fieldLine is RFC 9112 section 5, without obsolete folding.
func fieldLine(line []byte) (field, error) {
	colon := 0
	for colon < len(line) && class[line[colon]]&token != 0 {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return field{}, errFieldLine
	}
	value := line[colon+1:]
	for _, c := range value {
		if class[c]&valueChar == 0 {
			return field{}, errFieldLine
		}
	}
	return field{view(line[:colon]), trimSpace(view(value))}, nil
}

// addConnection reads a Connection field.
func (h *head) addConnection(value string) error {
	for value != "" {
		var option string
		option, value, _ = strings.Cut(value, ",")
		option = trimSpace(option)
		switch {
		case option == "":
		case strings.EqualFold(option, "close"):
			h.connection.close = true
		case strings.EqualFold(option, "keep-alive"):
			h.connection.keepAlive = true
		case strings.EqualFold(option, "upgrade"):
			h.connection.upgrade = true
		case sharedField(option):
			return errNominated
		default:
			h.connection.others = true
		}
	}
	return nil
}

// sharedField are fields that no connection has for itself: without them a
// message is another one.
func sharedField(name string) bool {
	for _, shared := range [...]string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Authorization", "Cookie"} {
		if sameName(name, shared) {
			return true
		}
	}
	return false
}

// checkRequest is what the fields must say together.
func (h *head) checkRequest() error {
	switch {
	case h.hosts > 1, h.hosts == 0 && h.minor > 0, h.hosts == 1 && !validHost(h.host):
		return errHost
	case h.coded && (h.length >= 0 || h.minor == 0), h.method == "CONNECT" && (h.coded || h.length > 0):
		return errFraming
	}
	authority := h.target
	if h.method != "CONNECT" {
		var ok bool
		if authority, ok = absolute(h.target); !ok {
			return nil
		}
	}
	// RFC 9112 section 3.2.2: of the two the target's counts.
	if h.hosts > 0 && normalHost(h.host) != normalHost(authority) {
		return errAuthority
	}
	h.host = authority
	return nil
}

// validHost accepts what may be in a Host field: an authority without user.
func validHost(host string) bool {
	for i := range len(host) {
		if class[host[i]]&hostChar == 0 {
			return false
		}
	}
	return true
}

func parseLength(digits string) (int64, bool) {
	if digits == "" || len(digits) > maxLengthDigits {
		return 0, false
	}
	var n int64
	for i := range len(digits) {
		c := digits[i]
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// Classes of characters.
const (
	token      = 1 << iota // tchar, RFC 9110 section 5.6.2
	targetChar             // what a request-target may hold: no space, no control, no fragment
	valueChar              // what a field's value may hold, RFC 9110 section 5.5
	hostChar               // what an authority may hold, RFC 3986 section 3.2.2, without "@"
	hexDigit
)

var class = classes()

func classes() (out [256]byte) {
	for c := range 256 {
		b := byte(c)
		if isTokenChar(b) {
			out[c] |= token
		}
		if b > ' ' && b != 0x7f && b != '#' {
			out[c] |= targetChar
		}
		if b >= ' ' && b != 0x7f || b == '\t' {
			out[c] |= valueChar
		}
		alphanumeric := 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9'
		if alphanumeric || strings.IndexByte("-._~:[]%!$&'()*+,;=", b) >= 0 {
			out[c] |= hostChar
		}
		if '0' <= b && b <= '9' || 'a' <= b && b <= 'f' || 'A' <= b && b <= 'F' {
			out[c] |= hexDigit
		}
	}
	return out
}
