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
	options *redis.UniversalOptions
	cluster bool
	// callersClock: the script is told the time.
	callersClock bool
	redact       func(string) string
}

// Connect returns a Connection that dials on first use. Like New, it silences
// the Redis client's own log in this process. Its errors name the field of the
// store that cannot be used, without what is in it.
func Connect(store ruleset.Store) (*Connection, error) {
	return connect(store, func(*redis.UniversalOptions) {})
}

// ConnectOnce is Connect for what must not be sent again when its reply was lost,
// by one caller at a time.
func ConnectOnce(store ruleset.Store) (*Connection, error) {
	return connect(store, func(options *redis.UniversalOptions) {
		options.MaxRetries, options.MaxRedirects, options.PoolSize = -1, -1, 1
	})
}

func connect(store ruleset.Store, adapt func(*redis.UniversalOptions)) (*Connection, error) {
	logging.Disable()
	parsed, err := parseURL(store.URL)
	if err != nil {
		return nil, err
	}
	options, err := clientOptions(store, parsed)
	if err != nil {
		return nil, err
	}
	adapt(options)
	return &Connection{
		store: store, client: newClient(options), options: options,
		cluster: options.IsClusterMode, callersClock: callersClock(parsed), redact: redactor(store, options),
	}, nil
}

// Client of the store: of one server, or of a Redis Cluster.
func (c *Connection) Client() redis.UniversalClient { return c.client }

// Servers calls f for the server or, at the same time, for every one of a Redis
// Cluster's or behind Sentinel: masters and replicas. Its error joins theirs.
func (c *Connection) Servers(ctx context.Context, f func(context.Context, *redis.Client) error) error {
	var all together
	switch client := c.client.(type) {
	case *redis.ClusterClient:
		err := client.ForEachShard(ctx, func(ctx context.Context, node *redis.Client) error {
			all.note(f(ctx, node))
			return nil
		})
		return errors.Join(all.failed, err) // err: no server said which there are
	case *redis.Client:
		if c.options.MasterName == "" {
			return f(ctx, client)
		}
	}
	addrs, err := c.behindSentinel(ctx)
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		all.Go(func() {
			options := c.options.Simple()
			options.Addr = addr
			server := redis.NewClient(options)
			defer func() { _ = server.Close() }()
			all.note(f(ctx, server))
		})
	}
	all.Wait()
	return all.failed
}

// together is what some goroutines do, and how they failed.
type together struct {
	sync.WaitGroup
	mu     sync.Mutex
	failed error
}

func (t *together) note(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = errors.Join(t.failed, err)
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
