package proxy

import (
	"net/netip"
	"strings"

	"github.com/weir-dev/weir/sidecar/ruleset"
)

// maxAddressBytes is more than any address with brackets, zone and port has.
const maxAddressBytes = 128

// addressOf names a caller by address: an IPv4 one whole, of an IPv6 one the
// network. It is empty when the address is not known.
func addressOf(source *ruleset.ClientIPSource, r *request) string {
	addr := r.remote
	if source.TrustedHops > 0 {
		addr = parseAddress(forwardedEntry(r.fields, source.TrustedHops))
	}
	if !addr.IsValid() {
		return ""
	}
	addr = addr.Unmap().WithZone("")
	if bits := int(source.IPv6PrefixLength); addr.Is6() && bits < addr.BitLen() {
		if network, err := addr.Prefix(bits); err == nil {
			return network.String()
		}
	}
	return addr.String()
}

// forwardedEntry is an entry of all X-Forwarded-For fields together, counted
// from the last, which is 1: each proxy appends one. Empty entries count, so
// that nothing that a caller sends moves what the proxies have appended.
func forwardedEntry(fields []field, fromLast int64) string {
	for i := len(fields) - 1; i >= 0; i-- {
		if !sameName(fields[i].name, "X-Forwarded-For") {
			continue
		}
		for rest, more := fields[i].value, true; more; fromLast-- {
			entry := rest
			comma := strings.LastIndexByte(rest, ',')
			if more = comma >= 0; more {
				rest, entry = rest[:comma], rest[comma+1:]
			}
			if fromLast == 1 {
				return trimSpace(entry)
			}
		}
	}
	return ""
}

// parseAddress reads an address, with or without port, IPv6 with or without
// brackets; not valid when it is none.
func parseAddress(s string) netip.Addr {
	if len(s) > maxAddressBytes {
		return netip.Addr{}
	}
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr
	}
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr()
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if addr, err := netip.ParseAddr(inner); err == nil && addr.Is6() {
				return addr
			}
		}
	}
	return netip.Addr{}
}
