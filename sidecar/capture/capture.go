// Package capture leads a pod's connections through the sidecar: it writes one
// nftables table into the pod's network namespace, and tells for a captured
// connection where it was going.
//
// Only new TCP connections to the configured ports are redirected. What the
// sidecar's own user sends, what travels over loopback (a pod that calls its
// own address), and everything else is left alone. The table is of family inet,
// so it holds for IPv4 and IPv6, and works where a host has only one of them.
package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// Table is the name of the nftables table, of family inet.
const Table = "weir"

// maxPorts bounds each list of ports.
const maxPorts = 64

// ErrNotCaptured is returned by OriginalDestination for a connection that was
// made to the sidecar's own port: forwarding it would lead back to the sidecar.
var ErrNotCaptured = errors.New("the connection was made to the sidecar's own port, not captured")

// Config says what is captured.
type Config struct {
	// InboundPorts and OutboundPorts are the TCP ports of captured connections,
	// up to 64 each; none captures nothing in that direction.
	InboundPorts, OutboundPorts []uint16
	// UID is the sidecar's user. Not 0: root's connections in an application
	// container would pass uncaptured.
	UID uint32
	// InboundPort and OutboundPort are where the sidecar accepts.
	InboundPort, OutboundPort uint16
}

// check finds what makes a Config unusable.
func (c Config) check() error {
	switch {
	case c.UID == 0:
		return errors.New("the sidecar's user must not be root (UID 0): nothing that root sends would be captured")
	case c.InboundPort == 0 || c.OutboundPort == 0 || c.InboundPort == c.OutboundPort:
		return fmt.Errorf("the sidecar's ports %d (inbound) and %d (outbound) must be two, and not 0", c.InboundPort, c.OutboundPort)
	}
	for _, list := range []struct {
		direction string
		ports     []uint16
	}{{"inbound", c.InboundPorts}, {"outbound", c.OutboundPorts}} {
		if len(list.ports) > maxPorts {
			return fmt.Errorf("%d %s ports are more than the %d that can be captured", len(list.ports), list.direction, maxPorts)
		}
		if slices.Contains(list.ports, 0) {
			return fmt.Errorf("0 is not a port (in the %s ports)", list.direction)
		}
	}
	return nil
}

// inbound are the captured inbound ports: sorted, each once, none the
// sidecar's own. A captured health port would make the pod's probes loop.
func (c Config) inbound() []uint16 {
	own := []uint16{c.InboundPort, c.OutboundPort, ruleset.LocalPort, ruleset.HealthPort}
	return slices.DeleteFunc(set(c.InboundPorts), func(port uint16) bool { return slices.Contains(own, port) })
}

// outbound are the captured outbound ports, sorted, each once. They are ports
// of other hosts, so the sidecar's own numbers are as good as any.
func (c Config) outbound() []uint16 { return set(c.OutboundPorts) }

// set is a sorted copy without repetitions.
func set(ports []uint16) []uint16 {
	sorted := slices.Clone(ports)
	slices.Sort(sorted)
	return slices.Compact(sorted)
}

// Listen accepts captured connections on a port of every address, of IPv6 too
// where the host has it. Not with Multipath TCP, which Go's listeners offer
// otherwise: such a socket does not tell its original destination.
func Listen(ctx context.Context, port uint16) (net.Listener, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false)
	listener, err := config.Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, fmt.Errorf("listening for captured connections: %w", err)
	}
	return listener, nil
}
