// Package ruleset is the contract between the operator and a sidecar: what one
// sidecar enforces, and what the two say to each other about it. Both sides
// import it, so it imports no Kubernetes library.
package ruleset

import "time"

// Ruleset is everything that one sidecar enforces. It is a value: two equal
// Rulesets have equal versions, whichever operator replica computed them.
type Ruleset struct {
	// Version names the content: see (*Ruleset).Seal.
	Version string `json:"version"`
	// Namespace of the pod, the first part of every Redis key.
	Namespace string `json:"namespace"`
	// Store is absent in what is stamped into a pod: credentials travel only
	// over the link.
	Store *Store `json:"store,omitempty"`
	// Link is where and with which authorities the next Ruleset is asked for.
	Link Link `json:"link"`
	// Authorities are PEM: every authority that may sign the leaves of this
	// namespace, the newest last. Empty while no policy of the namespace
	// intercepts. Their keys never leave the operator.
	Authorities string `json:"authorities,omitempty"`
	// HostRoots are PEM: authorities of hosts whose TLS is intercepted, beside
	// the usual ones.
	HostRoots string `json:"hostRoots,omitempty"`
	// Policies that select the pod, ordered by name.
	Policies []Policy `json:"policies,omitempty"`
	// Tracing is absent while nobody collects traces, and in what is stamped
	// into a pod.
	Tracing *Tracing `json:"tracing,omitempty"`
}

// Tracing has requests that meet a policy recorded as OpenTelemetry spans.
type Tracing struct {
	// Endpoint is the base URL of a collector of OTLP over HTTP, without
	// credentials.
	Endpoint string `json:"endpoint"`
	// Ratio of the traces that begin at the sidecar is recorded, 0 to 1. Others
	// are recorded where whoever began them does.
	Ratio float64 `json:"ratio"`
}

// Store is the Redis that holds the windows.
type Store struct {
	// URL as package redisurl says, with clock=caller where scripts may not read
	// the server's clock. Secret: never logged.
	URL string `json:"url"`
	// CABundle is PEM to verify a rediss:// server with, beside the system's roots.
	CABundle string `json:"caBundle,omitempty"`
	// InsecureSkipVerify turns verification of a rediss:// server off.
	InsecureSkipVerify bool `json:"insecureSkipVerify,omitempty"`
	// Timeout bounds one decision, in milliseconds; retries included.
	TimeoutMillis int64 `json:"timeoutMillis"`
}

// Timeout bounds one decision, retries included.
func (s *Store) Timeout() time.Duration { return time.Duration(s.TimeoutMillis) * time.Millisecond }

// Link is how a sidecar reaches the operator.
type Link struct {
	// Address is host:port.
	Address string `json:"address"`
	// CABundle is PEM; the operator's certificate must verify against it for
	// the host of Address. It may hold several authorities during a rotation.
	CABundle string `json:"caBundle"`
}

// Direction of the requests that a policy holds.
type Direction string

// The directions.
const (
	Inbound  Direction = "Inbound"
	Outbound Direction = "Outbound"
)

// Policy is one RateLimitPolicy, as the sidecar needs it. Its enumerations have
// the words of the API.
type Policy struct {
	PolicyRef
	Service   string    `json:"service"`
	Direction Direction `json:"direction"`
	// Hosts are lower case, "*.example.com" for any subdomain; empty: any.
	Hosts     []string   `json:"hosts,omitempty"`
	Match     []Match    `json:"match,omitempty"`
	Sources   []Source   `json:"sources"`
	IfMissing IfMissing  `json:"ifMissing"`
	Limits    []Limit    `json:"limits"`
	Overrides []Override `json:"overrides,omitempty"`
	// Resets are of callers whose windows were emptied a moment ago: what a sidecar
	// remembers of them holds no more.
	Resets         []Reset        `json:"resets,omitempty"`
	Observe        bool           `json:"observe,omitempty"`
	OnStoreFailure OnStoreFailure `json:"onStoreFailure"`
	// Enforcers are the sidecars that enforce the policy, rounded up; 0: not
	// known, and with Local each sidecar admits one request a window. Told where
	// onStoreFailure is Local.
	Enforcers int64 `json:"enforcers,omitempty"`
	// Wait holds a request that exceeds the limit; nil refuses it at once.
	Wait *Wait `json:"wait,omitempty"`
	// Intercept ends the TLS of connections to Hosts, so that their requests
	// are seen; only of Outbound policies.
	Intercept bool `json:"intercept,omitempty"`
}

// Wait holds requests that exceed a limit until the next free slot, first come,
// first served for each identity.
type Wait struct {
	// MaxWaitMillis bounds the time of one request.
	MaxWaitMillis int64 `json:"maxWaitMillis"`
	// MaxWaiting bounds the requests of one identity that a sidecar holds.
	MaxWaiting int64 `json:"maxWaiting"`
}

