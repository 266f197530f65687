package proxy

import (
	"bytes"
	"testing"
)

func TestApplicationsResponseIsRead(t *testing.T) {
	t.Parallel()
	for missing := 1; missing <= len(response); missing++ {
		if got, err := parse(response[:len(response)-missing]); err != nil || got.length != 0 {
			t.Fatalf("without its last %d bytes it is %+v, %v; expected to be incomplete", missing, got, err)
		}
	}
	got, err := parse(append(bytes.Clone(response), "HTTP/1.1 200"...))
	if err != nil || got.status != statusOK || got.length != len(response) || !bytes.Equal(got.body, body) {
		t.Errorf("got %+v, %v; expected the application's response", got, err)
	}
}

func TestResponseThatTheClientCannotCountOnIsAnError(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ why, response string }{
		{"no HTTP", "hello\r\n\r\n"},
		{"another version", "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"no status", "HTTP/1.1 abc\r\nContent-Length: 0\r\n\r\n"},
		{"no length", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"no number", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n"},
		{"no keep-alive", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nconnection: close\r\n\r\n"},
	} {
		if got, err := parse([]byte(test.response)); err == nil {
			t.Errorf("%s: got %+v, expected an error", test.why, got)
		}
	}
}
