package link

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/weir-dev/weir/api/v1alpha1"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// newHolding is a link that holds requests for so long.
func newHolding(t *testing.T, patience time.Duration) *certifying {
	t.Helper()
	c := newCertifying(t, podToken(), "web.example")
	c.server.options.Patience = patience
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = c.Config.Serve(c.server.returning)
	}()
	t.Cleanup(func() {
		c.server.waiting.close()
		_ = c.server.returning.Close()
		<-served
	})
	return c
}

// edit changes a policy of the namespace.
func (c *certifying) edit(generation int64) {
	c.policies.mu.Lock()
	edited := append([]v1alpha1.RateLimitPolicy(nil), c.policies.policies...)
	edited[0].Generation = generation
	c.policies.policies = edited
	c.policies.mu.Unlock()
	c.server.options.Rulesets.touch("shop")
}

// reply is what came of a request.
type reply struct {
	status  int
	body    string
	closing bool
	reused  bool
	err     error
}

func (c *certifying) ask(ctx context.Context, asking *http.Client, version string) reply {
	var got reply
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { got.reused = info.Reused }})
	body, _ := json.Marshal(ruleset.Report{Version: version})
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URL+ruleset.LinkPath, strings.NewReader(string(body)))
	if err != nil {
		return reply{err: err}
	}
	request.Header.Set("Authorization", "Bearer t")
	response, err := asking.Do(request)
	if err != nil {
		return reply{err: err}
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	got.status, got.body, got.closing, got.err = response.StatusCode, string(text), response.Close, err
	return got
}

func (c *certifying) askLater(ctx context.Context, asking *http.Client, version string) <-chan reply {
	later := make(chan reply, 1)
	go func() { later <- c.ask(ctx, asking, version) }()
	return later
}

// current is the version that the pod should have.
func (c *certifying) current(t *testing.T) string {
	t.Helper()
	got := c.ask(t.Context(), c.Client(), "none")
	var received ruleset.Ruleset
	if err := json.Unmarshal([]byte(got.body), &received); err != nil || got.status != http.StatusOK {
		t.Fatalf("got %+v, %v", got, err)
	}
	return received.Version
}

// untilHeld waits until so many requests are held.
func (c *certifying) untilHeld(t *testing.T, want int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		c.server.waiting.mu.Lock()
		held := len(c.server.waiting.requests)
		c.server.waiting.mu.Unlock()
		gauge := int(testutil.ToFloat64(c.server.metrics.held))
		if held == want && gauge == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d requests are held, the metric says %d: want %d", held, gauge, want)
		}
	}
}

func TestAHeldRequestIsAnsweredAndItsConnectionServesTheNext(t *testing.T) {
	t.Parallel()
	c := newHolding(t, time.Minute)
	version := c.current(t)
	for generation := int64(2); generation < 6; generation++ {
		later := c.askLater(t.Context(), c.Client(), version)
		c.untilHeld(t, 1)
		c.edit(generation)
		got := <-later
		var received ruleset.Ruleset
		if err := json.Unmarshal([]byte(got.body), &received); err != nil || got.status != http.StatusOK || received.Version == version {
			t.Fatalf("got %+v, %v: want another Ruleset", got, err)
		}
		if !got.reused || got.closing {
			t.Errorf("reused=%v, closing=%v: want one connection for all", got.reused, got.closing)
		}
		version = received.Version
	}
	c.untilHeld(t, 0)
	if listeners := len(c.server.options.Rulesets.bells.listeners); listeners != 0 {
		t.Errorf("%d keys are listened to for nobody", listeners)
	}
}

func TestAHeldRequestEndsWithPatienceAndMayBeMadeAgain(t *testing.T) {
	t.Parallel()
	c := newHolding(t, 20*time.Millisecond)
	version := c.current(t)
	for range 5 {
		if got := c.ask(t.Context(), c.Client(), version); got.err != nil || got.status != http.StatusNoContent || !got.reused {
			t.Fatalf("got %+v, want 204 on the same connection", got)
		}
	}
	if answers := testutil.ToFloat64(c.server.metrics.answers.WithLabelValues("204")); answers != 5 {
		t.Errorf("%v answers are counted, want 5", answers)
	}
}

