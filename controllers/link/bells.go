package link

import "sync"

// bells wake those who wait for a key. A ring wakes everybody who waits for the
// key at that moment; whoever looks at the state after calling listen misses
// no change.
type bells struct {
	mu        sync.Mutex
	listeners map[string]map[chan struct{}]struct{}
}

// listen returns a channel that holds a value once one of the keys has rung
// since. The caller calls hangUp in the end.
func (b *bells) listen(keys ...string) (rung <-chan struct{}, hangUp func()) {
	listener := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.listeners == nil {
		b.listeners = map[string]map[chan struct{}]struct{}{}
	}
	for _, key := range keys {
		if b.listeners[key] == nil {
			b.listeners[key] = map[chan struct{}]struct{}{}
		}
		b.listeners[key][listener] = struct{}{}
	}
	return listener, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, key := range keys {
			delete(b.listeners[key], listener)
			if len(b.listeners[key]) == 0 {
				delete(b.listeners, key)
			}
		}
	}
}

// ring wakes who listens for a key.
func (b *bells) ring(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wake(b.listeners[key])
}

// ringAll wakes everybody.
func (b *bells) ringAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, listeners := range b.listeners {
		wake(listeners)
	}
}

func wake(listeners map[chan struct{}]struct{}) {
	for listener := range listeners {
		select {
		case listener <- struct{}{}:
		default: // rung already
		}
	}
}
