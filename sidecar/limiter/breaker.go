package limiter

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// firstProbe and longestProbe bound the time between two probes of a store that
	// does not answer; the very first comes at once. Each wait is shortened by up
	// to a half, so that many sidecars do not ask at the same time.
	firstProbe   = 100 * time.Millisecond
	longestProbe = 2 * time.Second
	// calm is how long a store must have answered before its next silence begins
	// with quick probes again.
	calm = 5 * time.Second
	// clusterSlots of Redis Cluster, and the parts that break each by itself: a
	// node that is lost is not the others' fault. Each part finds out by itself.
	clusterSlots = 16384
	clusterParts = 128
)

// breaker answers for a part of a store that does not answer: the first call
// that had to wait opens it, later ones need not wait, and a probe closes it.
type breaker struct {
	// away is why the store did not decide; nil: it is asked.
	away atomic.Pointer[error]

	mu sync.Mutex
	// closed last; calls that began before say nothing of the store since.
	closed time.Time
	// delay before the next probe.
	delay time.Duration
}

// breakerOf a quota's key.
func (b *backend) breakerOf(key string) *breaker {
	if !b.cluster {
		return &b.breakers[0]
	}
	return &b.breakers[slotOf(key)*clusterParts/clusterSlots]
}

// away is why some quotas need not be asked for; nil: they are to be.
func (b *backend) away(quotas []quota) error {
	for i := range quotas {
		if err := b.breakerOf(quotas[i].key).away.Load(); err != nil {
			return *err
		}
		if !b.cluster {
			break
		}
	}
	return nil
}

// failed notes that the store did not decide on some quotas that were asked for
// since a time. An error that the server answered with opens no breaker: it
// costs no time.
func (b *backend) failed(since time.Time, err error, quotas []quota) {
	var reply redis.Error
	if errors.As(err, &reply) {
		b.health.refused(b.Explain(err))
		return
	}
	k := b.breakerOf(quotas[0].key)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.away.Load() != nil || since.Before(k.closed) || b.ctx.Err() != nil {
		return
	}
	why := b.Explain(err)
	k.away.Store(&why)
	b.health.down(why)
	if time.Since(k.closed) > calm {
		k.delay = 0
	}
	b.calls.Go(func() { b.probe(k, quotas) })
}

// probe asks, once at a time, until the store decides again. What was admitted
// without it is told before it decides.
func (b *backend) probe(k *breaker, quotas []quota) {
	for {
		if !sleep(b.ctx, time.Duration(float64(k.delay)*(0.5+rand.Float64()/2))) { //nolint:gosec // spreads load, hides nothing
			return
		}
		k.delay = min(max(2*k.delay, firstProbe), longestProbe)
		ask := &command{verb: verbPeek, id: newID(), quotas: quotas, deadline: time.Now().Add(b.store.Timeout())}
		if err := b.alone().call([]*command{ask}); err != nil {
			why := b.Explain(err)
			k.away.Store(&why)
			if cluster, ok := b.client.(*redis.ClusterClient); ok {
				cluster.ReloadState(b.ctx) // another node may serve these slots by now
			}
			continue
		}
		if b.report(k) {
			break
		}
	}
	k.mu.Lock()
	k.closed = time.Now()
	k.away.Store(nil)
	k.mu.Unlock()
	b.report(nil) // of the meantime
	if b.broken() == nil {
		b.health.up()
	}
}

// broken is why some part of the store does not answer; nil: all do.
func (b *backend) broken() error {
	for i := range b.breakers {
		if why := b.breakers[i].away.Load(); why != nil {
			return *why
		}
	}
	return nil
}

// sleep returns false when ctx ends before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// slotOf a key in Redis Cluster: CRC-16/XMODEM of its hash tag, as the Redis
// Cluster specification has it.
func slotOf(key string) int {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if tag := key[open+1:]; strings.IndexByte(tag, '}') > 0 {
			key = tag[:strings.IndexByte(tag, '}')]
		}
	}
	var crc uint16
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			carry := crc&0x8000 != 0
			if crc <<= 1; carry {
				crc ^= 0x1021
			}
		}
	}
	return int(crc) % clusterSlots
}
