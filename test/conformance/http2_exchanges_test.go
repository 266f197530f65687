package conformance

import (
	"fmt"
	"io"
	"net/http"
	"strings"
)

// http2Exchange is one request and its answer.
type http2Exchange struct {
	name   string
	method string // GET when empty
	target string // "/a" when empty
	body   func() io.Reader
	// trailer of the request: name and value.
	trailer string
	fields  []string
	answer  http.HandlerFunc // says "ok" when nil
}

func (e http2Exchange) hold(h *held) {
	h.application(func(w http.ResponseWriter, r *http.Request) {
		h.noteRequest(r)
		if e.answer == nil {
			_, _ = io.WriteString(w, "ok")
			return
		}
		e.answer(w, r)
	})
	client := h.http2()
	for range 2 {
		target, body := e.target, io.Reader(nil)
		if target == "" {
			target = "/a"
		}
		if e.body != nil {
			body = e.body()
		}
		r := h.request(e.method, target, body, e.fields...)
		if e.trailer != "" {
			r.Trailer = http.Header{e.trailer: {"42"}}
		}
		h.do(client, r)
	}
}

// known and streamed are bodies of known and of unknown length.
func known(body string) func() io.Reader {
	return func() io.Reader { return strings.NewReader(body) }
}

func streamed(body string) func() io.Reader {
	return func() io.Reader { return io.MultiReader(strings.NewReader(body)) }
}

func http2Exchanges() []conversation {
	var all []conversation
	for _, list := range [][]http2Exchange{http2Requests(), http2Responses()} {
		for _, e := range list {
			all = append(all, conversation{e.name, e.hold})
		}
	}
	return all
}

func http2Requests() []http2Exchange {
	all := []http2Exchange{
		{name: "request with a length", method: "POST", body: known("body")},
		{name: "request without a length", method: "POST", body: streamed("body")},
		{name: "request of no bytes", method: "POST", body: streamed("")},
		{name: "request without body", method: "POST"},
		{name: "GET with a body", body: known("body")},
		{name: "DELETE with a body", method: "DELETE", body: known("body")},
		{name: "request with trailers", method: "PUT", body: streamed("body"), trailer: "X-Sum"},
		{name: "request of trailers only", method: "PUT", body: streamed(""), trailer: "X-Sum"},
		{name: "request of megabytes", method: "PUT", body: known(string(random(3_000_000, 1)))},
		{name: "request of megabytes without a length", method: "PUT", body: streamed(string(random(3_000_000, 2)))},
		{name: "method of another RFC", method: "PROPFIND", body: known("<a/>")},
		{name: "method that nobody knows", method: "M-search!~"},
		{name: "request fields of the same name", fields: []string{"X-A", "1", "X-B", "2", "X-A", "3", "Accept", "a", "Accept", "b, c"}},
		{name: "cookies on two lines", fields: []string{"Cookie", "a=1; b=2", "Cookie", "c=3"}},
		{name: "request fields without a value", fields: []string{"X-Empty", "", "Accept-Encoding", ""}},
		{name: "request without User-Agent", fields: []string{"User-Agent", ""}},
		{name: "request fields of UTF-8 bytes", fields: []string{"X-Utf8", "caf\xc3\xa9", "X-Latin", "caf\xe9"}},
		{name: "request field of 60 KiB", fields: []string{"X-Long", strings.Repeat("0123456789abcdef", 3840)}},
		{name: "what other proxies said", fields: []string{"Forwarded", "for=192.0.2.1", "X-Forwarded-For", "192.0.2.1", "X-Forwarded-Host", "a", "X-Forwarded-Proto", "https", "Via", "1.1 other"}},
		{name: "credentials", fields: []string{"Authorization", "Bearer secret", "Proxy-Authorization", "Basic secret"}},
		{name: "TE", fields: []string{"Te", "trailers"}},
		{name: "target *", method: "OPTIONS", target: "*"},
	}
	for _, target := range []string{
		"/", "//", "//x//y", "/a/./b/../c", "/a%2Fb%2f..%2F", "/a%20b+c", "/%7Euser/~user", "/a;p=1/b;q", "/:@!$&'()*+,;=", "/a//",
		"/?", "/a?", "/a??b=?&c=d?", "/a?x=;y=%zz&&q=", "/a?q=%2F%3f", "/a?next=http://other.test/b?c", "/%e2%82%ac",
	} {
		all = append(all, http2Exchange{name: "target " + strings.ReplaceAll(target, "/", "|"), target: target})
	}
	return all
}

