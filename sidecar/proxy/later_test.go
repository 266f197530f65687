package proxy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// A client that goes takes all its connections to the destination with it, the
// one also that was made for a stream after the first had ended (GOAWAY).
func TestLaterHTTP2ConnectionsEndWithTheirClient(t *testing.T) {
	t.Parallel()
	var live, asked atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			w.Header().Set("Connection", "close") // net/http sends GOAWAY
			return
		}
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	server.Config.Protocols = new(http.Protocols)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			live.Add(1)
		case http.StateClosed:
			live.Add(-1)
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	h := serve(t, ruleset.Inbound, server.Listener.Addr())
	var conn net.Conn
	client := h.client(http2)
	client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
		conn = h.dial()
		return conn, nil
	}
	do(t, client, ask(t, http.MethodGet, "http://app/", nil))
	response, err := client.Do(ask(t, http.MethodGet, "http://app/", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	_ = conn.Close()
	h.noSessions()
	eventually(t, "the end of all connections to the application", func() bool { return live.Load() == 0 })
}

// A connection that is still being made when the session ends ends at once.
func TestLaterConnectionsComeTooLate(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	address := rawServer(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		close(closed)
	}).String()
	var others later
	others.end()
	if c, err := others.dial(t.Context(), "tcp", address); err == nil {
		t.Errorf("a session that has ended got a connection to %s", c.RemoteAddr())
	}
	<-closed
}
