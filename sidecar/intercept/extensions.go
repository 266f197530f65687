package intercept

import (
	"crypto/tls"
	"net/netip"
	"strings"
)

func (h *Hello) readExtensions(c cursor) bool {
	var seen [maxExtensions]uint16
	for n := 0; len(c.rest) > 0; n++ {
		kind := uint16(c.uint16())
		body := cursor{rest: c.take(c.uint16())}
		if c.failed || n == len(seen) {
			return false
		}
		for _, before := range seen[:n] {
			if before == kind {
				return false
			}
		}
		seen[n] = kind
		if !h.readExtension(kind, body) {
			return false
		}
	}
	return true
}

func (h *Hello) readExtension(kind uint16, body cursor) bool {
	switch kind {
	case extServerName:
		return h.readServerName(body)
	case extALPN:
		return h.readALPN(body)
	case extVersions:
		return h.readVersions(body)
	case extECH:
		h.ECH = true
	case extEarlyData:
		h.EarlyData = true
	}
	return true
}

// readServerName reads RFC 6066 section 3: a list with one host name.
func (h *Hello) readServerName(body cursor) bool {
	list := cursor{rest: body.take(body.uint16())}
	if body.failed || len(body.rest) > 0 || len(list.rest) == 0 {
		return false
	}
	named := false
	for len(list.rest) > 0 {
		kind := list.uint8()
		name := list.take(list.uint16())
		if list.failed || len(name) == 0 || kind == 0 && named {
			return false
		}
		if kind == 0 {
			named = true
			h.ServerName = serverName(name)
		}
	}
	return true
}

// serverName is the DNS name in lower case; empty when it is none. A dot at the
// end, which RFC 6066 rules out, is passed over as servers do (nginx): it must
// not hide the name. Intercept lets such a Hello pass, as crypto/tls refuses it.
func serverName(name []byte) string {
	if n := len(name); n > 0 && name[n-1] == '.' {
		name = name[:n-1]
	}
	if len(name) > maxServerNameLen {
		return ""
	}
	label := 0
	for _, b := range name {
		switch {
		case b == '.' && label == 0:
			return ""
		case b == '.':
			label = 0
		case 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_':
			label++
		default:
			return ""
		}
		if label > 63 {
			return ""
		}
	}
	if label == 0 {
		return ""
	}
	if last := name[len(name)-1]; '0' <= last && last <= '9' {
		if _, err := netip.ParseAddr(string(name)); err == nil {
			return ""
		}
	}
	return strings.ToLower(string(name))
}

// readALPN reads RFC 7301 section 3.1.
func (h *Hello) readALPN(body cursor) bool {
	list := cursor{rest: body.take(body.uint16())}
	if body.failed || len(body.rest) > 0 || len(list.rest) == 0 {
		return false
	}
	h.ALPN = make([]string, 0, 2)
	for len(list.rest) > 0 {
		name := list.take(list.uint8())
		if list.failed || len(name) == 0 {
			return false
		}
		h.ALPN = append(h.ALPN, protocolName(name))
	}
	return true
}

// protocolName is a string that, for the usual ones, costs nothing.
func protocolName(name []byte) string {
	switch string(name) {
	case protocolHTTP2:
		return protocolHTTP2
	case protocolHTTP1:
		return protocolHTTP1
	}
	return string(name)
}

// readVersions reads RFC 8446 section 4.2.1, passing over what is no version.
func (h *Hello) readVersions(body cursor) bool {
	list := cursor{rest: body.take(body.uint8())}
	if body.failed || len(body.rest) > 0 || len(list.rest) == 0 {
		return false
	}
	h.MaxVersion = 0
	for len(list.rest) > 0 {
		version := uint16(list.uint16())
		if tls.VersionTLS10 <= version && version <= tls.VersionTLS13 {
			h.MaxVersion = max(h.MaxVersion, version)
		}
	}
	return !list.failed
}
