package proxy

import (
	"strings"
	"testing"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		data   string
		want   protocol
		late   protocol // after a pause
	}{
		{"a request line", "GET / HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"a whole head", "POST /x HTTP/1.1\r\nHost: a\r\n\r\n", speaksHTTP, speaksHTTP},
		{"any token is a method", "PROPFIND /dav HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"lower case is net/http's to judge", "get / http/1.1\n", speaksHTTP, speaksHTTP},
		{"absolute form", "GET http://h/p HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"a tunnel", "CONNECT h:443 HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"the HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", speaksHTTP2, speaksHTTP2},
		{"empty lines first, which servers ignore", "\r\n\r\nGET / HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"several spaces, which servers forgive", "GET   /   HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"HTTP/0.9, which servers answer", "GET /\r\n", speaksHTTP, speaksHTTP},
		{"a pause in the method is no way around", "GE", undecided, speaksHTTP},
		{"nor one in an own method", "FO", undecided, speaksHTTP},
		{"nor one in the target", "GET /lo", undecided, speaksHTTP},
		{"TLS", "\x16\x03\x01\x02\x00\x01", speaksTLS, speaksTLS},
		{"one byte of TLS", "\x16", undecided, speaksTLS},
		{"not quite TLS", "\x16\x01", speaksOther, speaksOther},
		{"Redis", "*1\r\n$4\r\nPING\r\n", speaksOther, speaksOther},
		{"Redis inline", "PING\r\n", speaksOther, speaksOther},
		{"Redis inline with a key", "GET key\r\n", speaksOther, speaksOther},
		{"PostgreSQL", "\x00\x00\x00\x08\x04\xd2\x16\x2f", speaksOther, speaksOther},
		{"AMQP", "AMQP\x00\x00\x09\x01", speaksOther, speaksOther},
		{"STOMP", "CONNECT\naccept-version:1.2\n", speaksOther, speaksOther},
		{"NATS", "CONNECT {\"verbose\":false}\r\n", speaksOther, speaksOther},
		{"RTSP, which Node.js answers", "OPTIONS rtsp://h/ RTSP/1.0\r\n", resemblesHTTP, resemblesHTTP},
		{"and in whatever version", "GET / RTSP/1.1\r\n", resemblesHTTP, resemblesHTTP},
		{"Icecast, which Node.js answers", "SOURCE / ICE/1.0\r\n", resemblesHTTP, resemblesHTTP},
		{"HTTP/0.9 in absolute form", "GET http://h/\r\n", speaksHTTP, speaksHTTP},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", speaksOther, speaksOther},
		{"a control character, which CPython's server takes", "GET /\x01 HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"and a pause behind one", "GET /\x00", undecided, speaksHTTP},
		{"any space separates for CPython's server", "GET\x0c/\xa0HTTP/1.1\x0b\r\n", speaksHTTP, speaksHTTP},
		{"and may come first", " \x0bGET / HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"also before a pause", " GE", undecided, speaksHTTP},
		{"git, whose line has a NUL", "0032git-upload-pack /p\x00host=h\x00", speaksOther, speaksOther},
		{"a text behind its length in a byte", "\x0bhello world", speaksOther, speaksOther},
		{"a method of any length, which net/http takes", strings.Repeat("A", 40) + " / HTTP/1.1\r\n", speaksHTTP, speaksHTTP},
		{"and a pause within it", strings.Repeat("A", 40), undecided, speaksHTTP},
	} {
		if got := classify([]byte(c.data)); got != c.want {
			t.Errorf("%s: classify(%q) = %d, want %d", c.reason, c.data, got, c.want)
		}
		if got := classifyLate([]byte(c.data)); got != c.late {
			t.Errorf("%s: classifyLate(%q) = %d, want %d", c.reason, c.data, got, c.late)
		}
	}
}

func FuzzClassify(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte("\x16\x03\x01"))
	f.Add([]byte(" GET\x0b/\x01\xa0RTSP/1.1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		decided := undecided
		for i := range data {
			kind := classify(data[:i+1])
			if decided != undecided && kind != decided {
				t.Fatalf("%q is %d, and with more bytes %d", data[:i], decided, kind)
			}
			decided = kind
		}
	})
}
