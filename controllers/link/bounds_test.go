package link

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/weir-dev/weir/sidecar/ruleset"
	"github.com/weir-dev/weir/test/hasty"
)

// Whoever stops in the middle of a request does not keep its connection, whether
// or not anybody wants to read the rest.
func TestNobodyStopsInARequest(t *testing.T) {
	t.Parallel()
	c := newCertifying(t, podToken(), "web.example")
	server := httptest.NewUnstartedServer(c.server.handler())
	server.Listener = hasty.Listener{Listener: server.Listener}
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

// Whoever proves nothing keeps no connection, and whoever does keeps one.
func TestTheUnknownKeepNoConnection(t *testing.T) {
	t.Parallel()
	for _, known := range []bool{false, true} {
		review := authenticationv1.TokenReviewStatus{}
		if known {
			review = podToken()
		}
		c := newCertifying(t, review, "web.example")
		for path, body := range map[string]string{
			"/nothing": "", ruleset.LinkPath: "{}", ruleset.CertificatePath: "{}",
		} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.URL+path, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			request.Header.Set("Authorization", "Bearer t")
			response, err := c.Client().Do(request)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if want := !known || path == "/nothing"; response.Close != want {
				t.Errorf("%s, known %v: %s, closed %v, want %v", path, known, response.Status, response.Close, want)
			}
		}
	}
}
