package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// tunnel forwards an HTTP/1 CONNECT as it came, to a destination that is a
// forward proxy. When that agrees, the connection becomes a relay; when it
// refuses, its answer is passed on and the connection stays HTTP.
func (x *exchange) tunnel(r *http.Request) {
	dialled, err := dialer.DialContext(r.Context(), "tcp", x.conn.destination.String())
	if err != nil {
		x.upstreamFailed(x.w, r, err)
		return
	}
	up := &conn{Conn: dialled}
	defer func() { _ = up.Close() }()
	stop := context.AfterFunc(r.Context(), up.reset)
	defer stop()

	reader := bufio.NewReader(io.LimitReader(up, maxHeaderBytes))
	response, err := connect(up, reader, r)
	if err != nil {
		x.upstreamFailed(x.w, r, err)
		return
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode/100 != 2 {
		maps.Copy(x.w.Header(), response.Header)
		x.w.WriteHeader(response.StatusCode)
		_, _ = io.Copy(x.w, response.Body) // cut short, the client sees so
		return
	}
	if x.direction == ruleset.Inbound && !opensTunnel(response) {
		x.upstreamFailed(x.w, r, errors.New("the application answered CONNECT without opening a tunnel"))
		return
	}
	up.prefix, _ = reader.Peek(reader.Buffered())
	x.relayTunnel(response, up)
}

// opensTunnel reports whether the server of a successful answer to CONNECT
// relays from now on. One that frames a body, which RFC 9110 section 9.3.6
// forbids, or has nothing to say, has taken CONNECT for any other request, as
// an application does: it reads further requests, which a relay would not
// count. Forward proxies, which are called Outbound, have been seen to frame
// an empty body.
func opensTunnel(response *http.Response) bool {
	return response.StatusCode == http.StatusOK && len(response.TransferEncoding) == 0 && response.Header["Content-Length"] == nil
}

// connect sends the request's head and reads the response's. A response's
// body is bounded like a head: it is the reason for a refusal.
func connect(up *conn, reader *bufio.Reader, r *http.Request) (*http.Response, error) {
	head := bufio.NewWriter(up)
	fmt.Fprintf(head, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n", r.RequestURI, r.Host)
	if err := r.Header.Write(head); err != nil {
		return nil, err
	}
	fmt.Fprint(head, "\r\n")
	if err := head.Flush(); err != nil {
		return nil, err
	}
	return http.ReadResponse(reader, r)
}

// relayTunnel tells the client that the tunnel stands and relays.
func (x *exchange) relayTunnel(response *http.Response, up *conn) {
	x.proxy.relays.Add(1)
	defer x.proxy.relays.Done()
	hijacked, buffered, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return // the client is gone
	}
	client := &conn{Conn: hijacked}
	client.prefix, _ = buffered.Reader.Peek(buffered.Reader.Buffered())
	fmt.Fprintf(buffered, "HTTP/1.1 %s\r\n", response.Status)
	_ = response.Header.Write(buffered) // to a buffer: Flush has the error
	fmt.Fprint(buffered, "\r\n")
	if err := buffered.Flush(); err != nil {
		client.reset()
		return
	}
	relay(x.proxy.cut, client, up)
}
