package proxy

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// poller waits for sockets on one thread, with nothing between it and the
// kernel: the client and the application must not be what is measured.
type poller struct {
	epoll  int
	events [256]unix.EpollEvent
}

func newPoller() (*poller, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an epoll: %w", err)
	}
	return &poller{epoll: epoll}, nil
}

func (p *poller) close() { _ = unix.Close(p.epoll) }

// add waits for a socket to be readable, until it is closed.
func (p *poller) add(socket int) error {
	err := unix.EpollCtl(p.epoll, unix.EPOLL_CTL_ADD, socket, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(socket)})
	if err != nil {
		return fmt.Errorf("adding a socket to an epoll: %w", err)
	}
	return nil
}

// step is how often a poller looks whether it is to end.
const step = 100 * time.Millisecond

// wait returns the sockets that are readable. It fails when none is for so
// long, and when ctx ends.
func (p *poller) wait(ctx context.Context, patience time.Duration) ([]unix.EpollEvent, error) {
	for waited := time.Duration(0); waited < patience; waited += step {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		n, err := unix.EpollWait(p.epoll, p.events[:], int(step.Milliseconds()))
		switch {
		case n > 0:
			return p.events[:n], nil
		case errors.Is(err, unix.EINTR): // Go's own signals
			waited -= step
		case err != nil:
			return nil, fmt.Errorf("waiting for sockets: %w", err)
		}
	}
	return nil, fmt.Errorf("nothing came for %v", patience)
}

// read reads what is there; nothing is io.EOF's case and not an error's.
func read(socket int, into []byte) (int, error) {
	for {
		n, err := unix.Read(socket, into)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// write writes it all, which always fits into the buffer of a socket whose peer
// reads what it asked for.
func write(socket int, all []byte) error {
	for len(all) > 0 {
		n, err := unix.Write(socket, all)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		all = all[n:]
	}
	return nil
}
