package interop

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/weir-dev/weir/test/redistest"
)

// What Redis has done and could not answer, since the connection broke, is not
// lost: here the answer to a worker's first take.
func TestLostReplyLosesNothing(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	client := redis.Client()
	enqueueRecords(t, redis.URL(), 12, randomOf(1))
	breaker := newBreaker(t, redis.Addr)
	counting(t, "redis://"+breaker.addr, "", "--lease", "2s", "--concurrency", "4")
	eventually(t, patience, "every call has run", func() bool {
		return client.LLen(t.Context(), "celery").Val() == 0 && client.HLen(t.Context(), "unacked").Val() == 0
	})
	settled(t, client)
	if !breaker.broke() {
		t.Fatal("no reply was lost: this shows nothing")
	}
	if got := ran(t, client, "interop:runs"); len(got.byN) != 12 {
		t.Errorf("want 12 calls run, got %d: %v", len(got.byN), got.byN)
	}
}

// breaker is a TCP proxy that breaks the connection over which the first reply
// with messages comes, instead of passing it on.
type breaker struct {
	addr string
	once sync.Once
	mu   sync.Mutex
	done bool
}

func newBreaker(t testing.TB, to string) *breaker {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	b := &breaker{addr: listener.Addr().String()}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go b.relay(conn, to)
		}
	}()
	return b
}

func (b *breaker) broke() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.done
}

func (b *breaker) relay(client net.Conn, to string) {
	defer func() { _ = client.Close() }()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer func() { _ = server.Close() }()
	go func() {
		_, _ = io.Copy(server, client)
		_ = server.Close()
	}()
	buffer := make([]byte, 64<<10)
	for {
		n, err := server.Read(buffer)
		if err != nil {
			return
		}
		// A reply to a take holds several messages, each with this property.
		if strings.Count(string(buffer[:n]), `"correlation_id"`) > 1 {
			lose := false
			b.once.Do(func() { lose = true })
			if lose {
				b.mu.Lock()
				b.done = true
				b.mu.Unlock()
				return
			}
		}
		if _, err := client.Write(buffer[:n]); err != nil {
			return
		}
	}
}
