package conformance

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// message is an HTTP/1.1 message as it stood on the wire.
type message struct {
	// start is the first line.
	start    string
	fields   []field
	body     []byte
	trailers []field
	// cut: the connection ended before the message did.
	cut bool
}

// field is a line of a head, as it was spelled.
type field struct{ name, value string }

// readHead reads a message up to its body, after any empty lines (RFC 9112
// section 2.2). io.EOF: there is none.
func readHead(r *bufio.Reader) (*message, error) {
	m := &message{}
	for m.start == "" {
		var err error
		if m.start, err = readLine(r); err != nil {
			return nil, err
		}
	}
	var err error
	m.fields, err = readFields(r)
	return m, err
}

// readLine reads a line without its end. An end within it is unexpected.
func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if errors.Is(err, io.EOF) && line != "" {
		err = io.ErrUnexpectedEOF
	}
	return strings.TrimRight(line, "\r\n"), err
}

func readFields(r *bufio.Reader) ([]field, error) {
	var fields []field
	for {
		line, err := readLine(r)
		switch {
		case errors.Is(err, io.EOF):
			return fields, io.ErrUnexpectedEOF
		case err != nil || line == "":
			return fields, err
		}
		name, value, _ := strings.Cut(line, ":")
		fields = append(fields, field{name, strings.Trim(value, " \t")})
	}
}

// get is a field's first value.
func (m *message) get(name string) string {
	for _, f := range m.fields {
		if strings.EqualFold(f.name, name) {
			return f.value
		}
	}
	return ""
}

// status of a response.
func (m *message) status() int {
	_, rest, _ := strings.Cut(m.start, " ")
	code, _, _ := strings.Cut(rest, " ")
	status, _ := strconv.Atoi(code)
	return status
}

// target of a request.
func (m *message) target() string {
	_, rest, _ := strings.Cut(m.start, " ")
	target, _, _ := strings.Cut(rest, " ")
	return target
}

func (m *message) chunked() bool { return strings.EqualFold(m.get("Transfer-Encoding"), "chunked") }

// readBody reads the rest of a message. RFC 9112 section 6.3: without a length a
// request has no body, and a response lasts until the connection ends.
func (m *message) readBody(r *bufio.Reader, request bool) {
	var err error
	length := m.get("Content-Length")
	switch {
	case m.chunked():
		// The chunked reader leaves the trailers, and takes an end within the
		// chunks for unexpected.
		m.body, err = io.ReadAll(httputil.NewChunkedReader(r))
		if err == nil {
			m.trailers, err = readFields(r)
		}
	case length != "":
		want, _ := strconv.ParseInt(length, 10, 64)
		m.body, err = io.ReadAll(io.LimitReader(r, want))
		m.cut = int64(len(m.body)) < want
	case !request:
		m.body, err = io.ReadAll(r)
	}
	m.cut = m.cut || err != nil
}

// bodyless reports whether a response to method has no body, whatever its head
// says.
func (m *message) bodyless(method string) bool {
	status := m.status()
	return method == "HEAD" || status < 200 || status == 204 || status == 304 || method == "CONNECT" && status/100 == 2
}

// hopByHop are fields that an intermediary must not pass on (RFC 9110 section
// 7.6.1), or that are about one connection's framing. Upgrade is not among
// them: to be transparent is to pass it on.
var hopByHop = []string{"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding"}

// endToEnd are the fields that a transparent intermediary leaves.
func (m *message) endToEnd() []field {
	dropped := slices.Clone(hopByHop)
	for option := range strings.SplitSeq(strings.ToLower(m.get("Connection")), ",") {
		if option = textproto.TrimString(option); option != "upgrade" {
			dropped = append(dropped, option)
		}
	}
	return slices.DeleteFunc(slices.Clone(m.fields), func(f field) bool {
		return slices.Contains(dropped, strings.ToLower(f.name))
	})
}

// dropQuotas removes the RateLimit fields that the sidecar added, and reports
// whether both were there once. Those of the application stay.
func (m *message) dropQuotas() bool {
	var found []string
	m.fields = slices.DeleteFunc(m.fields, func(f field) bool {
		ours := slices.Contains([]string{"ratelimit", "ratelimit-policy"}, strings.ToLower(f.name)) &&
			strings.HasPrefix(f.value, `"`+service+`"`)
		if ours {
			found = append(found, f.name)
		}
		return ours
	})
	slices.Sort(found)
	return slices.Equal(found, []string{"RateLimit", "RateLimit-Policy"})
}

// meaning is what the message says: names of fields have no case, and fields of
// different names no order; the reason phrase means nothing, nor that a request
// has the length 0.
func (m *message) meaning() string {
	words := strings.SplitN(m.start, " ", 3)
	fields := sorted(m.endToEnd())
	if strings.HasPrefix(words[0], "HTTP/") {
		words = words[1:2]
	} else {
		words = words[:len(words)-1]
		fields = slices.DeleteFunc(fields, func(f field) bool { return f == field{"content-length", "0"} })
	}
	for i, f := range fields {
		if f.name == "trailer" {
			fields[i].value = inOrder(f.value)
		}
	}
	return m.render(strings.Join(words, " "), fields, sorted(m.trailers))
}

// inOrder sorts a list of names.
func inOrder(list string) string {
	names := strings.Split(strings.ToLower(list), ",")
	for i := range names {
		names[i] = textproto.TrimString(names[i])
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// verbatim is the message as it was spelled, but for the version, which is the
// intermediary's own (RFC 9110 section 2.5).
func (m *message) verbatim() string {
	start := strings.Replace(m.start, "HTTP/1.0", "HTTP/1.1", 1)
	return m.render(start, m.endToEnd(), m.trailers)
}

func sorted(fields []field) []field {
	lower := make([]field, len(fields))
	for i, f := range fields {
		lower[i] = field{strings.ToLower(f.name), f.value}
	}
	slices.SortStableFunc(lower, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return lower
}

// render leaves the body of a message out that was cut: how much of it arrived
// is chance.
func (m *message) render(start string, fields, trailers []field) string {
	var b strings.Builder
	b.WriteString(start + "\n")
	for _, f := range fields {
		fmt.Fprintf(&b, "  %s: %s\n", f.name, f.value)
	}
	if m.cut {
		b.WriteString("  cut short\n")
		return b.String()
	}
	b.WriteString("  body " + digest(m.body) + "\n")
	for _, f := range trailers {
		fmt.Fprintf(&b, "  trailer %s: %s\n", f.name, f.value)
	}
	return b.String()
}

// digest shows a short body, and the length and the sum of a long one.
func digest(body []byte) string {
	if len(body) <= 80 {
		return strconv.Quote(string(body))
	}
	return fmt.Sprintf("of %d bytes, sum %016x", len(body), sum(bytes.NewReader(body)))
}

// bodyReader reads the body piece by piece.
func (m *message) bodyReader(c *conn) io.Reader {
	if m.chunked() {
		return httputil.NewChunkedReader(c.r)
	}
	return c.r
}
