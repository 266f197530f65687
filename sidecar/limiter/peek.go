package limiter

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// maxPeeks of one call of the script, which keeps Redis from others for some
// 100 µs.
const maxPeeks = 64

// RemainingOfEach says of each take by itself what Remaining would, in one round
// trip. Its errors are Take's, of the first that has one; but where a key is no log,
// as somebody of its namespace may have written it, only its take has no Quotas.
func (l *Limiter) RemainingOfEach(ctx context.Context, takes []Take) ([]Decision, error) {
	commands := make([]*command, len(takes))
	for i := range takes {
		quotas, err := quotasOf(nil, takes[i:i+1])
		if err != nil {
			return nil, err
		}
		commands[i] = &command{verb: verbPeek, id: newID(), quotas: quotas}
	}
	if len(takes) == 0 {
		return nil, nil
	}
	err := l.within(ctx, func(ctx context.Context, b *backend) error {
		each := maxPeeks
		if b.cluster {
			each = 1
		}
		return b.peekEach(ctx, commands, each)
	})
	if err != nil {
		return nil, err
	}
	decisions := make([]Decision, len(takes))
	for i, c := range commands {
		decisions[i] = c.peeked()
	}
	return decisions, nil
}

// peekEach has a pipeline answer commands, so many a call. Those without a reply
// then have keys that are no logs.
func (b *backend) peekEach(ctx context.Context, commands []*command, each int) error {
	now := ""
	if micros := b.clock(); micros != 0 {
		now = strconv.FormatInt(micros, 10)
	}
	var calls []*script
	for part := range slices.Chunk(commands, each) {
		calls = append(calls, scriptOf(part))
	}
	replies := make([]*redis.Cmd, len(calls))
	ask := func(run func(redis.Pipeliner, *script) *redis.Cmd) error {
		_, err := b.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
			for i := range calls {
				replies[i] = run(pipe, calls[i])
			}
			return nil
		})
		return err
	}
	err := ask(func(pipe redis.Pipeliner, s *script) *redis.Cmd {
		return takeScript.EvalSha(ctx, pipe, s.keys, now, s.text)
	})
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		err = ask(func(pipe redis.Pipeliner, s *script) *redis.Cmd {
			return takeScript.Eval(ctx, pipe, s.keys, now, s.text)
		})
	}
	if err != nil && !isNoLog(err) {
		return b.Explain(err)
	}
	for i := range calls {
		part := commands[i*each : min((i+1)*each, len(commands))]
		numbers, err := calls[i].read(replies[i])
		switch {
		case isNoLog(err) && len(part) == 1:
			continue
		case isNoLog(err):
			if err := b.peekEach(ctx, part, 1); err != nil {
				return err
			}
			continue
		case err != nil:
			return b.Explain(err)
		}
		numbers = numbers[1:]
		for _, c := range part {
			n := c.numbers()
			c.reply, numbers = numbers[:n], numbers[n:]
		}
	}
	return nil
}

// isNoLog says whether Redis, or the script, says that a key is none of ours, or the
// script cannot read it.
func isNoLog(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply) && (strings.Contains(err.Error(), "WRONGTYPE") || strings.Contains(err.Error(), "user_script"))
}

// peeked is the reply to a peek of one take.
func (c *command) peeked() Decision {
	if c.reply == nil {
		return Decision{}
	}
	found := Decision{Admitted: c.admitted(), Quotas: make([]Quota, len(c.quotas))}
	for i := range c.quotas {
		found.Quotas[i] = Quota{
			Limit: c.quotas[i].limit, Remaining: c.reply[2+3*i], Reset: micros(c.reply[3+3*i]), RetryAfter: micros(c.reply[4+3*i]),
		}
	}
	found.RetryAfter = retryAfter(found.Quotas)
	return found
}
