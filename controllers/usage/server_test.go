package usage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/controllers/access"
	"github.com/weir-dev/weir/test/hasty"
)

// A body that nobody reads, and that does not come, is not waited for.
func TestNobodyStopsInARequest(t *testing.T) {
	t.Parallel()
	people := New(Options{})
	t.Cleanup(people.Close)
	server := httptest.NewUnstartedServer(people)
	server.Listener = hasty.Listener{Listener: server.Listener}
	server.Start()
	t.Cleanup(server.Close)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET "+documentPath+" HTTP/1.1\r\nHost: weir\r\nContent-Length: 1\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it is waited for")
	}
}

// A caller in an event is the one of the lists, and no guess of its name shows that
// it is the one.
func TestEventsNameCallersByPseudonyms(t *testing.T) {
	t.Parallel()
	policy := &v1alpha1.RateLimitPolicy{}
	policy.Namespace, policy.Name = "shop", "api"
	called := func(key string, err error) string {
		s := New(Options{Logger: logr.Discard(), Key: func(context.Context) ([]byte, error) { return []byte(key), err }})
		t.Cleanup(s.Close)
		return s.unnamed(t.Context(), policy, "alice")
	}
	sum := sha256.Sum256([]byte("alice"))
	if got := called("key", nil); got != pseudonym([]byte("key"), policy, "alice") || strings.Contains(got, hex.EncodeToString(sum[:6])) {
		t.Errorf("alice is called %s", got)
	}
	if called("key", nil) == called("another", nil) {
		t.Error("the key makes no difference")
	}
	if got := called("", errors.New("no answer")); got != "a caller" {
		t.Errorf("without a key alice is called %s", got)
	}
}

// Who looks at a caller's window again and again is noted once.
func TestLooksAreNotedOnce(t *testing.T) {
	t.Parallel()
	var noted []string
	s := New(Options{Logger: funcr.New(func(_, args string) { noted = append(noted, args) }, funcr.Options{})})
	t.Cleanup(s.Close)
	policy := &v1alpha1.RateLimitPolicy{}
	policy.Namespace, policy.Name = "shop", "api"
	for range 3 {
		for _, user := range []string{"alice", "bob"} {
			s.noteLook(&asked{who: &access.User{Username: user}, policy: policy}, "caller-1")
		}
	}
	if len(noted) != 2 || !strings.Contains(noted[0], "alice read the window of caller-1") {
		t.Errorf("noted: %q", noted)
	}
}
