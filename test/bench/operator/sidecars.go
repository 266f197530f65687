package operator

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weir-dev/weir/sidecar/link"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// sidecars are the link clients of all pods.
type sidecars struct {
	folder  string
	running sync.WaitGroup
	stop    context.CancelFunc
	watched lookout
}

// connect starts the link client of every pod, a few in a millisecond.
func connect(ctx context.Context, folder string, members []member, reach ruleset.Link) (*sidecars, error) {
	asking, stop := context.WithCancel(context.WithoutCancel(ctx)) // until close
	s := &sidecars{folder: folder, stop: stop}
	for i, one := range members {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		own := filepath.Join(folder, strconv.Itoa(i))
		if err := os.Mkdir(own, 0o700); err != nil {
			return s, err
		}
		token := filepath.Join(own, "token")
		if err := os.WriteFile(token, []byte(one.token), 0o600); err != nil {
			return s, err
		}
		client, err := link.New(link.Config{
			Bootstrap:  &ruleset.Ruleset{Namespace: one.namespace, Link: reach},
			Apply:      s.watched.apply,
			TokenFile:  token,
			StateDir:   own,
			Registerer: prometheus.NewRegistry(),
			Logger:     slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return s, err
		}
		client.Restore()
		s.running.Go(func() { client.Run(asking) })
		if i%10 == 0 {
			time.Sleep(10 * time.Millisecond) // pods do not all start at once
		}
	}
	return s, nil
}

func (s *sidecars) close() {
	s.stop()
	s.running.Wait()
}

// lookout sees when so many sidecars have put an edit of a policy in force.
type lookout struct {
	mu         sync.Mutex
	policy     string // UID; empty: none is watched
	generation int64
	missing    int
	last       time.Time
	done       chan struct{}
}

// await watches for an edit.
func (l *lookout) await(uid string, generation int64, sidecars int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.policy, l.generation, l.missing, l.done = uid, generation, sidecars, make(chan struct{})
	return l.done
}

// at is when the last of them had it in force.
func (l *lookout) at() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// apply is what a sidecar does with its Ruleset.
func (l *lookout) apply(r *ruleset.Ruleset) error {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.missing == 0 {
		return nil
	}
	for i := range r.Policies {
		if ref := r.Policies[i].PolicyRef; ref.UID == l.policy && ref.Generation == l.generation {
			l.missing--
			l.last = now
			if l.missing == 0 {
				close(l.done)
			}
		}
	}
	return nil
}
