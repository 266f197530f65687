package proxy

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The pod's address, which nobody has (RFC 5737), and its ports.
var (
	pod = netip.MustParseAddr("192.0.2.1")
	// captured is the application's port whose connections the proxy gets.
	captured = netip.AddrPortFrom(pod, 8080)
	// uncaptured is the same application's, for the direct side.
	uncaptured = netip.AddrPortFrom(pod, 8081)
)

// clientHost is a network namespace at the other end of the pod's cable. It is
// a thread's, and ends with it, so with this process in any case.
type clientHost struct{ jobs chan func() }

// newNetwork joins this process's own network namespace, the pod, to a client's.
func newNetwork(ctx context.Context) (*clientHost, error) {
	h := &clientHost{jobs: make(chan func())}
	made := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked
		made <- cable(ctx)
		for job := range h.jobs {
			job()
		}
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("making the client's network: %w", err)
	}
	if err := ip(ctx, "link set lo up", "address add "+pod.String()+"/24 dev eth0", "link set eth0 up"); err != nil {
		return nil, fmt.Errorf("making the pod's network: %w", err)
	}
	// Proxies that keep few connections open make many new ones to one address.
	for name, value := range map[string]string{"ip_local_port_range": "1024 65535", "tcp_tw_reuse": "1"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0o600); err != nil {
			return nil, fmt.Errorf("setting %s of the pod: %w", name, err)
		}
	}
	return h, nil
}

// cable moves this thread to a namespace of its own, joined to the pod's.
func cable(ctx context.Context) error {
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(home) }()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return ip(ctx,
		fmt.Sprintf("link add eth0 type veth peer name eth0 netns /proc/%d/fd/%d", os.Getpid(), home),
		"link set lo up", "address add 192.0.2.2/24 dev eth0", "link set eth0 up")
}

// ip runs commands of iproute2 where the calling thread is.
func ip(ctx context.Context, commands ...string) error {
	for _, arguments := range commands {
		if output, err := exec.CommandContext(ctx, "ip", strings.Fields(arguments)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", arguments, err, output)
		}
	}
	return nil
}

// do runs a job on the client's thread.
func (h *clientHost) do(job func() error) error {
	done := make(chan error)
	h.jobs <- func() { done <- job() }
	return <-done
}

func (h *clientHost) close() { close(h.jobs) }
