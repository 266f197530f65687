package capture

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deadline bounds every wait of these tests; none takes nearly as long.
const deadline = 10 * time.Second

// The two hosts of a test, as documentation addresses (RFC 5737, RFC 3849).
const (
	pod4, pod6   = "192.0.2.1", "2001:db8::1"
	peer4, peer6 = "192.0.2.2", "2001:db8::2"
)

// namespace is a network namespace; it ends with the last descriptor of it.
type namespace struct {
	t  *testing.T
	fd int
}

// TestMain says in one line what is left out where it cannot run.
func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Println("left out: capturing in network namespaces of our own, which needs root")
	}
	os.Exit(m.Run())
}

// pair makes two hosts joined by a cable: the pod, and a peer.
func pair(t *testing.T) (pod, peer *namespace) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	pod, peer = newNamespace(t), newNamespace(t)
	pod.ip("link add eth0 type veth peer name eth0 netns " + peer.path())
	for _, host := range []struct {
		*namespace
		v4, v6 string
	}{{pod, pod4, pod6}, {peer, peer4, peer6}} {
		host.ip("link set lo up")
		host.ip("address add " + host.v4 + "/24 dev eth0")
		host.ip("address add " + host.v6 + "/64 dev eth0 nodad")
		host.ip("link set eth0 up")
	}
	return pod, peer
}

func newNamespace(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t: t}
	thread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("making a network namespace: %v", err)
			return
		}
		var err error
		n.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Errorf("opening the network namespace: %v", err)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	t.Cleanup(func() { _ = unix.Close(n.fd) })
	return n
}

// thread runs do on a thread of its own that ends with it: what do changes of
// the thread (its namespace, its user) changes nobody else's.
func thread(do func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		do()
	}()
	<-done
}

// as runs do in the namespace, as a user.
func (n *namespace) as(uid int, do func()) {
	n.t.Helper()
	thread(func() {
		if err := unix.Setns(n.fd, unix.CLONE_NEWNET); err != nil {
			n.t.Errorf("entering the network namespace: %v", err)
			return
		}
		if uid != 0 { // of this thread alone, other than syscall.Setresuid
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				n.t.Errorf("becoming user %d: %v", uid, errno)
				return
			}
		}
		do()
	})
}

func (n *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.fd) }

// ip runs a command of iproute2.
func (n *namespace) ip(arguments string) {
	n.t.Helper()
	n.as(0, func() {
		if out, err := exec.Command("ip", strings.Fields(arguments)...).CombinedOutput(); err != nil {
			n.t.Errorf("ip %s: %v: %s", arguments, err, out)
		}
	})
	if n.t.Failed() {
		n.t.FailNow()
	}
}

// install writes the table into the namespace.
func (n *namespace) install(c Config) {
	n.t.Helper()
	n.as(0, func() {
		if err := Install(c); err != nil {
			n.t.Errorf("installing: %v", err)
		}
	})
	if n.t.Failed() {
		n.t.FailNow()
	}
}

// accepted is a connection that somebody accepted, and what OriginalDestination
// said of it.
type accepted struct {
	port     uint16
	original netip.AddrPort
	err      error
}

// host listens on ports of a namespace and tells of every connection.
type host struct {
	*namespace
	connections chan accepted
}

func (n *namespace) listen(ports ...uint16) *host {
	n.t.Helper()
	h := &host{namespace: n, connections: make(chan accepted, 16)}
	for _, port := range ports {
		n.as(0, func() {
			listener, err := Listen(context.Background(), port)
			if err != nil {
				n.t.Error(err)
				return
			}
			n.t.Cleanup(func() { _ = listener.Close() })
			go h.serve(listener, port)
		})
	}
	return h
}

// serve answers with the port, so that a dialer knows who it reached, and
// echoes what comes then.
func (h *host) serve(listener net.Listener, port uint16) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		original, err := OriginalDestination(conn)
		h.connections <- accepted{port: port, original: original, err: err}
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

// dial connects from a namespace as a user.
func (n *namespace) dial(uid int, to string, options ...func(*net.Dialer)) net.Conn {
	n.t.Helper()
	var conn net.Conn
	n.as(uid, func() {
		dialer := net.Dialer{Timeout: deadline}
		for _, option := range options {
			option(&dialer)
		}
		var err error
		if conn, err = dialer.Dial("tcp", to); err != nil {
			n.t.Errorf("dialing %s: %v", to, err)
		}
	})
	if n.t.Failed() {
		n.t.FailNow()
	}
	_ = conn.SetDeadline(time.Now().Add(deadline))
	n.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// next is the connection that the host accepted next.
func (h *host) next() accepted {
	h.t.Helper()
	select {
	case a := <-h.connections:
		return a
	case <-time.After(deadline):
		h.t.Fatal("no connection was accepted")
		return accepted{}
	}
}
