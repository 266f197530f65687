package intercept

import (
	"crypto/tls"
)

// MaxHello bounds a ClientHello with its records' heads, in bytes: more is no
// TLS. The largest of today's, with two post-quantum keys, has 4 KiB.
const MaxHello = 64 << 10

// Status is how far the first bytes of a connection tell what they are.
type Status int

const (
	// NeedMore is so far a ClientHello, and not the whole of it.
	NeedMore Status = iota
	// NotTLS is not the beginning of a well-formed ClientHello. More bytes change nothing.
	NotTLS
	// Complete is a whole ClientHello.
	Complete
)

// Hello is what a ClientHello (RFC 8446 section 4.1.2) says, as far as it
// matters here.
type Hello struct {
	// ServerName is the DNS name in lower case. Empty: the client named none,
	// or what it named is no DNS name, as an IP address.
	ServerName string
	// ALPN are the application protocols that the client offers, its favourite first.
	ALPN []string
	// MaxVersion is the newest of TLS 1.0 to 1.3 that the client offers; 0 for none.
	MaxVersion uint16
	// ECH: an encrypted ClientHello came along (RFC 9849), and ServerName is
	// the outer one. Clients also send what only looks like it, for practice.
	ECH bool
	// EarlyData: requests follow at once, under a key of an earlier connection
	// that the server has and we have not.
	EarlyData bool

	raw []byte // the connection's first bytes, the ClientHello among them
}

// TLS's numbers: records' and messages' types, and extensions.
const (
	recordAlert      = 21
	recordHandshake  = 22
	recordHead       = 5
	maxRecord        = 1 << 14
	clientHello      = 1
	messageHead      = 4
	extServerName    = 0
	extALPN          = 16
	extEarlyData     = 42
	extVersions      = 43
	extECH           = 0xfe0d
	maxExtensions    = 128
	maxServerNameLen = 253
)

// ReadHello reads the ClientHello that a connection begins with: data is all
// that has been received of it, and is neither consumed nor changed. A Hello
// keeps data, which must stay as it is until Intercept has returned.
//
// It is strict: what it calls Complete, crypto/tls reads alike, but for what
// it does not look at, and for a name with a dot at its end, which crypto/tls
// refuses.
func ReadHello(data []byte) (Hello, Status) {
	bounded := data[:min(len(data), MaxHello)]
	message, status := helloMessage(bounded)
	switch {
	case status == NeedMore && len(bounded) == MaxHello:
		return Hello{}, NotTLS
	case status != Complete:
		return Hello{}, status
	}
	h := Hello{raw: data}
	if !h.read(message) {
		return Hello{}, NotTLS
	}
	return h, Complete
}

// helloMessage returns the ClientHello's body: a part of data where one record
// holds it, put together where several do.
func helloMessage(data []byte) ([]byte, Status) {
	var head [messageHead]byte
	have, need := 0, -1 // bytes of the message, its head included
	for at := 0; ; {
		payload, whole, status := record(data[at:])
		if status != Complete {
			return nil, status
		}
		if have < len(head) {
			copy(head[have:], payload)
		}
		have += len(payload)
		if have > 0 && head[0] != clientHello {
			return nil, NotTLS
		}
		if need < 0 && have >= len(head) {
			need = len(head) + int(head[1])<<16 + int(head[2])<<8 + int(head[3])
		}
		switch {
		case need > MaxHello:
			return nil, NotTLS
		case (need < 0 || have < need) && !whole:
			return nil, NeedMore
		case need < 0 || have < need:
			at += recordHead + len(payload)
		case at == 0:
			return payload[messageHead:need], Complete
		default:
			return assemble(data, need)[messageHead:], Complete
		}
	}
}

// record returns what is there of the first record's payload, and whether that
// is all of it.
func record(data []byte) (payload []byte, whole bool, status Status) {
	if len(data) > 0 && data[0] != recordHandshake || len(data) > 1 && data[1] != 3 {
		return nil, false, NotTLS
	}
	if len(data) < recordHead {
		return nil, false, NeedMore
	}
	length := int(data[3])<<8 | int(data[4])
	if length == 0 || length > maxRecord { // RFC 8446 section 5.1
		return nil, false, NotTLS
	}
	payload = data[recordHead:]
	if len(payload) < length {
		return payload, false, Complete
	}
	return payload[:length], true, Complete
}

// assemble puts a message of several records together; all its bytes are there.
func assemble(data []byte, need int) []byte {
	message := make([]byte, 0, need)
	for len(message) < need {
		payload, _, _ := record(data)
		data = data[recordHead+len(payload):]
		message = append(message, payload[:min(len(payload), need-len(message))]...)
	}
	return message
}

// read reads a ClientHello's body and reports whether it is well formed.
func (h *Hello) read(message []byte) bool {
	c := cursor{rest: message}
	legacy := c.uint16()
	c.take(32) // random
	session := c.take(c.uint8())
	suites := c.take(c.uint16())
	compressions := c.take(c.uint8())
	if c.failed || legacy>>8 != 3 || len(session) > 32 || len(suites) < 2 || len(suites)%2 != 0 || len(compressions) == 0 {
		return false
	}
	if legacy >= tls.VersionTLS10 {
		h.MaxVersion = uint16(min(legacy, tls.VersionTLS12))
	}
	if len(c.rest) == 0 {
		return true // none of the extensions, as SSL 3.0 had it
	}
	extensions := cursor{rest: c.take(c.uint16())}
	return !c.failed && len(c.rest) == 0 && h.readExtensions(extensions)
}

// cursor reads big-endian numbers and bytes; when they do not suffice it has
// failed, and yields nothing from then on.
type cursor struct {
	rest   []byte
	failed bool
}

func (c *cursor) take(n int) []byte {
	if c.failed || n > len(c.rest) {
		c.failed, c.rest = true, nil
		return nil
	}
	taken := c.rest[:n]
	c.rest = c.rest[n:]
	return taken
}

func (c *cursor) uint8() int {
	if b := c.take(1); b != nil {
		return int(b[0])
	}
	return 0
}

func (c *cursor) uint16() int {
	if b := c.take(2); b != nil {
		return int(b[0])<<8 | int(b[1])
	}
	return 0
}
