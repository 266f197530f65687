// Package netns gives tests hosts of their own: network namespaces, joined by
// a virtual cable, that end with the test and that nothing outside can see.
// It needs Linux and root.
package netns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The addresses of a Pair, which nobody has (RFC 5737, RFC 3849).
const (
	Pod4  = "192.0.2.1"
	Pod6  = "2001:db8::1"
	Peer4 = "192.0.2.2"
	Peer6 = "2001:db8::2"
)

// dialTimeout bounds a Dial; none takes nearly as long.
const dialTimeout = 10 * time.Second

// Host is a network namespace; it ends with the last descriptor of it.
type Host struct {
	t  testing.TB
	fd int
}

// Available says whether hosts can be made here, and prints a line about what
// is left out when not: for TestMain.
func Available(leftOut string) bool {
	if os.Geteuid() != 0 {
		fmt.Println("left out:", leftOut+": network namespaces need root")
		return false
	}
	return true
}

// Pair makes two hosts joined by a cable, eth0 on both.
func Pair(t testing.TB) (pod, peer *Host) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	pod, peer = newHost(t), newHost(t)
	pod.ip("link add eth0 type veth peer name eth0 netns " + peer.path())
	for _, host := range []struct {
		*Host
		v4, v6 string
	}{{pod, Pod4, Pod6}, {peer, Peer4, Peer6}} {
		host.ip("link set lo up")
		host.ip("address add " + host.v4 + "/24 dev eth0")
		host.ip("address add " + host.v6 + "/64 dev eth0 nodad")
		host.ip("link set eth0 up")
	}
	return pod, peer
}

func newHost(t testing.TB) *Host {
	t.Helper()
	h := &Host{t: t}
	var err error
	thread(func() {
		if err = unix.Unshare(unix.CLONE_NEWNET); err == nil {
			h.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
	})
	if err != nil {
		t.Fatalf("making a network namespace: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(h.fd) })
	return h
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

// enter moves this thread to the host, as a user.
func (h *Host) enter(uid int) error {
	if err := unix.Setns(h.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering the network namespace: %w", err)
	}
	if uid == 0 {
		return nil
	}
	// Of this thread alone, other than syscall.Setresuid.
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
		return fmt.Errorf("becoming user %d: %w", uid, errno)
	}
	return nil
}

// As runs do on the host, as a user. In do, only sockets of its own goroutine
// are the host's; they stay so afterwards. do may call t.Error, not t.Fatal.
func (h *Host) As(uid int, do func()) {
	h.t.Helper()
	failed := true
	thread(func() {
		if err := h.enter(uid); err != nil {
			h.t.Error(err)
			return
		}
		do()
		failed = false
	})
	if failed {
		h.t.FailNow()
	}
}

// Listen accepts on an address of the host, until the test ends.
func (h *Host) Listen(address string) net.Listener {
	h.t.Helper()
	var listener net.Listener
	var err error
	var config net.ListenConfig
	h.As(0, func() { listener, err = config.Listen(h.t.Context(), "tcp", address) })
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = listener.Close() })
	return listener
}

// Dial connects from the host, as a user.
func (h *Host) Dial(ctx context.Context, dialer net.Dialer, uid int, address string) (conn net.Conn, err error) {
	dialer.Timeout = dialTimeout
	thread(func() {
		if err = h.enter(uid); err == nil {
			conn, err = dialer.DialContext(ctx, "tcp", address)
		}
	})
	return conn, err
}

// Process is a program that runs on a host.
type Process struct {
	*os.Process
	// Ended has its exit, once.
	Ended <-chan error
}

// Start starts a program on the host. The kernel kills it with this process,
// and the test's end does.
func (h *Host) Start(command *exec.Cmd) *Process {
	h.t.Helper()
	if command.SysProcAttr == nil {
		command.SysProcAttr = &syscall.SysProcAttr{}
	}
	// Sent when the thread that starts it ends: so that one waits for it.
	command.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started, ended, gone := make(chan error), make(chan error, 1), make(chan struct{})
	go thread(func() {
		defer close(gone)
		err := h.enter(0)
		if err == nil {
			err = command.Start()
		}
		started <- err
		if err == nil {
			ended <- command.Wait()
		}
	})
	if err := <-started; err != nil {
		h.t.Fatalf("starting %s: %v", command.Path, err)
	}
	h.t.Cleanup(func() {
		_ = command.Process.Kill() // or it has ended already
		<-gone
	})
	return &Process{Process: command.Process, Ended: ended}
}

func (h *Host) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.fd) }

// ip runs a command of iproute2 on the host.
func (h *Host) ip(arguments string) {
	h.t.Helper()
	var out []byte
	var err error
	h.As(0, func() {
		out, err = exec.CommandContext(h.t.Context(), "ip", strings.Fields(arguments)...).CombinedOutput()
	})
	if err != nil {
		h.t.Fatalf("ip %s: %v: %s", arguments, err, out)
	}
}
