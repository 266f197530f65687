package link

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// state of the link, as the log names it: one line each time it changes.
type state string

const (
	connected   state = "connected"
	unreachable state = "unreachable"
	refused     state = "refused"
	nonsense    state = "not understood"
	rejecting   state = "rejecting"
)

// failure is an error and the state of the link that it means.
type failure struct {
	state state
	error
}

func (f failure) Unwrap() error { return f.error }

// stateOf says which state an error of a round means.
func stateOf(err error) state {
	var f failure
	if errors.As(err, &f) {
		return f.state
	}
	return unreachable
}

// enter changes the state of the link, and logs when it is another than before.
func (c *Client) enter(next state, reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if next == c.state {
		return
	}
	c.state = next
	switch next {
	case connected:
		c.connected.Set(1)
		c.logger.Info("the link to the operator works", "address", c.current.Link.Address)
	case rejecting: // the operator answers; reject has logged what is wrong
		c.connected.Set(1)
	default:
		c.connected.Set(0)
		c.logger.Warn("no link to the operator: the last rules stay in force, and it is asked again",
			"state", string(next), "address", c.current.Link.Address, "error", reason)
	}
}

// backoff is how long to wait after so many failures in a row: it doubles from
// first to longest, and a random factor in [0.5, 1) keeps the sidecars of a
// cluster from asking a returning operator all at once.
func backoff(failures int, first, longest time.Duration, random float64) time.Duration {
	wait := longest
	if doublings := failures - 1; doublings < 16 {
		wait = min(longest, first<<doublings)
	}
	return max(first, time.Duration(float64(wait)*(0.5+random/2)))
}

// clip cuts a text that somebody else wrote to at most n bytes of valid UTF-8.
func clip(text string, n int) string {
	if len(text) > n {
		text = text[:n]
	}
	return strings.ToValidUTF8(text, "")
}

// statusError is an answer other than 200 and 204.
func statusError(status int) error {
	switch status {
	case 401:
		return failure{refused, errors.New("the operator did not accept this pod's token (401)")}
	case 403:
		return failure{refused, errors.New("the operator has no Ruleset for this pod's token (403)")}
	default:
		return failure{unreachable, fmt.Errorf("the operator answered with status %d", status)}
	}
}
