package link

import "sync"

// bells tell those who wait for a key. A ring tells everybody who waits for the
// key at that moment; whoever looks at the state after calling listen or tell
// misses no change.
type bells struct {
	mu        sync.Mutex
	listeners map[string]map[*listener]struct{}
}

// listener is told of a ring by a call, which must not block.
type listener struct{ told func() }

// tell calls told, which must not block, at each ring of one of the keys. The
// caller calls hangUp in the end.
func (b *bells) tell(told func(), keys ...string) (hangUp func()) {
	one := &listener{told}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		b.listeners = map[string]map[*listener]struct{}{}
	}
	for _, key := range keys {
		if b.listeners[key] == nil {
			b.listeners[key] = map[*listener]struct{}{}
		}
		b.listeners[key][one] = struct{}{}
	}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, key := range keys {
			delete(b.listeners[key], one)
			if len(b.listeners[key]) == 0 {
				delete(b.listeners, key)
			}
		}
	}
}

// listen returns a channel that holds a value once one of the keys has rung
// since. The caller calls hangUp in the end.
func (b *bells) listen(keys ...string) (rung <-chan struct{}, hangUp func()) {
	ringing := make(chan struct{}, 1)
	return ringing, b.tell(func() {
		select {
		case ringing <- struct{}{}:
		default: // rung already
		}
	}, keys...)
}

// ring tells who listens for a key.
func (b *bells) ring(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	tellAll(b.listeners[key])
}

// ringAll tells everybody.
func (b *bells) ringAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, listeners := range b.listeners {
		tellAll(listeners)
	}
}

func tellAll(listeners map[*listener]struct{}) {
	for one := range listeners {
		one.told()
	}
}
