package conformance

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"testing"
)

// An application cannot tell an HTTP/1.1 message that passed from one that did
// not: start lines, end-to-end fields, bodies and trailers are the same.
func TestHTTP1(t *testing.T) {
	t.Parallel()
	compare(t, ways, append(exchanges(), http1Dialogues...), (*message).meaning)
}

// Neither can one that looks at the order and the spelling of fields, as those
// that recognise clients by them do.
func TestHTTP1HeadsAreVerbatim(t *testing.T) {
	t.Parallel()
	compare(t, ways, exchanges(), (*message).verbatim)
}

// exchange is one request and its answer.
type exchange struct {
	name, request, answer string
	// closes: the answer ends with the connection.
	closes bool
}

// ok is an answer that says little.
const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// head is a request's head, with more lines.
func head(start string, lines ...string) string {
	return answer(start, append([]string{"Host: upstream.test", "X-User-ID: alice"}, lines...)...)
}

// answer is a head.
func answer(start string, lines ...string) string {
	return strings.Join(append([]string{start}, lines...), "\r\n") + "\r\n\r\n"
}

// chunks encodes pieces of a body. Without end the last chunk is missing.
func chunks(end string, pieces ...string) string {
	var b strings.Builder
	for _, piece := range pieces {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(piece), piece)
	}
	return b.String() + end
}

const (
	lastChunk = "0\r\n\r\n"
	aChunk    = "Transfer-Encoding: chunked"
)

// exchanges are those that need no timing.
func exchanges() []conversation {
	var all []conversation
	for _, list := range [][]exchange{requestBodies, responseBodies(), targets(), requestHeads(), responseHeads(), versions} {
		for _, e := range list {
			all = append(all, conversation{e.name, e.hold})
		}
	}
	return all
}

// hold sends the request and reads its answer, and then once more on the same
// connection when it stays.
func (e exchange) hold(h *held) {
	h.upstream(func(c *conn) {
		for m := c.request(); m != nil; m = c.request() {
			h.arrived.add(m)
			c.say(e.answer)
			if e.closes {
				return
			}
		}
	})
	c := h.dial()
	method, _, _ := strings.Cut(strings.TrimLeft(e.request, "\r\n"), " ")
	c.say(e.request)
	if h.response(c, method).chunked() && strings.Contains(e.request, "HTTP/1.0\r\n") {
		h.returned.addf("in chunks, which a client of HTTP/1.0 does not know")
	}
	if !e.closes {
		c.say(e.request)
		h.response(c, method)
	}
}

var requestBodies = []exchange{
	{name: "request with a length", request: head("POST /a HTTP/1.1", "Content-Length: 4") + "body", answer: ok},
	{name: "request of no bytes", request: head("POST /a HTTP/1.1", "Content-Length: 0"), answer: ok},
	{name: "request without body", request: head("POST /a HTTP/1.1"), answer: ok},
	{name: "GET with a body", request: head("GET /search HTTP/1.1", "Content-Length: 4", "Content-Type: text/plain") + "body", answer: ok},
	{name: "DELETE with a body", request: head("DELETE /a HTTP/1.1", "Content-Length: 4") + "body", answer: ok},
	{name: "request in chunks", request: head("PUT /a HTTP/1.1", aChunk) + chunks(lastChunk, "o", "ne ", "body"), answer: ok},
	{name: "request of no chunks", request: head("PUT /a HTTP/1.1", aChunk) + lastChunk, answer: ok},
	{
		name:    "request with trailers",
		request: head("PUT /a HTTP/1.1", aChunk, "Trailer: X-Sum, X-More") + chunks("0\r\nX-Sum: 42\r\nX-More: a\r\n\r\n", "body"), answer: ok,
	},
	{
		name:    "request with trailers that nothing announced",
		request: head("PUT /a HTTP/1.1", aChunk) + chunks("0\r\nX-Sum: 42\r\nx-sum: 43\r\n\r\n", "body"), answer: ok,
	},
	{name: "request with extensions of chunks", request: head("PUT /a HTTP/1.1", aChunk) + "4;name=value\r\nbody\r\n0;last\r\n\r\n", answer: ok},
	{
		name:    "request of megabytes",
		request: head("PUT /a HTTP/1.1", "Content-Length: 3000000") + string(random(3000000, 1)), answer: ok,
	},
	{
		name:    "request of megabytes in chunks",
		request: head("PUT /a HTTP/1.1", aChunk) + chunks(lastChunk, string(random(1000000, 2)), string(random(99999, 3)), string(random(2000000, 4))), answer: ok,
	},
}

