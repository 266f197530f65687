package link

import "sync"

// backlog does things in order, so many at a time, and keeps what waits without
// a goroutine each.
type backlog struct {
	atOnce int

	mu      sync.Mutex
	waiting []func()
	running int
}

// do has something done when its turn has come. It does not block.
func (b *backlog) do(thing func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = append(b.waiting, thing)
	if b.running < b.atOnce {
		b.running++
		go b.run()
	}
}

func (b *backlog) run() {
	for {
		thing := b.next()
		if thing == nil {
			return
		}
		thing()
	}
}

// next is the first that waits; nil: nothing does, and the caller ends.
func (b *backlog) next() func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiting) == 0 {
		b.waiting = nil
		b.running--
		return nil
	}
	first := b.waiting[0]
	b.waiting[0] = nil
	b.waiting = b.waiting[1:]
	return first
}
