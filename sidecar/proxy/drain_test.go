package proxy

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// A request whose connection net/http has accepted and not read yet is in
// flight, and net/http's own Shutdown would drop it.
func TestShutdownWaitsForAConnectionThatIsHandedOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Destination: func(net.Conn) (netip.AddrPort, error) { return netip.MustParseAddrPort("10.0.0.1:80"), nil }})
		unnamed := basic("p", inbound(func(p *ruleset.Policy) { p.IfMissing = ruleset.IfMissingReject }))
		if err := p.Apply(&ruleset.Ruleset{Namespace: "ns", Policies: []ruleset.Policy{unnamed}}); err != nil {
			t.Fatal(err)
		}
		captured := &queue{conns: make(chan net.Conn), done: make(chan struct{}), addr: &net.TCPAddr{}}
		s := newServer(p, ruleset.Inbound, captured)
		release, connContext := make(chan struct{}), s.http.ConnContext
		s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
			<-release // between net/http's Accept and its notice of the connection
			return connContext(ctx, c)
		}
		p.servers = append(p.servers, s)
		go func() { _ = s.serve() }()
		client, accepted := net.Pipe()
		captured.conns <- accepted
		if _, err := io.WriteString(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		down := make(chan error, 1)
		go func() { down <- p.Shutdown(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-down:
			t.Fatalf("Shutdown returned %v while a request waits for its answer", err)
		default:
		}
		close(release)
		response, err := http.ReadResponse(bufio.NewReader(client), nil)
		if err != nil || response.StatusCode != http.StatusBadRequest {
			t.Fatalf("answer %v %v, want the 400 of a request without a name", response, err)
		}
		if _, err := io.Copy(io.Discard, client); err != nil {
			t.Fatal(err)
		}
		if err := <-down; err != nil {
			t.Errorf("Shutdown: %v, want nil", err)
		}
	})
}
