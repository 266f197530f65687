package limiter

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/audit"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

// backend is the client of one store.
type backend struct {
	*Connection
	// batch sends the takes; nil on Redis Cluster, where each goes by itself to
	// the node that has its keys.
	batch *batcher
	clock func() int64 // see batcher
	// memory of what the store has answered.
	memory   *memory
	breakers []breaker
	health   *health
	// reporting lets one report after the other be told.
	reporting sync.Mutex
	// calls under way; the client is closed after the last.
	calls sync.WaitGroup
	// stop ends the health checks, which ctx bounds.
	ctx  context.Context
	stop context.CancelFunc
}

func newBackend(store ruleset.Store, clock func() int64, ledger *ledger, audit *audit.Log) (*backend, error) {
	connection, err := Connect(store)
	if err != nil {
		return nil, err
	}
	b := &backend{Connection: connection, memory: newMemory(ledger, newRecorder(audit)), clock: clock, breakers: make([]breaker, 1)}
	if b.callersClock {
		b.clock = func() int64 { return cmp.Or(clock(), time.Now().UnixMicro()) }
	}
	if b.cluster {
		b.breakers = make([]breaker, clusterParts)
	} else {
		b.batch = b.alone()
		b.memory.pressing.hashes = map[uint64]struct{}{}
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// alone is a batcher for calls that wait for no others.
func (b *backend) alone() *batcher {
	return &batcher{client: b.client, clock: b.clock, memory: b.memory}
}

// close waits for the calls under way; no new one starts, see Limiter.swap.
func (b *backend) close() {
	b.stop()
	b.calls.Wait()
	b.settle(b.memory.sweep(true))
	if b.health.limiter.inUse() == nil { // else the next store is told
		b.report(nil)
	}
	b.Close()
}

// sweepMemory settles leases that have ended, until the backend does.
func (b *backend) sweepMemory(every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-ticker.C:
			b.memory.ledger.sweep()
			if b.cluster {
				b.memory.tidy(false)
			}
			b.settle(b.memory.unsettled())
			if !b.cluster {
				b.memory.tidy(false) // until the next time takes may bring along what has ended
			}
			b.report(nil)
		}
	}
}

// settle has Redis note how leases were used. It gives up when Redis does not
// answer: what is not settled leaves with its window.
func (b *backend) settle(leases []*command) {
	leases = slices.DeleteFunc(leases, func(l *command) bool {
		away := b.ctx.Err() == nil && b.away(l.quotas) != nil
		if away { // it may still be wanted when the store is back
			b.memory.later(l)
		}
		return away
	})
	for len(leases) > 0 {
		n := min(len(leases), maxBatch)
		if b.cluster {
			n = 1
		}
		leases[0].deadline = time.Now().Add(b.store.Timeout())
		if b.alone().call(leases[:n]) != nil {
			return
		}
		leases = leases[n:]
	}
}

// ping asks every server that decides. Its error wraps ErrStore.
func (b *backend) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.store.Timeout())
	defer cancel()
	err := b.each(ctx, func(ctx context.Context, node *redis.Client) error { return node.Ping(ctx).Err() })
	if err != nil {
		return b.Explain(err)
	}
	return nil
}