func TestASidecarThatGoesAwayIsNotHeld(t *testing.T) {
	t.Parallel()
	c := newHolding(t, time.Minute)
	version := c.current(t)
	leaving, leave := context.WithCancel(t.Context())
	later := c.askLater(leaving, c.Client(), version)
	c.untilHeld(t, 1)
	leave()
	if got := <-later; got.err == nil {
		t.Errorf("got %+v", got)
	}
	c.untilHeld(t, 0)
	if listeners := len(c.server.options.Rulesets.bells.listeners); listeners != 0 {
		t.Errorf("%d keys are listened to for nobody", listeners)
	}
}

func TestANewRequestEndsTheOneBefore(t *testing.T) {
	t.Parallel()
	c := newHolding(t, time.Minute)
	version := c.current(t)
	first := c.askLater(t.Context(), c.Client(), version)
	c.untilHeld(t, 1)
	second := c.askLater(t.Context(), c.Client(), version)
	if got := <-first; got.status != http.StatusNoContent {
		t.Errorf("the first got %+v, want 204", got)
	}
	c.untilHeld(t, 1)
	c.edit(2)
	if got := <-second; got.status != http.StatusOK {
		t.Errorf("the second got %+v, want 200", got)
	}
}

func TestAnOperatorThatEndsSendsItsSidecarsAway(t *testing.T) {
	t.Parallel()
	c := newHolding(t, time.Minute)
	version := c.current(t)
	later := c.askLater(t.Context(), c.Client(), version)
	c.untilHeld(t, 1)
	c.server.waiting.close()
	if got := <-later; got.status != http.StatusNoContent || !got.closing {
		t.Errorf("got %+v, want 204 and a closed connection", got)
	}
	if got := c.ask(t.Context(), c.Client(), version); got.status != http.StatusNoContent || !got.closing {
		t.Errorf("one that came too late got %+v, want 204 and a closed connection", got)
	}
}

func TestNothingIsReadBehindAHeldRequest(t *testing.T) {
	t.Parallel()
	c := newHolding(t, time.Minute)
	body := fmt.Sprintf(`{"version":%q}`, c.current(t))
	one := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: weir\r\nAuthorization: Bearer t\r\nContent-Length: %d\r\n\r\n%s", ruleset.LinkPath, len(body), body)
	for reason, pause := range map[string]bool{"together with it": false, "while it is held": true} {
		conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(t.Context(), "tcp", c.Listener.Addr().String()) //nolint:gosec // the test's own server
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		sent := one
		if !pause {
			sent += one
		}
		_, _ = io.WriteString(conn, sent)
		if pause {
			c.untilHeld(t, 1)
			_, _ = io.WriteString(conn, one)
		}
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if response, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
			_ = response.Body.Close()
			t.Errorf("a request %s: got %s, want a closed connection", reason, response.Status)
		}
		c.untilHeld(t, 0)
	}
}

func TestConnectionsAreLimited(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	few := limit(listener, 2)
	accepted := make(chan net.Conn)
	ended := make(chan error)
	go func() {
		for {
			conn, err := few.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- conn
		}
	}()
	for range 3 {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	first := <-accepted
	second := <-accepted
	select {
	case <-accepted:
		t.Error("a third connection was accepted beside two")
	case <-time.After(50 * time.Millisecond):
	}
	_ = first.Close()
	_ = first.Close() // counts once
	third := <-accepted
	_ = few.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed listener says %v", err)
	}
	_ = second.Close()
	_ = third.Close()
}

// turning is a TLS server whose handshakes take turns.
type turning struct {
	*inTurn
	// errs are how the server's handshakes ended.
	errs chan error
}

func newTurning(t *testing.T, atOnce int) *turning {
	t.Helper()
	certified := httptest.NewTLSServer(http.NotFoundHandler())
	defer certified.Close()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &turning{takeTurns(limit(listener, 100), atOnce), make(chan error, 100)}
	t.Cleanup(func() { _ = s.Close() })
	config := &tls.Config{Certificates: certified.TLS.Certificates, MinVersion: tls.VersionTLS13}
	go func() {
		for {
			conn, err := s.Accept()
			if err != nil {
				return
			}
			go func() {
				secured := tls.Server(conn, config)
				defer func() { _ = secured.Close() }()
				s.errs <- secured.HandshakeContext(t.Context())
			}()
		}
	}()
	return s
}

