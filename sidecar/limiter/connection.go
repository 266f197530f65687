package limiter

import (
	"context"
	"errors"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Connection reaches a store as a Limiter does. The operator has one, to look
// after the store.
type Connection struct {
	store   ruleset.Store
	client  redis.UniversalClient
	cluster bool
	redact  func(string) string
}

// Connect returns a Connection that dials on first use. Like New, it silences
// the Redis client's own log in this process. Its errors name the field of the
// store that cannot be used, without what is in it.
func Connect(store ruleset.Store) (*Connection, error) {
	logging.Disable()
	options, err := clientOptions(store)
	if err != nil {
		return nil, err
	}
	return &Connection{
		store: store, client: newClient(options), cluster: options.IsClusterMode, redact: redactor(store, options),
	}, nil
}

// Servers calls f for the server or, at the same time, for every one of a Redis
// Cluster's: masters and replicas. Its error joins theirs.
func (c *Connection) Servers(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	client, ok := c.client.(*redis.ClusterClient)
	if !ok {
		return c.each(ctx, f)
	}
	var mu sync.Mutex
	var failed error
	err := client.ForEachShard(ctx, func(ctx context.Context, node *redis.Client) error {
		err := f(ctx, node)
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
		return nil
	})
	return errors.Join(failed, err) // err: no server said which there are
}

// each calls f for the server, or at the same time for each master of a cluster.
func (c *Connection) each(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	switch client := c.client.(type) {
	case *redis.Client:
		return f(ctx, client)
	case *redis.ClusterClient:
		return client.ForEachMaster(ctx, f)
	}
	return errors.New("a client of an unknown kind")
}

// Close ends its connections.
func (c *Connection) Close() { _ = c.client.Close() }
