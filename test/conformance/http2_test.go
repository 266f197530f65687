package conformance

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// The conversations of HTTP/1.1, over HTTP/2.
func TestHTTP2(t *testing.T) {
	t.Parallel()
	compare(t, ways, append(http2Exchanges(), http2Dialogues...), nil)
}

// application serves HTTP of both versions with a handler, and opens the way to
// it. Its clock stands still.
func (h *held) application(handler http.HandlerFunc) {
	h.t.Helper()
	server := &http.Server{
		Protocols: new(http.Protocols), ReadHeaderTimeout: patience, ErrorLog: log.New(io.Discard, "", 0),
		DisableGeneralOptionsHandler: true,
	}
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", "Sat, 29 Oct 1994 19:43:31 GMT")
		handler(w, r)
	})
	server.Protocols.SetHTTP1(true)
	listener := h.way.listen(h.t)
	h.open(listener.Addr())
	h.t.Cleanup(func() { _ = server.Close() })
	if h.way.tls {
		server.Protocols.SetHTTP2(true)
		server.TLSConfig = upstreamIdentity().server()
		go func() { _ = server.ServeTLS(listener, "", "") }() // until Close
		return
	}
	server.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = server.Serve(listener) }() // until Close
}

// http2 is a client of HTTP/2 alone, that adds nothing by itself.
func (h *held) http2() *http.Client {
	transport := &http.Transport{
		Protocols: new(http.Protocols), DisableCompression: true, ExpectContinueTimeout: patience,
		DialContext:    func(context.Context, string, string) (net.Conn, error) { return h.connect() },
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return h.connect() },
	}
	if h.way.tls {
		transport.Protocols.SetHTTP2(true)
	} else {
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// connect connects for HTTP/2.
func (h *held) connect() (net.Conn, error) {
	if h.way.tls {
		return tls.Dial("tcp", h.path.addr, h.path.client("h2"))
	}
	return net.Dial("tcp", h.path.addr)
}

// request makes one for the way's scheme. A body of unknown length is a plain
// io.Reader.
func (h *held) request(method, target string, body io.Reader, fields ...string) *http.Request {
	h.t.Helper()
	r, err := http.NewRequestWithContext(h.t.Context(), method, "http://"+upstreamName, body)
	if err != nil {
		h.t.Fatal(err)
	}
	if h.way.tls {
		r.URL.Scheme = "https"
	}
	path, query, asked := strings.Cut(target, "?")
	r.URL.Path, r.URL.RawPath = path, path // which goes out as it is when it decodes to Path
	if decoded, err := url.PathUnescape(path); err == nil {
		r.URL.Path = decoded
	}
	r.URL.RawQuery, r.URL.ForceQuery = query, asked
	r.Header.Set("X-User-ID", "alice")
	for i := 0; i+1 < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	trace := &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			h.returned.addf("%d%s", code, renderHeader("", http.Header(header)))
			return nil
		},
	}
	return r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
}

// do sends the request and notes what comes back, up to how it ends.
func (h *held) do(client *http.Client, r *http.Request) {
	h.t.Helper()
	response, err := client.Do(r)
	if err != nil {
		h.returned.addf("no answer")
		return
	}
	defer func() { _ = response.Body.Close() }()
	h.noteHead(response)
	h.noteBody(response)
}

// noteHead notes a response's head, without what the sidecar may add to it.
func (h *held) noteHead(response *http.Response) {
	header := response.Header.Clone()
	if h.way.quotas {
		for _, name := range []string{"Ratelimit", "Ratelimit-Policy"} {
			kept := slices.DeleteFunc(header[name], func(value string) bool { return strings.HasPrefix(value, `"`+service+`"`) })
			if len(kept) != len(header[name])-1 {
				h.returned.addf("a response without %s of ours:", name)
			}
			if header[name] = kept; len(kept) == 0 {
				delete(header, name)
			}
		}
	}
	h.returned.addf("%s %d, length %d%s", response.Proto, response.StatusCode, response.ContentLength, renderHeader("", header))
}

// noteBody notes a response's body, and its trailers: those come with the end.
func (h *held) noteBody(response *http.Response) {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		h.returned.addf("body cut short")
		return
	}
	h.returned.addf("body %s%s", digest(body), renderHeader("trailer ", response.Trailer))
}

// noteRequest reads a request to its end and notes it.
func (h *held) noteRequest(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	cut := ""
	if err != nil {
		cut = " cut short"
	}
	h.arrived.addf("%s %s %s of %s, length %d%s\n  body %s%s%s", r.Method, r.RequestURI, r.Proto, r.Host, r.ContentLength,
		renderHeader("", r.Header), digest(body), cut, renderHeader("trailer ", r.Trailer))
}

func renderHeader(prefix string, header http.Header) string {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(header)) {
		for _, value := range header[name] {
			fmt.Fprintf(&b, "\n  %s%s: %s", prefix, name, value)
		}
	}
	return b.String()
}
