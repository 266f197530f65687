package link

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp says whether the other side has closed a connection, whatever of what
// it said has not been read.
func hungUp(conn net.Conn) bool {
	system, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := system.SyscallConn()
	if err != nil {
		return true
	}
	asked := []unix.PollFd{{Events: unix.POLLRDHUP}}
	err = raw.Control(func(socket uintptr) {
		asked[0].Fd = int32(socket) //nolint:gosec // a file descriptor
		for {
			if _, err := unix.Poll(asked, 0); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	return err != nil || asked[0].Revents != 0
}
