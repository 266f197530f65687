package proxy

import (
	"io"
	"net/http"
	"net/http/httputil"
	"net/textproto"
	"strings"
	"sync"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// transports has one transport for each version of HTTP: a request goes on in
// the version that it came in.
type transports struct{ http1, http2 *http.Transport }

func newTransports() transports {
	transport := func(set func(*http.Protocols)) *http.Transport {
		var protocols http.Protocols
		set(&protocols)
		return &http.Transport{
			DialContext: dialer.DialContext, // the "host" is always the original address
			Protocols:   &protocols,
			// The body passes as the application encoded it.
			DisableCompression:  true,
			MaxIdleConns:        1024,
			MaxIdleConnsPerHost: 128,
			IdleConnTimeout:     time.Minute,
			// An upstream that ignores "Expect: 100-continue" gets the body
			// after this, as from most clients.
			ExpectContinueTimeout:  time.Second,
			MaxResponseHeaderBytes: maxHeaderBytes,
		}
	}
	return transports{
		http1: transport(func(p *http.Protocols) { p.SetHTTP1(true) }),
		http2: transport(func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) }),
	}
}

func (t transports) close() {
	t.http1.CloseIdleConnections()
	t.http2.CloseIdleConnections()
}

// exchange is one request and its response.
type exchange struct {
	proxy     *Proxy
	direction ruleset.Direction
	conn      *conn
	w         http.ResponseWriter
	admission
	// proxyAuthenticate of the response: see RoundTrip.
	proxyAuthenticate []string
	upgraded          bool
}

// forward sends the request to the original destination and streams the
// response back.
func (x *exchange) forward(r *http.Request) {
	if r.ProtoMajor == 1 {
		if r.Method == http.MethodConnect {
			x.tunnel(r)
			return
		}
		// Without this net/http reads the request's body to its end before it
		// sends a response's head, and those bytes would be lost upstream.
		_ = http.NewResponseController(x.w).EnableFullDuplex()
	}
	defer func() {
		if x.upgraded {
			x.proxy.relays.Done()
		}
	}()
	reverse := httputil.ReverseProxy{
		Rewrite:        x.rewrite,
		Transport:      x,
		FlushInterval:  -1,
		ErrorLog:       x.proxy.quiet,
		BufferPool:     buffers{},
		ModifyResponse: x.modifyResponse,
		ErrorHandler:   x.upstreamFailed,
	}
	reverse.ServeHTTP(x.w, r)
}

// rewrite undoes what ReverseProxy changes for gateways and a transparent
// proxy must not.
func (x *exchange) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme = "http"
	out.URL.Host = x.conn.destination.String()
	if in.Method != http.MethodConnect {
		// The target goes on byte for byte, absolute form included (an
		// application that talks to a forward proxy). An Opaque that begins
		// with "//" would become one; there the parsed path must do.
		target, query, hasQuery := strings.Cut(in.RequestURI, "?")
		if !strings.HasPrefix(target, "//") {
			out.URL.Opaque = target
		}
		out.URL.RawQuery = query
		out.URL.ForceQuery = hasQuery && query == ""
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Proxy-Authorization"} {
		if values, ok := in.Header[name]; ok && !nominated(in.Header, name) {
			out.Header[name] = values
		}
	}
	// The server fills this map when the body has ended; a copy stays empty.
	out.Trailer = in.Trailer
	if hasToken(out.Header["Upgrade"], "h2c") {
		// After this upgrade requests could not be told apart; RFC 9110
		// section 7.8 lets anybody ignore it, and RFC 9113 has dropped it.
		out.Header.Del("Upgrade")
		out.Header.Del("Connection")
	}
}

// nominated reports whether Connection names the header as hop-by-hop.
func nominated(h http.Header, name string) bool { return hasToken(h["Connection"], name) }

func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(textproto.TrimString(item), token) {
				return true
			}
		}
	}
	return false
}

// RoundTrip sends the request in the HTTP version that it came in.
// ReverseProxy takes Proxy-Authenticate away, which is the answer of a
// forward proxy that the application itself talks to: it is kept here.
func (x *exchange) RoundTrip(r *http.Request) (*http.Response, error) {
	transport := x.proxy.transports.http1
	if r.ProtoMajor == 2 {
		transport = x.proxy.transports.http2
	}
	response, err := transport.RoundTrip(r)
	if err == nil {
		x.proxyAuthenticate = response.Header["Proxy-Authenticate"]
	}
	return response, err
}

func (x *exchange) modifyResponse(response *http.Response) error {
	h := x.w.Header()
	addRateLimitFields(h, x.quotas)
	if response.StatusCode == http.StatusSwitchingProtocols {
		x.upgraded = true
		x.proxy.relays.Add(1)
		return nil
	}
	for _, name := range []string{"Content-Type", "Date"} {
		if _, ok := response.Header[name]; !ok {
			h[name] = nil // or net/http invents one
		}
	}
	if x.proxyAuthenticate != nil {
		response.Header["Proxy-Authenticate"] = x.proxyAuthenticate
	}
	return nil
}

// upstreamFailed answers 502, or nothing when nobody waits for an answer.
func (x *exchange) upstreamFailed(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client is gone: net/http ends it quietly
	}
	x.proxy.metrics.upstream.WithLabelValues(string(x.direction)).Inc()
	x.proxy.log.Debug("forwarding failed", "direction", x.direction, "error", err)
	unreachable().write(w, r)
}

// buffers lends ReverseProxy its copy buffers.
type buffers struct{}

const bufferBytes = 32 << 10

var bufferPool = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

func (buffers) Get() []byte  { return bufferPool.Get().(*[bufferBytes]byte)[:] }
func (buffers) Put(b []byte) { bufferPool.Put((*[bufferBytes]byte)(b)) }

// strip removes from a request what its policies strip, trailers included.
func strip(r *http.Request, policies []*policy) {
	var names []string
	for _, p := range policies {
		names = append(names, p.stripped...)
	}
	for _, name := range names {
		delete(r.Header, name)
	}
	if len(names) > 0 && len(r.Trailer) > 0 {
		body := stripped{ReadCloser: r.Body, trailer: r.Trailer, names: names}
		body.strip() // what is announced
		r.Body = body
	}
}

// stripped is a body whose end brings trailers, which some are taken out of.
type stripped struct {
	io.ReadCloser
	trailer http.Header
	names   []string
}

func (b stripped) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.strip()
	}
	return n, err
}

func (b stripped) strip() {
	for _, name := range b.names {
		delete(b.trailer, name)
	}
}
