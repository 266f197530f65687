package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// hasty is a listener for whose connections time runs a hundred times as fast.
type hasty struct{ net.Listener }

func (l hasty) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return hastyConn{conn}, err
}

type hastyConn struct{ net.Conn }

func (c hastyConn) SetReadDeadline(at time.Time) error {
	if left := time.Until(at); left > 0 {
		at = time.Now().Add(left / 100)
	}
	return c.Conn.SetReadDeadline(at)
}

// Whoever stops in the middle of a request does not keep its connection, whether
// or not anybody wants to read the rest.
func TestNobodyStopsInARequest(t *testing.T) {
	t.Parallel()
	c := newCertifying(t, podToken(), "web.example")
	server := httptest.NewUnstartedServer(c.server.handler())
	server.Listener = hasty{server.Listener}
	server.Start()
	t.Cleanup(server.Close)
	for _, head := range []string{
		"POST /nothing HTTP/1.1\r\nContent-Length: 1",
		"POST " + ruleset.LinkPath + " HTTP/1.1\r\nContent-Length: 1",
		fmt.Sprintf("POST %s HTTP/1.1\r\nContent-Length: %d", ruleset.LinkPath, maxReportBytes+2),
		"POST " + ruleset.CertificatePath + " HTTP/1.1\r\nContent-Length: 1",
		"GET " + AcknowledgementsPath + " HTTP/1.1\r\nContent-Length: 1",
	} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		text := head + "\r\nHost: weir\r\n\r\n"
		if strings.Contains(head, fmt.Sprint(maxReportBytes+2)) {
			text += strings.Repeat(" ", maxReportBytes+1)
		}
		_, _ = io.WriteString(conn, text)
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q is waited for", head)
		}
	}
}
