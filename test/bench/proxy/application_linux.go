package proxy

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// application answers requests without a body at two ports of an address with
// the same response each, as fast as system calls allow.
type application struct {
	*poller
	listeners []int
	// blank is, for each connection, how much of the empty line that ends a head
	// its last bytes were.
	blank map[int]int
	input [64 << 10]byte
}

// serveApplication serves until ctx ends.
func serveApplication(ctx context.Context, addresses ...netip.AddrPort) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	p, err := newPoller()
	if err != nil {
		return err
	}
	defer p.close()
	a := &application{poller: p, blank: make(map[int]int)}
	for _, address := range addresses {
		if err := a.listen(address); err != nil {
			return fmt.Errorf("listening at %v: %w", address, err)
		}
	}
	for {
		events, err := a.wait(ctx, time.Duration(math.MaxInt64))
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, event := range events {
			if err := a.serve(int(event.Fd)); err != nil {
				return err
			}
		}
	}
}

func (a *application) listen(address netip.AddrPort) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	a.listeners = append(a.listeners, socket)
	return errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.Bind(socket, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}),
		unix.Listen(socket, 2*many),
		a.add(socket),
	)
}

// serve does what a readable socket is for.
func (a *application) serve(socket int) error {
	for _, listener := range a.listeners {
		if socket == listener {
			return a.accept(listener)
		}
	}
	if !a.answer(socket) {
		delete(a.blank, socket)
		_ = unix.Close(socket)
	}
	return nil
}

func (a *application) accept(listener int) error {
	socket, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
		return nil // it is still readable, or the peer gave up
	case err != nil:
		return fmt.Errorf("accepting: %w", err)
	}
	a.blank[socket] = 0
	return errors.Join(unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), a.add(socket))
}

// answer reports whether the connection goes on.
func (a *application) answer(socket int) bool {
	n, err := read(socket, a.input[:])
	if errors.Is(err, unix.EAGAIN) {
		return true
	}
	if n <= 0 {
		return false
	}
	blank := a.blank[socket]
	for _, b := range a.input[:n] {
		if b != "\r\n\r\n"[blank] {
			blank = 0 // or this one begins it
		}
		if b == "\r\n\r\n"[blank] {
			blank++
		}
		if blank == 4 {
			blank = 0
			if write(socket, response) != nil {
				return false
			}
		}
	}
	a.blank[socket] = blank
	return true
}
