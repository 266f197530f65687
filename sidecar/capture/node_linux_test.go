package capture

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weir-dev/weir/test/netns"
)

// deadline bounds every wait of these tests; none takes nearly as long.
const deadline = 10 * time.Second

const pod4, pod6, peer4, peer6 = netns.Pod4, netns.Pod6, netns.Peer4, netns.Peer6

func TestMain(m *testing.M) {
	netns.Available("capturing on hosts of our own")
	os.Exit(m.Run())
}

// node is a host of a test that can be captured.
type node struct {
	*netns.Host
	t *testing.T
}

// pair makes two hosts joined by a cable: the pod, and a peer.
func pair(t *testing.T) (pod, peer *node) {
	t.Helper()
	a, b := netns.Pair(t)
	return &node{a, t}, &node{b, t}
}

// install writes the table into the node.
func (n *node) install(c Config) {
	n.t.Helper()
	var err error
	n.As(0, func() { err = Install(c) })
	if err != nil {
		n.t.Fatal(err)
	}
}

// accepted is a connection that somebody accepted, and what OriginalDestination
// said of it.
type accepted struct {
	port     uint16
	original netip.AddrPort
	err      error
}

// server listens on ports of a node and tells of every connection.
type server struct {
	t           *testing.T
	connections chan accepted
}

func (n *node) listen(ports ...uint16) *server {
	n.t.Helper()
	s := &server{t: n.t, connections: make(chan accepted, 16)}
	for _, port := range ports {
		var listener net.Listener
		var err error
		n.As(0, func() { listener, err = Listen(context.Background(), port) })
		if err != nil {
			n.t.Fatal(err)
		}
		n.t.Cleanup(func() { _ = listener.Close() })
		go s.serve(listener, port)
	}
	return s
}

// serve answers with the port, so that a dialer knows who it reached, and
// echoes what comes then.
func (s *server) serve(listener net.Listener, port uint16) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		original, err := OriginalDestination(conn)
		s.connections <- accepted{port: port, original: original, err: err}
		go func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(deadline))
			_, _ = fmt.Fprintf(conn, "%d\n", port)
			buffer := make([]byte, 64)
			for {
				n, err := conn.Read(buffer)
				if err != nil {
					return
				}
				_, _ = conn.Write(buffer[:n])
			}
		}()
	}
}

// dial connects from a node as a user.
func (n *node) dial(uid int, to string, options ...func(*net.Dialer)) net.Conn {
	n.t.Helper()
	var dialer net.Dialer
	for _, option := range options {
		option(&dialer)
	}
	conn, err := n.Dial(context.Background(), dialer, uid, to)
	if err != nil {
		n.t.Fatalf("dialing %s: %v", to, err)
	}
	_ = conn.SetDeadline(time.Now().Add(deadline))
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// next is the connection that the server accepted next.
func (s *server) next() accepted {
	s.t.Helper()
	select {
	case a := <-s.connections:
		return a
	case <-time.After(deadline):
		s.t.Fatal("no connection was accepted")
		return accepted{}
	}
}
