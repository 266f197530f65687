package dashboard

import "sync"

// streams that are open, by user.
type streams struct {
	mu     sync.Mutex
	all    int
	byUser map[string]int
}

// open says whether a user may have one more; then close ends it.
func (s *streams) open(user string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxStreams || s.byUser[user] >= maxStreamsOfUser {
		return false
	}
	if s.byUser == nil {
		s.byUser = map[string]int{}
	}
	s.all++
	s.byUser[user]++
	return true
}

func (s *streams) close(user string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byUser[user]--; s.byUser[user] == 0 {
		delete(s.byUser, user)
	}
}
