package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// silence is how long a client waits for a response before it gives up.
	silence = 10 * time.Second
	// mostFailures are so many that a phase is given up.
	mostFailures = 100
)

// client has open connections. All its methods run on one thread, in the
// network namespace where the connections begin.
type client struct {
	*poller
	to       unix.SockaddrInet4
	requests [][]byte
	next     int // of the requests
	open     []*connection
	bySocket map[int]*connection
	awaited  int // responses
	// refusals and admissions say which responses are right.
	refusals, admissions bool
	failures             int
	failure              error // the first
}

// connection has at most one request on the way.
type connection struct {
	socket int
	sent   time.Time
	input  [4 << 10]byte
	have   int
}

// dial opens so many connections.
func dial(to netip.AddrPort, connections int, requests [][]byte) (*client, error) {
	p, err := newPoller()
	if err != nil {
		return nil, err
	}
	c := &client{
		poller: p, to: unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()},
		requests: requests, bySocket: make(map[int]*connection),
	}
	for range connections {
		one := new(connection)
		if err := c.connect(one); err != nil {
			c.close()
			return nil, err
		}
		c.open = append(c.open, one)
	}
	return c, nil
}

func (c *client) connect(one *connection) error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("making a socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(socket, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Connect(socket, &c.to),
		unix.SetNonblock(socket, true),
		c.add(socket),
	)
	if err != nil {
		_ = unix.Close(socket)
		return fmt.Errorf("connecting: %w", err)
	}
	one.socket, one.have = socket, 0
	c.bySocket[socket] = one
	return nil
}

func (c *client) close() {
	for socket := range c.bySocket {
		_ = unix.Close(socket)
	}
	c.poller.close()
}

// expect says which responses are right from now on.
func (c *client) expect(refusals, admissions bool) { c.refusals, c.admissions = refusals, admissions }

// send sends the next user's request.
func (c *client) send(one *connection) error {
	message := c.requests[c.next]
	c.next = (c.next + 1) % len(c.requests)
	one.sent = time.Now()
	c.awaited++
	if err := write(one.socket, message); err != nil {
		return c.broken(one, err)
	}
	return nil
}

// loop reads responses until none is awaited; what follows on each, then says.
func (c *client) loop(ctx context.Context, then func(*connection) error) error {
	for c.awaited > 0 {
		events, err := c.wait(ctx, silence)
		if err != nil {
			return fmt.Errorf("waiting for %d responses: %w", c.awaited, err)
		}
		for _, event := range events {
			one := c.bySocket[int(event.Fd)]
			if one == nil {
				continue // replaced a moment ago
			}
			if err := c.receive(one, then); err != nil {
				return err
			}
		}
	}
	return nil
}

// receive reads what has come.
func (c *client) receive(one *connection, then func(*connection) error) error {
	n, err := read(one.socket, one.input[one.have:])
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if n <= 0 {
		return c.broken(one, errors.Join(errors.New("the connection ended without a response"), err))
	}
	one.have += n
	got, err := parse(one.input[:one.have])
	switch {
	case err != nil:
		return c.broken(one, err)
	case got.length == 0 && one.have == len(one.input):
		return c.broken(one, fmt.Errorf("a response of more than %d bytes", one.have))
	case got.length == 0:
		return nil
	case got.length != one.have:
		return c.broken(one, errors.New("bytes after the response"))
	}
	one.have = 0
	c.awaited--
	if err := c.check(got); err != nil {
		return err
	}
	return then(one)
}

// check counts a response that is not right.
func (c *client) check(got answer) error {
	right := c.admissions && got.status == statusOK && bytes.Equal(got.body, body) ||
		c.refusals && got.status == statusTooManyRequests
	if right {
		return nil
	}
	return c.failed(fmt.Errorf("a response of status %d with %d bytes, expected %s", got.status, len(got.body), c.expected()))
}

func (c *client) expected() string {
	switch {
	case c.admissions && c.refusals:
		return "the application's or 429"
	case c.admissions:
		return "the application's"
	default:
		return "429"
	}
}

// broken replaces a connection and sends again.
func (c *client) broken(one *connection, why error) error {
	c.awaited--
	delete(c.bySocket, one.socket)
	_ = unix.Close(one.socket)
	if err := c.failed(why); err != nil {
		return err
	}
	if err := c.connect(one); err != nil {
		return err
	}
	return c.send(one)
}

// failed counts; too many are an error.
func (c *client) failed(why error) error {
	c.failures++
	if c.failure == nil {
		c.failure = why
	}
	if c.failures >= mostFailures {
		return fmt.Errorf("%d requests failed, the first with: %w", c.failures, c.failure)
	}
	return nil
}
