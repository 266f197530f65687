package limiter

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxBatch bounds the takes of one call of the script, which keeps Redis from
// others for some 10 µs each.
const maxBatch = 128

// While one batch is on the way, so many takes that wait go as a second one: Redis
// works on it while this process reads the answers to the first.
const secondBatch = 16

// command is a take on its way to the script.
type command struct {
	verb   byte
	id     [idBytes]byte
	quotas []quota
	// settle is decided before the take; nil: nothing is.
	settle *command
	// want so many more such takes for a lease of a length in nanoseconds; see
	// take.lua for how the other verbs use it.
	want, length int64
	uses         []use // of a lease that is settled, or of what is noted
	// alone: it is not to go along with takes, since it did so in vain or may be too early.
	alone bool
	// deadline of the answer.
	deadline time.Time
	reply    []int64 // 2 + 3 for each quota; none for settle and note
	read     reading // when the script ran; kept where there is a recorder
	err      error
}

// batcher sends takes to Redis: at once when none is on the way, and those that
// came meanwhile together, in two batches at most. So one that is alone waits for
// nobody, and many cost few round trips.
type batcher struct {
	client redis.Scripter
	// clock returns the time that the script is told; 0: Redis's own counts.
	clock func() int64
	// memory has the clock of readings, where they are wanted.
	memory *memory

	mu      sync.Mutex
	flying  int // batches
	waiting []*batch
}

// batch is commands that wait to be decided together, maxBatch at most; done is closed
// when each has its reply, or err.
type batch struct {
	commands []*command
	done     chan struct{}
}

