package proxy

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// application starts the application and returns where it serves.
func startApplication(t *testing.T) netip.AddrPort {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := netip.MustParseAddrPort(listener.Addr().String())
	_ = listener.Close() // the application takes the port
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- serveApplication(ctx, address) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the application ended with: %v", err)
		}
	})
	return address
}

// connect dials until the server accepts.
func connect(t *testing.T, to netip.AddrPort, connections int) *client {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		c, err := dial(to, connections, requests())
		if err == nil {
			t.Cleanup(c.close)
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestPhaseMeasuresTheApplicationsResponses(t *testing.T) {
	t.Parallel()
	c := connect(t, startApplication(t), 8)
	reads := 0
	p := phase{client: c, traffic: Admitted, length: 10 * time.Millisecond, read: func() (cpuUse, error) {
		reads++
		return cpuUse{proxy: time.Duration(reads) * time.Second}, nil
	}}
	got, err := p.run(t.Context())
	if err != nil || c.failures > 0 {
		t.Fatalf("%v; %d failures, the first: %v", err, c.failures, c.failure)
	}
	if got.latencies.total == 0 || got.elapsed < p.length || got.used.proxy != time.Second || c.awaited != 0 {
		t.Errorf("%d responses in %v, %v of CPU time, %d still awaited; expected some, 10 ms, 1 s and none",
			got.latencies.total, got.elapsed, got.used.proxy, c.awaited)
	}
}

// answering is a server of net/http's, and a client of it.
func answering(t *testing.T, connections int, handler http.HandlerFunc) *client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	c := connect(t, netip.MustParseAddrPort(server.Listener.Addr().String()), connections)
	c.expect(false, true)
	return c
}

func TestSeveralRequestsTakeAllConnectionsInTurn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	times := make(map[string]int) // by the connection's address
	c := answering(t, 100, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		times[r.RemoteAddr]++
		mu.Unlock()
		_, _ = w.Write(body)
	})
	if err := c.several(t.Context(), 100); err != nil || c.failures > 0 {
		t.Fatalf("%v; %d failures, the first: %v", err, c.failures, c.failure)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(times) != 100 {
		t.Errorf("%d of 100 connections made a request, expected all", len(times))
	}
}

func TestWhatIsNotExpectedIsAFailure(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		why     string
		handler http.HandlerFunc
	}{
		{"another status", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }},
		{"another body", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) }},
		{"the connection's end", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
	} {
		t.Run(test.why, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int64
			c := answering(t, 1, func(w http.ResponseWriter, r *http.Request) {
				if asked.Add(1) == 2 {
					test.handler(w, r)
					return
				}
				_, _ = w.Write(body)
			})
			if err := c.several(t.Context(), 5); err != nil || c.failures != 1 || c.failure == nil {
				t.Errorf("got %v and %d failures (%v), expected one, and that the rest goes on", err, c.failures, c.failure)
			}
		})
	}
}

func TestServerThatAlwaysFailsIsGivenUp(t *testing.T) {
	t.Parallel()
	c := answering(t, 1, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	if err := c.several(t.Context(), users); err == nil || c.failures != mostFailures {
		t.Errorf("got %v after %d failures, expected an error after %d", err, c.failures, mostFailures)
	}
}