func http2Responses() []http2Exchange {
	zipped := gzipped()
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	saying := func(fields ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(fields); i += 2 {
				w.Header().Add(fields[i], fields[i+1])
			}
			_, _ = io.WriteString(w, "ok")
		}
	}
	return []http2Exchange{
		{name: "response with a length", answer: saying("Content-Length", "2")},
		{name: "response without a length", answer: flushing("o", "ne ", "body")},
		{name: "response of no bytes", answer: status(http.StatusOK)},
		{name: "response of no bytes, without a length", answer: flushing()},
		{name: "response without Date and type", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header()["Date"], w.Header()["Content-Type"] = nil, nil
			_, _ = io.WriteString(w, "<html>")
		}},
		{name: "response with Date and Server", answer: saying("Server", "the application's/1.0")},
		{name: "response with trailers", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Sum")
			_, _ = io.WriteString(w, "body")
			w.Header().Set("X-Sum", "42")
		}},
		{name: "response with trailers that nothing announced", answer: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "body")
			w.Header().Add(http.TrailerPrefix+"X-Sum", "42")
			w.Header().Add(http.TrailerPrefix+"X-Sum", "43")
		}},
		{name: "response of trailers only", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
		}},
		{name: "HEAD with a length", method: "HEAD", answer: saying("Content-Length", "1000000")},
		{name: "HEAD without a length", method: "HEAD", answer: saying("Content-Type", "text/plain")},
		{name: "204", method: "DELETE", answer: status(http.StatusNoContent)},
		{name: "304", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("ETag", `"1"`)
			w.WriteHeader(http.StatusNotModified)
		}},
		{name: "compressed response", fields: []string{"Accept-Encoding", "gzip"}, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, zipped)
		}},
		{name: "several Set-Cookie", answer: saying("Set-Cookie", "a=1; Path=/", "X-A", "1", "Set-Cookie", "b=2, c; HttpOnly", "Set-Cookie", "a=3")},
		{name: "response fields without a value", answer: saying("X-Empty", "")},
		{name: "response fields of UTF-8 bytes", answer: saying("X-Utf8", "caf\xc3\xa9", "X-Latin", "caf\xe9")},
		{name: "response field of 60 KiB", answer: saying("X-Long", strings.Repeat("0123456789abcdef", 3840))},
		{name: "status that nobody knows", answer: status(299)},
		{name: "429 of the application's own", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("RateLimit", `"own";r=0;t=7`)
			w.Header().Set("RateLimit-Policy", `"own";q=1;w=7`)
			w.WriteHeader(http.StatusTooManyRequests)
		}},
		{name: "redirect", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere.test/a?c=%zz")
			w.WriteHeader(http.StatusFound)
		}},
		{name: "early hints", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Add("Link", "</a>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Add("Link", "</b>")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("Link")
			_, _ = io.WriteString(w, "ok")
		}},
		{name: "processing", method: "POST", body: known("body"), answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusProcessing)
			_, _ = io.WriteString(w, "ok")
		}},
		{name: "response of megabytes", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(3_000_000))
			_, _ = w.Write(random(3_000_000, 3))
		}},
		{name: "response of megabytes without a length", answer: flushing(string(random(1_000_000, 4)), string(random(2_000_000, 5)))},
	}
}

// flushing sends the head and each piece at once.
func flushing(pieces ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		control := http.NewResponseController(w)
		_ = control.Flush() // the client sees what fails
		for _, piece := range pieces {
			_, _ = io.WriteString(w, piece)
			_ = control.Flush()
		}
	}
}