// do has the script decide and returns when it has, or c's deadline has passed,
// or ctx has ended. All deadlines are equally far from when do is called.
func (b *batcher) do(ctx context.Context, c *command) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.flying > 0 {
		joined := b.join(c)
		if b.flying == 1 && len(b.waiting[0].commands) >= secondBatch {
			b.flying++
			go b.fly(b.next())
		}
		b.mu.Unlock()
		// It waits for its deadline at most: every batch ends by that of its first, and
		// those before it began to wait earlier.
		select {
		case <-joined.done:
			return c.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	b.flying++
	b.mu.Unlock()
	within, cancel := context.WithDeadline(ctx, c.deadline)
	c.deadline, _ = within.Deadline() // the caller's, if that is before
	b.send(within, []*command{c})
	cancel()
	b.mu.Lock()
	next := b.next()
	b.mu.Unlock()
	if next != nil {
		go b.fly(next)
	}
	return c.err
}

// join adds a command to the last batch that waits; the caller holds mu.
func (b *batcher) join(c *command) *batch {
	last := len(b.waiting) - 1
	if last < 0 || len(b.waiting[last].commands) == maxBatch {
		b.waiting = append(b.waiting, &batch{commands: make([]*command, 0, secondBatch), done: make(chan struct{})})
		last++
	}
	b.waiting[last].commands = append(b.waiting[last].commands, c)
	return b.waiting[last]
}

// next is the batch that goes next; the caller holds mu. Without any, its batch flies
// no more.
func (b *batcher) next() *batch {
	if len(b.waiting) == 0 {
		b.flying--
		return nil
	}
	next := b.waiting[0]
	b.waiting = slices.Delete(b.waiting, 0, 1)
	return next
}

// fly sends batch after batch until none waits.
func (b *batcher) fly(batch *batch) {
	for batch != nil {
		ctx, cancel := context.WithDeadline(context.Background(), batch.commands[0].deadline)
		b.send(ctx, batch.commands)
		close(batch.done)
		cancel()
		b.mu.Lock()
		batch = b.next()
		b.mu.Unlock()
	}
}

// send has the script decide on a batch, which brings along leases that are to be
// settled, and such that are needed next. When it fails on one of several, each of the
// batch is asked again by itself: what is wrong with one is not the others' fault, and a
// take that was counted counts once.
func (b *batcher) send(ctx context.Context, batch []*command) {
	settling := b.memory.along(maxBatch - len(batch))
	leases := b.memory.ahead(min(maxAhead, maxBatch-len(batch)-len(settling)))
	all := batch
	if len(settling)+len(leases) > 0 {
		all = append(settling[:len(settling):len(settling)], batch...)
		for _, a := range leases {
			all = append(all, &a.command)
		}
	}
	err := b.ask(ctx, all)
	if err == nil {
		b.memory.bring(leases)
	} else {
		b.memory.later(settling...)
		for _, a := range leases {
			b.memory.failed(a.takes, a.request, &a.command)
		}
	}
	_, ofServer := err.(redis.Error) //nolint:errorlint // go-redis returns it as it is
	again := ofServer && len(all) > 1 && !redis.IsReadOnlyError(err)
	for _, c := range batch {
		c.err = err
		if again {
			c.deadline = batch[0].deadline // nobody is told before all are
			c.err = b.call([]*command{c})
		}
	}
}

// call is one round trip. The first of the batch waits the longest.
func (b *batcher) call(batch []*command) error {
	ctx, cancel := context.WithDeadline(context.Background(), batch[0].deadline)
	defer cancel()
	return b.ask(ctx, batch)
}

// ask is one round trip while a context lasts.
func (b *batcher) ask(ctx context.Context, batch []*command) error {
	if err := ctx.Err(); err != nil { // with thousands waiting, each batch would be made in vain
		return err
	}
	s := scriptOf(batch)
	now := ""
	if micros := b.clock(); micros != 0 {
		now = strconv.FormatInt(micros, 10)
	}
	var read reading
	recorder := b.memory.recorder
	if recorder != nil {
		read.from = b.memory.now()
	}
	reply, err := s.read(takeScript.Run(ctx, b.client, s.keys, now, s.text))
	if err != nil {
		return err
	}
	if recorder != nil {
		read.redis, read.to = reply[0], b.memory.now()
		recorder.hear(read)
	}
	reply = reply[1:]
	for _, c := range batch {
		n := c.numbers()
		c.reply, reply, c.read = reply[:n], reply[n:], read
	}
	return nil
}

// script is a call of take.lua in the making; numbers is how long its reply is.
type script struct {
	keys    []string
	text    []byte
	numbers int
}

// usualBytes of a command's text: with one limit there are 33.
const usualBytes = 48

// scriptOf a batch of commands.
func scriptOf(batch []*command) *script {
	s := &script{text: make([]byte, 0, usualBytes*len(batch)), keys: make([]string, 0, 2*len(batch)), numbers: 1}
	for _, c := range batch {
		if c.settle != nil {
			s.add(c.settle)
		}
		s.add(c)
	}
	return s
}

func (s *script) add(c *command) {
	number := c.want
	if c.silent() {
		number = int64(len(c.uses))
	}
	text := append(append(s.text, c.verb), c.id[:]...)
	text = appendNumber(text, number, 4)
	text = appendNumber(text, c.length/1000, 4)
	text = appendNumber(text, int64(len(c.quotas)), 2)
	for _, u := range c.uses {
		text = appendNumber(text, u.takes, 4)
		text = appendNumber(text, u.within, 7)
	}
	for i := range c.quotas {
		q := &c.quotas[i]
		s.keys = append(s.keys, q.key)
		switch {
		case c.verb == verbNote:
			s.keys = append(s.keys, q.key+":notes")
		case c.length > 0:
			s.keys = append(s.keys, q.key+":leases")
		}
		text = appendNumber(text, q.limit.Requests, 4)
		text = appendNumber(text, q.limit.WindowMillis, 5)
		text = appendNumber(text, q.cost, 4)
	}
	s.text = text
	s.numbers += c.numbers()
}

// read returns the numbers of the script's reply.
func (s *script) read(reply *redis.Cmd) ([]int64, error) {
	text, err := reply.Text()
	if err != nil {
		return nil, err
	}
	if len(text) != 8*s.numbers {
		return nil, fmt.Errorf("%d bytes instead of %d numbers from the script", len(text), s.numbers)
	}
	numbers := make([]int64, s.numbers)
	for i := range numbers {
		for _, b := range []byte(text[8*i : 8*i+8]) {
			numbers[i] = numbers[i]<<8 | int64(b)
		}
	}
	return numbers, nil
}

// appendNumber appends the lowest bytes of a number, the most significant first.
func appendNumber(text []byte, n int64, bytes int) []byte {
	for bytes > 0 {
		bytes--
		text = append(text, byte(n>>(8*bytes)))
	}
	return text
}

// silent reports whether the script has no reply to the command.
func (c *command) silent() bool {
	return c.verb == verbSettle || c.verb == verbNote || c.verb == verbReset
}

// numbers of the script's reply that are the command's.
func (c *command) numbers() int {
	if c.silent() {
		return 0
	}
	return 2 + 3*len(c.quotas)
}
