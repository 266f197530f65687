//go:build !linux

package capture

import (
	"errors"
	"net"
	"net/netip"
	"runtime"
)

var errUnsupported = errors.New("capturing connections needs Linux's nftables, and this is " + runtime.GOOS)

// Install fails: there is no nftables.
func Install(Config) error { return errUnsupported }

// OriginalDestination fails: nothing is captured.
func OriginalDestination(net.Conn) (netip.AddrPort, error) { return netip.AddrPort{}, errUnsupported }
