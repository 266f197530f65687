package limiter

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// backend is the client of one store.
type backend struct {
	store   ruleset.Store
	client  redis.UniversalClient
	cluster bool
	// batch sends the takes; nil on Redis Cluster, where each goes by itself to
	// the node that has its keys.
	batch  *batcher
	redact func(string) string
	// calls under way; the client is closed after the last.
	calls sync.WaitGroup
	// stop ends the health checks, which ctx bounds.
	ctx  context.Context
	stop context.CancelFunc
}

func newBackend(store ruleset.Store) (*backend, error) {
	options, err := clientOptions(store)
	if err != nil {
		return nil, err
	}
	b := &backend{store: store, client: newClient(options), cluster: options.IsClusterMode, redact: redactor(store, options)}
	if !b.cluster {
		b.batch = &batcher{client: b.client}
	}
	b.ctx, b.stop = context.WithCancel(context.Background())
	return b, nil
}

// close waits for the calls under way; no new one starts, see Limiter.swap.
func (b *backend) close() {
	b.stop()
	b.calls.Wait()
	_ = b.client.Close()
}

// ping asks every server that decides. Its error wraps ErrStore.
func (b *backend) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.store.Timeout())
	defer cancel()
	err := b.each(ctx, func(ctx context.Context, node *redis.Client) error { return node.Ping(ctx).Err() })
	if err != nil {
		return b.explain(err)
	}
	return nil
}

// each calls f for the server, or at the same time for each master of a cluster.
func (b *backend) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	switch client := b.client.(type) {
	case *redis.Client:
		return f(ctx, client)
	case *redis.ClusterClient:
		return client.ForEachMaster(ctx, f)
	}
	return errors.New("a client of an unknown kind")
}
