package proxy

import "golang.org/x/sys/unix"

// endedSending reports whether the peer of a socket has ended its sending, also
// when it sent more before that nobody has read.
func endedSending(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// isReset reports whether the peer of a socket has reset the connection.
func isReset(fd uintptr) bool {
	poll := []unix.PollFd{{Fd: int32(fd)}} // errors are always told
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLERR != 0
}
