//go:build !linux

package proxy

import "syscall"

// endedSending reports whether the peer of a socket has ended its sending. What
// it sent before that and nobody has read hides it.
func endedSending(fd uintptr) bool {
	var next [1]byte
	n, _, err := syscall.Recvfrom(int(fd), next[:], syscall.MSG_PEEK)
	return n <= 0 && err != syscall.EAGAIN && err != syscall.EINTR
}

// isReset is not known here: what the client sent and nobody has read hides it.
func isReset(uintptr) bool { return false }