func (s *turning) dial(ctx context.Context) error {
	conn, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext(ctx, "tcp", s.Addr().String()) //nolint:gosec // the test's own server
	if err == nil {
		err = conn.Close()
	}
	return err
}

// say sends some bytes and keeps the connection open.
func (s *turning) say(t *testing.T, said []byte) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Addr().String())
	if err == nil {
		_, err = conn.Write(said)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestHandshakesAreComputedInTurn(t *testing.T) {
	t.Parallel()
	s := newTurning(t, 1)
	var dialling sync.WaitGroup
	for range 20 {
		dialling.Go(func() {
			if err := s.dial(t.Context()); err != nil {
				t.Errorf("one that had to wait its turn: %v", err)
			}
		})
	}
	dialling.Wait()
	for range 20 {
		if err := <-s.errs; err != nil {
			t.Errorf("the server says %v", err)
		}
	}

	// A client that gives up while another has the turn is not served at all.
	s.turns <- struct{}{}
	impatient, giveUp := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- s.dial(impatient) }()
	time.Sleep(50 * time.Millisecond) // it is likely to have said hello; if not, it is gone as well
	giveUp()
	if err := <-gone; err == nil {
		t.Error("the client was not held up")
	}
	<-s.turns
	if err := s.dial(t.Context()); err != nil {
		t.Errorf("the turn was not given up: %v", err)
	}
	if err := <-s.errs; err != nil {
		t.Errorf("a handshake with nobody was begun: %v", err)
	}
}

// Whoever says too little to be answered has no turn, and keeps none from others.
func TestTheSilentHoldNoTurn(t *testing.T) {
	t.Parallel()
	s := newTurning(t, 1)
	for _, said := range []string{
		"",                 // nothing
		"\x16\x03\x01\x06", // not even a record's length
		"\x16\x03\x01\x06\x00\x01\x00\x05\xfc but no more", // a part of a hello
		"\x16\x03\x01\x00\x05\x01\x00\x05\xfc-",            // the first of several records
		"\x16\x03\x01\x00\x05\x02\x00\x00\x01-",            // no hello
		"\x16\x03\x01\xff\xff\x01\x00\x05\xfc",             // a record that is too long
		"G",                                                // no TLS, or a little of it
		"\x15\x03\x01\x00\x02",                             // an alert that does not come
	} {
		s.say(t, []byte(said))
	}
	for range 3 {
		if err := s.dial(t.Context()); err != nil {
			t.Fatalf("beside those who say little: %v", err)
		}
	}
	// What is no TLS is refused, as by any TLS server.
	conn := s.say(t, []byte("GET / HTTP/1.1\r\n\r\n"))
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("a request without TLS is left waiting")
	}
	if err := s.dial(t.Context()); err != nil {
		t.Errorf("the turn was not given up: %v", err)
	}
}

// Of hellos that go on, of which TLS keeps what there is, few are read at a time.
func TestTheOddWaitForOneAnother(t *testing.T) {
	t.Parallel()
	s := newTurning(t, 1)
	for range cap(s.odd) {
		s.odd <- struct{}{}
	}
	conn := s.say(t, []byte("GET / HTTP/1.1\r\n\r\n"))
	for range 3 {
		if err := s.dial(t.Context()); err != nil {
			t.Fatalf("beside many odd ones: %v", err)
		}
	}
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := io.ReadAll(conn); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one more was answered: %v", err)
	}
	<-s.odd
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("it was not answered in its turn")
	}
}

func TestChangesWakeManyHeldRequestsOnce(t *testing.T) {
	t.Parallel()
	var b bells
	var told atomic.Int32
	for i := range 1000 {
		hangUp := b.tell(func() { told.Add(1) }, "shop", fmt.Sprintf("shop/web-%d", i))
		defer hangUp()
	}
	b.ring("shop")
	if told.Load() != 1000 {
		t.Errorf("%d of 1000 were told", told.Load())
	}
	b.ring("shop/web-7")
	if told.Load() != 1001 {
		t.Errorf("%d were told of one pod's change, want 1", told.Load()-1000)
	}
}