// gzipped is a body that must pass as it is.
func gzipped() string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(bytes.Repeat([]byte("text "), 1000)) // to a buffer
	_ = w.Close()
	return b.String()
}

func responseBodies() []exchange {
	get := head("GET /a HTTP/1.1")
	zipped := gzipped()
	return []exchange{
		{name: "response with a length", request: get, answer: answer("HTTP/1.1 200 OK", "Content-Length: 4") + "body"},
		{name: "response of no bytes", request: get, answer: answer("HTTP/1.1 200 OK", "Content-Length: 0")},
		{name: "response in chunks", request: get, answer: answer("HTTP/1.1 200 OK", aChunk) + chunks(lastChunk, "o", "ne ", "body")},
		{name: "response of no chunks", request: get, answer: answer("HTTP/1.1 200 OK", aChunk) + lastChunk},
		{
			name: "response with trailers", request: head("GET /a HTTP/1.1", "Connection: TE", "TE: trailers"),
			answer: answer("HTTP/1.1 200 OK", aChunk, "Trailer: X-Sum") + chunks("0\r\nX-Sum: 42\r\n\r\n", "body"),
		},
		{
			name: "response with trailers that nothing announced", request: get,
			answer: answer("HTTP/1.1 200 OK", aChunk) + chunks("0\r\nx-SUM: 42\r\nX-Sum: 43\r\n\r\n", "body"),
		},
		{name: "response until the end", request: get, answer: answer("HTTP/1.1 200 OK", "Connection: close") + "body", closes: true},
		{name: "response of nothing until the end", request: get, answer: answer("HTTP/1.1 200 OK"), closes: true},
		{name: "response with a length, and the end", request: get, answer: answer("HTTP/1.1 200 OK", "Content-Length: 4", "Connection: close") + "body", closes: true},
		{name: "HEAD with a length", request: head("HEAD /a HTTP/1.1"), answer: answer("HTTP/1.1 200 OK", "Content-Length: 1000000")},
		{name: "HEAD without a length", request: head("HEAD /a HTTP/1.1"), answer: answer("HTTP/1.1 200 OK", "Content-Type: text/plain")},
		{name: "HEAD of chunks", request: head("HEAD /a HTTP/1.1"), answer: answer("HTTP/1.1 200 OK", aChunk)},
		{name: "204", request: head("DELETE /a HTTP/1.1"), answer: answer("HTTP/1.1 204 No Content", `ETag: "1"`)},
		{name: "304", request: head("GET /a HTTP/1.1", `If-None-Match: "1"`), answer: answer("HTTP/1.1 304 Not Modified", `ETag: "1"`)},
		{name: "304 with the length of what is not sent", request: get, answer: answer("HTTP/1.1 304 Not Modified", "Content-Length: 1000")},
		{name: "205", request: get, answer: answer("HTTP/1.1 205 Reset Content", "Content-Length: 0")},
		{
			name: "206", request: head("GET /a HTTP/1.1", "Range: bytes=0-3"),
			answer: answer("HTTP/1.1 206 Partial Content", "Content-Range: bytes 0-3/10", "Content-Length: 4") + "body",
		},
		{
			name: "compressed response", request: head("GET /a HTTP/1.1", "Accept-Encoding: gzip"),
			answer: answer("HTTP/1.1 200 OK", "Content-Encoding: gzip", fmt.Sprint("Content-Length: ", len(zipped))) + zipped,
		},
		{
			name: "compressed response that nothing asked for", request: get,
			answer: answer("HTTP/1.1 200 OK", "Content-Encoding: gzip", aChunk) + chunks(lastChunk, zipped),
		},
		{name: "response of megabytes", request: get, answer: answer("HTTP/1.1 200 OK", "Content-Length: 3000000") + string(random(3000000, 5))},
		{
			name: "response of megabytes in chunks", request: get,
			answer: answer("HTTP/1.1 200 OK", aChunk) + chunks(lastChunk, string(random(1000000, 6)), string(random(12345, 7)), string(random(2000000, 8))),
		},
		{
			name: "response of megabytes until the end", request: get,
			answer: answer("HTTP/1.1 200 OK") + string(random(3000000, 9)), closes: true,
		},
	}
}
