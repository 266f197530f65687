package proxy

import (
	"context"
	"sync"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxSessions bounds the connections that a sidecar serves at once in each
// direction, so that whoever calls the pod cannot keep it from calling: beyond,
// new ones are reset. Each costs two sockets and some 20 KiB.
const maxSessions = 8 << 10

// sessions are those that live.
type sessions struct {
	mu   sync.Mutex
	live map[*session]struct{}
	// count of them, by direction.
	count map[ruleset.Direction]int
	// none is closed when the last one has ended; nil while nobody waits.
	none chan struct{}
}

// add is false when there are too many.
func (s *sessions) add(one *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		s.live, s.count = map[*session]struct{}{}, map[ruleset.Direction]int{}
	}
	if s.count[one.server.direction] >= maxSessions {
		return false
	}
	s.live[one] = struct{}{}
	s.count[one.server.direction]++
	return true
}

func (s *sessions) remove(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, one)
	s.count[one.server.direction]--
	if len(s.live) == 0 && s.none != nil {
		close(s.none)
		s.none = nil
	}
}

// replace puts next in the place of one, whose client it has taken over.
func (s *sessions) replace(one, next *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.live, one)
	s.live[next] = struct{}{}
}

func (s *sessions) each(f func(*session)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for one := range s.live {
		f(one)
	}
}

// drain tells all to end when they are idle, and waits for that until ctx ends.
func (s *sessions) drain(ctx context.Context) error {
	s.each((*session).drain)
	s.mu.Lock()
	if len(s.live) == 0 {
		s.mu.Unlock()
		return nil
	}
	if s.none == nil {
		s.none = make(chan struct{})
	}
	none := s.none
	s.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sever resets all that still live.
func (s *sessions) sever() { s.each((*session).abort) }
