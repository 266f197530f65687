package proxy

import (
	"syscall"
	"unsafe"
)

// readSocket and writeSocket are read(2) and write(2) of sockets that do not
// block. They leave out what the runtime does around calls that may: handing the
// processor on, and having a monitor look after it every 20 µs. That would be an
// eighth of what a small request costs.
func readSocket(fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // the buffer lives in p
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

func writeSocket(fd uintptr, p []byte) (int, error) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))) //nolint:gosec // the buffer lives in p
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
