package proxy

import (
	"encoding/json"
	"strconv"
)

// problem is the body of a refusal, RFC 9457.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// ViolatedPolicies are names of items of RateLimit-Policy.
	ViolatedPolicies []string `json:"violated-policies,omitempty"`
	// Policy is namespace/name of the one to wait longest for; Service, Limit
	// (requests) and Window (seconds) are its.
	Policy  string `json:"policy,omitempty"`
	Service string `json:"service,omitempty"`
	Limit   int64  `json:"limit,omitempty"`
	Window  int64  `json:"window,omitempty"`
	// RetryAfterMillis is rounded up: asked then, a lone caller is admitted.
	RetryAfterMillis int64 `json:"retryAfterMs,omitempty"`
}

// appendJSON is encoding/json's Marshal at a tenth of its cost, which a client
// that hammers would have us pay each time.
func (p *problem) appendJSON(b []byte) []byte {
	b = appendJSONString(append(b, `{"type":`...), p.Type)
	b = appendJSONString(append(b, `,"title":`...), p.Title)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(p.Status), 10)
	b = appendJSONString(append(b, `,"detail":`...), p.Detail)
	for i, name := range p.ViolatedPolicies {
		if i == 0 {
			b = append(b, `,"violated-policies":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendJSONString(b, name)
	}
	if len(p.ViolatedPolicies) > 0 {
		b = append(b, ']')
	}
	if p.Policy != "" {
		b = appendJSONString(append(b, `,"policy":`...), p.Policy)
	}
	if p.Service != "" {
		b = appendJSONString(append(b, `,"service":`...), p.Service)
	}
	for _, n := range [...]struct {
		name  string
		value int64
	}{{`,"limit":`, p.Limit}, {`,"window":`, p.Window}, {`,"retryAfterMs":`, p.RetryAfterMillis}} {
		if n.value != 0 {
			b = strconv.AppendInt(append(b, n.name...), n.value, 10)
		}
	}
	return append(b, '}')
}

func appendJSONString(b []byte, s string) []byte {
	start := len(b)
	b = append(b, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < 0x20 || c > 0x7e || c == '<' || c == '>' || c == '&':
			encoded, err := json.Marshal(s)
			if err != nil {
				panic(err) // strings encode
			}
			return append(b[:start], encoded...)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}