// MaxWait bounds the time of one request.
func (w *Wait) MaxWait() time.Duration { return time.Duration(w.MaxWaitMillis) * time.Millisecond }

// PolicyRef says which policy, and which edit of it.
type PolicyRef struct {
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
}

// Match holds for a request when all that it states does.
type Match struct {
	Methods []string      `json:"methods,omitempty"`
	Path    *Path         `json:"path,omitempty"`
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// HeaderMatch holds when a line of the header has the value.
type HeaderMatch struct {
	Name  string          `json:"name"`
	Type  HeaderMatchType `json:"type"`
	Value string          `json:"value"`
}

// HeaderMatchType says how a header is compared.
type HeaderMatchType string

// The header match types; a regular expression matches the whole value.
const (
	HeaderExact             HeaderMatchType = "Exact"
	HeaderRegularExpression HeaderMatchType = "RegularExpression"
)

// PathType says how a path is compared.
type PathType string

// The path types.
const (
	PathPrefix            PathType = "Prefix"
	PathExact             PathType = "Exact"
	PathRegularExpression PathType = "RegularExpression"
)

// Path compares a request's path.
type Path struct {
	Type  PathType `json:"type"`
	Value string   `json:"value"`
}

// Source is one place where a caller's name may be; exactly one field is set.
type Source struct {
	Header      *HeaderSource `json:"header,omitempty"`
	BearerToken bool          `json:"bearerToken,omitempty"`
	// JWTClaim is the name of a claim of the bearer token, read, not verified.
	JWTClaim string `json:"jwtClaim,omitempty"`
	// Cookie and QueryParameter are their names, with case.
	Cookie         string          `json:"cookie,omitempty"`
	QueryParameter string          `json:"queryParameter,omitempty"`
	ClientIP       *ClientIPSource `json:"clientIP,omitempty"`
}

// ClientIPSource is the address that a request came from.
type ClientIPSource struct {
	// TrustedHops is how many proxies before the pod append to X-Forwarded-For:
	// the caller is that entry, counted from the last. 0: the connection's peer.
	TrustedHops int64 `json:"trustedHops,omitempty"`
	// IPv6PrefixLength, 1 to 128, names IPv6 callers by their network.
	IPv6PrefixLength int64 `json:"ipv6PrefixLength"`
}

// HeaderSource is a request header, removed before forwarding when Strip.
type HeaderSource struct {
	Name  string `json:"name"`
	Strip bool   `json:"strip,omitempty"`
}

// IfMissing says what becomes of a request that names no caller.
type IfMissing string

// What becomes of unnamed callers.
const (
	IfMissingShared IfMissing = "Shared"
	IfMissingBypass IfMissing = "Bypass"
	IfMissingReject IfMissing = "Reject"
)

// OnStoreFailure says what becomes of a request when Redis does not answer.
type OnStoreFailure string

// What becomes of requests without Redis.
const (
	// OnStoreFailureLocal: this sidecar's share of the limits, one part of
	// Policy.Enforcers.
	OnStoreFailureLocal OnStoreFailure = "Local"
	OnStoreFailureAllow OnStoreFailure = "Allow"
	OnStoreFailureDeny  OnStoreFailure = "Deny"
)

// Limit admits Requests in any window of WindowMillis milliseconds.
type Limit struct {
	Requests     int64 `json:"requests"`
	WindowMillis int64 `json:"windowMillis"`
}

// Window is the sliding window's length.
func (l Limit) Window() time.Duration { return time.Duration(l.WindowMillis) * time.Millisecond }

// Reset says whose windows were emptied, and when, in microseconds of Unix time:
// another of the same caller is another.
type Reset struct {
	Identity string `json:"identity"`
	AtMicros int64  `json:"atMicros"`
}

// Override replaces a policy's limits for some identities; no Limits: unlimited.
type Override struct {
	Identities []string `json:"identities"`
	Limits     []Limit  `json:"limits,omitempty"`
	// UntilMillis of Unix time it holds, by the sidecar's clock: it is a grant,
	// and stands before what is not. 0: always.
	UntilMillis int64 `json:"untilMillis,omitempty"`
}

// Holds says whether an override does at a time.
func (o *Override) Holds(now time.Time) bool {
	return o.UntilMillis == 0 || now.UnixMilli() < o.UntilMillis
}

// LimitsFor returns the limits that hold for an identity at a time: the first
// override that names it, or the policy's own. An empty result means unlimited.
func (p *Policy) LimitsFor(identity string, now time.Time) []Limit {
	for _, o := range p.Overrides {
		if !o.Holds(now) {
			continue
		}
		for _, i := range o.Identities {
			if i == identity {
				return o.Limits
			}
		}
	}
	return p.Limits
}
