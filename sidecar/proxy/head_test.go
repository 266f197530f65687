package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// What one reader takes for another request than the next does is refused.
func TestRequestHeadThatIsAmbiguousIsRefused(t *testing.T) {
	t.Parallel()
	const get, post = "GET / HTTP/1.1\r\nHost: h\r\n", "POST / HTTP/1.1\r\nHost: h\r\n"
	for _, c := range []struct {
		reason, head string
		want         error
	}{
		{"length and coding", post + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", errFraming},
		{"coding and length", post + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", errFraming},
		{"a coding in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", errFraming},
		{"two lengths", post + "Content-Length: 3\r\nContent-Length: 4\r\n\r\n", errLength},
		{"the same length twice", post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\n", errLength},
		{"a list of lengths", post + "Content-Length: 3, 3\r\n\r\n", errLength},
		{"a signed length", post + "Content-Length: +3\r\n\r\n", errLength},
		{"a negative length", post + "Content-Length: -3\r\n\r\n", errLength},
		{"a hexadecimal length", post + "Content-Length: 0x3\r\n\r\n", errLength},
		{"an empty length", post + "Content-Length: \r\n\r\n", errLength},
		{"a length beyond an int64", post + "Content-Length: 9999999999999999999\r\n\r\n", errLength},
		{"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", errCoding},
		{"chunked in a list", post + "Transfer-Encoding: chunked, identity\r\n\r\n", errCoding},
		{"another coding", post + "Transfer-Encoding: gzip\r\n\r\n", errCoding},
		{"chunked with something in it", post + "Transfer-Encoding: chunked;q=1\r\n\r\n", errCoding},
		{"a vertical tab before chunked", post + "Transfer-Encoding: \x0bchunked\r\n\r\n", errFieldLine},
		{"a length that CGI sees", post + "Content_Length: 3\r\n\r\n", errLookalike},
		{"a coding that CGI sees", post + "Transfer_Encoding: chunked\r\n\r\n", errLookalike},
		{"space before the colon", post + "Content-Length : 3\r\n\r\n", errFieldLine},
		{"a folded line", get + "X: a\r\n b\r\n\r\n", errFieldLine},
		{"a line that begins with space", get + " X: a\r\n\r\n", errFieldLine},
		{"no colon", get + "X\r\n\r\n", errFieldLine},
		{"no name", get + ": x\r\n\r\n", errFieldLine},
		{"NUL in a value", get + "X: a\x00b\r\n\r\n", errFieldLine},
		{"CR in a value", get + "X: a\rb\r\n\r\n", errFieldLine},
		{"NUL in a name", get + "X\x00: a\r\n\r\n", errFieldLine},
		{"lines that end in LF", "GET / HTTP/1.1\nHost: h\n\n", errBareLF},
		{"an empty line of LF", get + "\n", errBareLF},
		{"two hosts", get + "Host: h\r\n\r\n", errHost},
		{"no host", "GET / HTTP/1.1\r\n\r\n", errHost},
		{"a user in the host", "GET / HTTP/1.1\r\nHost: u@h\r\n\r\n", errHost},
		{"a path in the host", "GET / HTTP/1.1\r\nHost: h/x\r\n\r\n", errHost},
		{"space in the host", "GET / HTTP/1.1\r\nHost: h x\r\n\r\n", errHost},
		{"another host in the target", "GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n", errAuthority},
		{"a user in the target", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"another scheme", "GET ftp://h/ HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"a target without a slash", "GET h HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"an asterisk for GET", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"a fragment", "GET /#x HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"a tunnel to no port", "CONNECT h HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"a tunnel with a body", "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 1\r\n\r\n", errFraming},
		{"two spaces", "GET  / HTTP/1.1\r\nHost: h\r\n\r\n", errTarget},
		{"a tab for a space", "GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", errRequestLine},
		{"space behind the version", "GET / HTTP/1.1 \r\nHost: h\r\n\r\n", errRequestLine},
		{"HTTP/0.9", "GET /\r\n\r\n", errRequestLine},
		{"a version to come", "GET / HTTP/1.2\r\nHost: h\r\n\r\n", errVersion},
		{"a lower-case version", "GET / http/1.1\r\nHost: h\r\n\r\n", errRequestLine},
		{"a connection of one's own Content-Length", post + "Connection: content-length\r\nContent-Length: 3\r\n\r\n", errNominated},
		{"a connection of one's own Host", get + "Connection: close, Host\r\n\r\n", errNominated},
		{"too many fields", get + strings.Repeat("X: y\r\n", maxFields) + "\r\n", errTooLarge},
		{"too many bytes", get + "X: " + strings.Repeat("y", maxHeadBytes), errTooLarge},
	} {
		var h head
		h.reset()
		if whole, err := h.parseRequest([]byte(c.head)); whole || !errors.Is(err, c.want) {
			// The verdict over all fields comes with the whole head.
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v, %v; want %v", c.reason, whole, err, c.want)
			}
		}
	}
}

// However a head is cut into pieces, it is read the same.
func TestHeadsAreReadTheSameInPieces(t *testing.T) {
	t.Parallel()
	heads := []string{
		"GET /a?b HTTP/1.1\r\nHost: h\r\nX: y\r\nConnection: keep-alive, X\r\n\r\nrest",
		"POST http://h:80/p HTTP/1.0\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
		"GET / HTTP/1.1\nHost: h\r\n\r\n",
	}
	rapid.Check(t, func(rt *rapid.T) {
		data := []byte(rapid.SampledFrom(heads).Draw(rt, "head"))
		var at, whole head
		at.reset()
		whole.reset()
		wantWhole, wantErr := whole.parseRequest(data)
		for n := 0; n < len(data); {
			n = min(len(data), n+rapid.IntRange(1, 9).Draw(rt, "piece"))
			done, err := at.parseRequest(data[:n])
			if !done && err == nil {
				continue
			}
			if done != wantWhole || !errors.Is(err, wantErr) || at.size != whole.size || at.target != whole.target {
				rt.Fatalf("in pieces: %v %v size %d, at once: %v %v size %d", done, err, at.size, wantWhole, wantErr, whole.size)
			}
			return
		}
	})
}

// FuzzRequestHead holds the parser against net/http's: what the sidecar
// accepts, net/http must read with the same method, target, host and end.
func FuzzRequestHead(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /a%20b?c=d HTTP/1.1\r\nHost: h:80\r\nContent-Length: 4\r\n\r\nbody",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
		"GET http://h/x HTTP/1.1\r\nHost: h\r\nConnection: close, X-Y\r\nX-Y: 1\r\n\r\n",
		"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
		"OPTIONS * HTTP/1.0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
		"GET / HTTP/1.1\nHost: h\n\n",
		"GET / HTTP/1.1\r\nHost: h\r\nContent_Length: 3\r\nContent-Length : 3\r\n\r\n",
		"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var h head
		h.reset()
		whole, err := h.parseRequest(data)
		if !whole || err != nil {
			return
		}
		rest := bufio.NewReaderSize(bytes.NewReader(data), len(data)+16)
		r, err := http.ReadRequest(rest)
		if err != nil {
			// It may refuse more than we do, of what is no matter of framing: a
			// target that it cannot decode.
			if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI") {
				return
			}
			t.Fatalf("accepted %q, which net/http refuses: %v", data[:h.size], err)
		}
		if r.Method != h.method || r.RequestURI != h.target || r.ProtoMinor != int(h.minor) {
			t.Fatalf("%q: %s %s 1.%d, net/http reads %s %s 1.%d", data[:h.size], h.method, h.target, h.minor, r.Method, r.RequestURI, r.ProtoMinor)
		}
		if h.method != "CONNECT" && !strings.EqualFold(r.Host, h.host) {
			t.Fatalf("%q: host %q, net/http reads %q", data[:h.size], h.host, r.Host)
		}
		if chunked := len(r.TransferEncoding) > 0; chunked != h.chunked || !chunked && r.ContentLength != max(h.length, 0) {
			t.Fatalf("%q: length %d, chunked %v; net/http reads %d, %v", data[:h.size], h.length, h.chunked, r.ContentLength, r.TransferEncoding)
		}
		body := data[h.size:]
		var ours int
		switch {
		case h.chunked:
			var c chunks
			n, done, err := c.scan(body)
			if err != nil || !done {
				return
			}
			ours = n
		case h.length > int64(len(body)):
			return
		default:
			ours = int(max(h.length, 0))
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			t.Fatalf("%q: a body that net/http cannot read: %v", data, err)
		}
		left, err := io.ReadAll(rest)
		if err != nil || len(left) != len(body)-ours {
			t.Fatalf("%q: the request ends %d bytes before the end, for net/http %d (%v)", data, len(body)-ours, len(left), err)
		}
	})
}

// BenchmarkRequestHead is the cost of reading a head of 12 fields.
func BenchmarkRequestHead(b *testing.B) {
	data := []byte("GET /v1/me/player/recently-played?limit=50 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: python-requests/2.32.3\r\n" +
		"Accept-Encoding: gzip, deflate, br\r\nAccept: */*\r\nConnection: keep-alive\r\nX-User-ID: user-000123\r\nAuthorization: Bearer " +
		strings.Repeat("t", 64) + "\r\nCache-Control: no-cache\r\nX-Request-ID: 0f8fad5b-d9cb-469f-a165-70867728950e\r\nCookie: a=b; c=d\r\n" +
		"Accept-Language: en\r\nContent-Type: application/json\r\n\r\n")
	var h head
	b.ReportAllocs()
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		h.reset()
		if whole, err := h.parseRequest(data); !whole || err != nil {
			b.Fatal(whole, err)
		}
	}
}
