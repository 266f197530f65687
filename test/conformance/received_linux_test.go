package conformance

import (
	"crypto/tls"
	"time"

	"golang.org/x/sys/unix"
)

// awaitReceived waits until the other end's kernel has acknowledged the end of
// our half, which was sent before. With TLS that is no end of TCP's, and there
// is nothing to see.
func (c *conn) awaitReceived() {
	if _, secured := c.Conn.(*tls.Conn); secured {
		return
	}
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		c.failed("looking at the connection", err)
		return
	}
	const finWait2 = 5 // TCP_FIN_WAIT2 of the kernel's tcp_states.h
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		var info *unix.TCPInfo
		_ = raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
		if err != nil || info.State == finWait2 {
			return
		}
	}
}
