package limiter

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"
)

// behindSentinel are the addresses of the master and of the replicas that are not
// known to be down, as the sentinel says that answers first.
func (c *Connection) behindSentinel(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		addrs []string
		err   error
	}
	answers := make(chan answer, len(c.options.Addrs))
	for _, addr := range c.options.Addrs {
		go func() {
			addrs, err := c.askSentinel(ctx, addr)
			answers <- answer{addrs, err}
		}()
	}
	var failed error
	for range c.options.Addrs {
		a := <-answers
		if a.err == nil {
			return a.addrs, nil
		}
		failed = errors.Join(failed, a.err)
	}
	return nil, failed
}

func (c *Connection) askSentinel(ctx context.Context, addr string) ([]string, error) {
	options := c.options.Simple()
	options.Addr, options.DB = addr, 0
	options.Username, options.Password = c.options.SentinelUsername, c.options.SentinelPassword
	sentinel := redis.NewSentinelClient(options)
	defer func() { _ = sentinel.Close() }()
	master, err := sentinel.GetMasterAddrByName(ctx, c.options.MasterName).Result()
	if err != nil {
		return nil, err
	}
	replicas, err := sentinel.Replicas(ctx, c.options.MasterName).Result()
	if err != nil {
		return nil, err
	}
	addrs := []string{net.JoinHostPort(master[0], master[1])}
	for _, replica := range replicas {
		if flags := replica["flags"]; !strings.Contains(flags, "_down") && !strings.Contains(flags, "disconnected") {
			addrs = append(addrs, net.JoinHostPort(replica["ip"], replica["port"]))
		}
	}
	return addrs, nil
}
