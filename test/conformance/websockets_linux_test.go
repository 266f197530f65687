package conformance

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// sockets is how many are open at once.
func sockets() int {
	if full {
		return 5000
	}
	return 500
}

// Thousands of WebSockets are open at once through the real sidecar, and each
// works.
func TestWebSockets(t *testing.T) {
	p := newPod(t)
	p.answer(websocket.Handler(func(socket *websocket.Conn) { _, _ = io.Copy(socket, socket) }).ServeHTTP)
	idle := p.memory("VmRSS")
	count := sockets()
	open := make([]*websocket.Conn, count)
	start := time.Now()
	for i := range open {
		c, err := p.dial(context.Background())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(10 * patience)); err != nil {
			t.Fatal(err)
		}
		if open[i], err = websocket.NewClient(must(websocket.NewConfig("ws://upstream.test/ws", "http://origin.test")), c); err != nil {
			t.Fatalf("WebSocket %d: %v", i, err)
		}
	}
	opened, resident := time.Since(start), p.memory("VmRSS")
	done := make(chan error, count)
	for i, socket := range open {
		go func() { done <- returns(socket, fmt.Sprintf("message of %d", i)) }()
	}
	for range open {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("%d WebSockets opened in %v; resident before %.1f MiB, with all open %.1f MiB, after a message of each %.1f MiB, at most %.1f MiB",
		count, opened.Round(time.Millisecond), mib(idle), mib(resident), mib(p.memory("VmRSS")), mib(p.memory("VmHWM")))
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

// returns expects a message back.
func returns(socket *websocket.Conn, message string) error {
	if err := websocket.Message.Send(socket, message); err != nil {
		return fmt.Errorf("sending %q: %w", message, err)
	}
	var echo string
	if err := websocket.Message.Receive(socket, &echo); err != nil {
		return fmt.Errorf("receiving %q: %w", message, err)
	}
	if echo != message {
		return fmt.Errorf("%q came back for %q", echo, message)
	}
	return nil
}
