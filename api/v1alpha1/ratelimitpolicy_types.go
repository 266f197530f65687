package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Direction says whose requests a policy holds.
// +kubebuilder:validation:Enum=Inbound;Outbound
type Direction string

const (
	// DirectionInbound holds the requests that the selected pods serve.
	DirectionInbound Direction = "Inbound"
	// DirectionOutbound holds the requests that the selected pods send.
	DirectionOutbound Direction = "Outbound"
)

// PathMatchType says how a path is compared.
// +kubebuilder:validation:Enum=Prefix;Exact;RegularExpression
type PathMatchType string

const (
	// PathMatchPrefix matches whole segments: /v1 matches /v1 and /v1/me, not /v10.
	PathMatchPrefix PathMatchType = "Prefix"
	// PathMatchExact matches the whole path.
	PathMatchExact PathMatchType = "Exact"
	// PathMatchRegularExpression matches the whole path with an RE2 expression.
	PathMatchRegularExpression PathMatchType = "RegularExpression"
)

// HeaderMatchType says how a header is compared.
// +kubebuilder:validation:Enum=Exact;RegularExpression
type HeaderMatchType string

const (
	// HeaderMatchExact matches the whole value, with case.
	HeaderMatchExact HeaderMatchType = "Exact"
	// HeaderMatchRegularExpression matches the whole value with an RE2 expression.
	HeaderMatchRegularExpression HeaderMatchType = "RegularExpression"
)

// HTTPMethod is a request method of RFC 9110 or RFC 5789.
// +kubebuilder:validation:Enum=GET;HEAD;POST;PUT;DELETE;CONNECT;OPTIONS;TRACE;PATCH
type HTTPMethod string

// IfMissing says what becomes of a request that names no caller.
// +kubebuilder:validation:Enum=Shared;Bypass;Reject
type IfMissing string

const (
	// IfMissingShared puts all unnamed callers into one quota.
	IfMissingShared IfMissing = "Shared"
	// IfMissingBypass lets unnamed callers pass uncounted.
	IfMissingBypass IfMissing = "Bypass"
	// IfMissingReject answers unnamed callers with 400.
	IfMissingReject IfMissing = "Reject"
)

// OnLimitAction says what becomes of a request that exceeds a limit.
// +kubebuilder:validation:Enum=Reject;Wait
type OnLimitAction string

const (
	// OnLimitReject answers 429 at once.
	OnLimitReject OnLimitAction = "Reject"
	// OnLimitWait holds the request until the next free slot, then answers 429.
	OnLimitWait OnLimitAction = "Wait"
)

// TLSMode says what becomes of TLS connections to a policy's hosts.
// +kubebuilder:validation:Enum=Passthrough;Intercept
type TLSMode string

const (
	// TLSPassthrough passes TLS connections as they are: their requests are
	// neither seen nor counted.
	TLSPassthrough TLSMode = "Passthrough"
	// TLSIntercept ends TLS in the sidecar, so that requests are seen and counted.
	TLSIntercept TLSMode = "Intercept"
)

// Mode says whether a policy limits or only reports.
// +kubebuilder:validation:Enum=Enforce;Observe
type Mode string

const (
	// ModeEnforce does to what exceeds the limit as onLimit says.
	ModeEnforce Mode = "Enforce"
	// ModeObserve counts and reports what would be limited, and limits nothing.
	ModeObserve Mode = "Observe"
)

// OnStoreFailure says what happens to a request when Redis does not answer
// within the store timeout.
// +kubebuilder:validation:Enum=Local;Allow;Deny
type OnStoreFailure string

const (
	// OnStoreFailureLocal has each sidecar hold requests to its share of the
	// limits: limit ÷ sidecars that enforce the policy, and at least 1.
	OnStoreFailureLocal OnStoreFailure = "Local"
	// OnStoreFailureAllow lets requests pass uncounted.
	OnStoreFailureAllow OnStoreFailure = "Allow"
	// OnStoreFailureDeny answers 503.
	OnStoreFailureDeny OnStoreFailure = "Deny"
)

// RateLimitPolicySpec declares how much of a service each caller may use.
// +kubebuilder:validation:XValidation:rule="self.direction != 'Outbound' || (has(self.hosts) && size(self.hosts) > 0)",message="hosts is required when direction is Outbound: name the hosts that the pods call, for example [\"api.spotify.com\"]",fieldPath=".hosts",reason="FieldValueRequired"
// +kubebuilder:validation:XValidation:rule="self.direction == 'Outbound' || !has(self.tls) || self.tls != 'Intercept'",message="tls: Intercept needs direction Outbound: remove tls here, and for requests that the pods serve over HTTPS end TLS before them, at a gateway",fieldPath=".tls"
// +kubebuilder:validation:XValidation:rule="has(self.service) == has(oldSelf.service)",message="service is immutable: delete the policy and create another"
type RateLimitPolicySpec struct {
	// service is the quota's name in Redis, response headers and metrics.
	// Absent: the policy's own name. Immutable.
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="service is immutable: delete the policy and create another"
	Service string `json:"service,omitempty"`

	// direction is Outbound for calls that the pods make and Inbound for
	// calls that they serve. Immutable.
	// +required
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="direction is immutable: delete the policy and create another"
	Direction Direction `json:"direction,omitempty"`

	// podSelector selects pods of the policy's namespace.
	// Absent: every pod that has a sidecar.
	// +optional
	PodSelector *metav1.LabelSelector `json:"podSelector,omitempty"`

	// hosts that requests must name, compared without case and port. A leading
	// "*." stands for one or more labels. Required for Outbound; on Inbound,
	// absent means any host.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=253
	// +kubebuilder:validation:items:Pattern=`^(\*\.)?[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?(\.[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?)*$`
	Hosts []string `json:"hosts,omitempty"`

	// match narrows the policy to some requests: any entry may match.
	// Absent: every request.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Match []RequestMatch `json:"match,omitempty"`

	// identity says how a caller is named; each has a quota of its own.
	// +required
	Identity Identity `json:"identity,omitzero"`

	// limits must all admit a request.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, duration(b.window) == duration(a.window)))",message="two limits have the same window: keep the smaller one"
	Limits []Limit `json:"limits,omitempty"`

	// overrides replace limits for some callers; the first that names the
	// caller holds.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	Overrides []Override `json:"overrides,omitempty"`

	// onLimit says what becomes of a request that exceeds a limit.
	// Absent: it is rejected.
	// +optional
	OnLimit *OnLimit `json:"onLimit,omitempty"`

	// mode is Enforce, or Observe to count and report without limiting.
	// +optional
	// +default="Enforce"
	Mode Mode `json:"mode,omitempty"`

	// onStoreFailure holds while Redis does not answer: with Local each sidecar
	// holds requests to its share of the limits (limit ÷ sidecars that enforce the
	// policy, at least 1), Allow lets them pass uncounted, Deny answers 503. A
	// connection that is to be intercepted and cannot be, so that its requests
	// are not seen, passes with Local and Allow, and is closed with Deny.
	// +optional
	// +default="Local"
	OnStoreFailure OnStoreFailure `json:"onStoreFailure,omitempty"`

	// tls says what becomes of TLS connections to hosts: Passthrough passes
	// them, and their requests are neither seen nor counted; Intercept ends TLS
	// in the sidecar, which sees the requests and verifies the real host itself.
	// Intercept needs direction Outbound.
	// +optional
	// +default="Passthrough"
	TLS TLSMode `json:"tls,omitempty"`
}

// RequestMatch matches a request when everything that it states holds.
// +kubebuilder:validation:MinProperties=1
type RequestMatch struct {
	// methods of which the request must have one. Absent: any.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=9
	Methods []HTTPMethod `json:"methods,omitempty"`

	// path that the request must have. Absent: any.
	// +optional
	Path *PathMatch `json:"path,omitempty"`

	// headers that the request must all have. Absent: any.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	Headers []HeaderMatch `json:"headers,omitempty"`
}

// PathMatch compares the request's path: percent-decoded, dot segments and
// repeated slashes resolved, without the query.
// +kubebuilder:validation:XValidation:rule="self.type == 'RegularExpression' || self.value.startsWith('/')",message="a Prefix or Exact path starts with '/'",fieldPath=".value"
type PathMatch struct {
	// type is Prefix (whole segments), Exact or RegularExpression (RE2, on the whole path).
	// +optional
	// +default="Prefix"
	Type PathMatchType `json:"type,omitempty"`

	// value to compare with.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
}

// HeaderMatch holds when a line of the header has the value. The space around a
// line's value is no part of it.
// +kubebuilder:validation:XValidation:rule="self.type == 'RegularExpression' || !(self.value.startsWith(' ') || self.value.endsWith(' '))",message="an Exact value has no space around it, as the values that it is compared with: remove the space",fieldPath=".value"
type HeaderMatch struct {
	// name of the header, without case.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern="^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"
	Name string `json:"name,omitempty"`

	// type is Exact or RegularExpression (RE2), both on the whole value and with case.
	// +optional
	// +default="Exact"
	Type HeaderMatchType `json:"type,omitempty"`

	// value to compare with.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=1024
	Value string `json:"value,omitempty"`
}

// Identity says how a caller is named.
type Identity struct {
	// sources are tried in order; the first that yields a value names the caller.
	// +required
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	Sources []IdentitySource `json:"sources,omitempty"`

	// ifMissing says what becomes of a request that no source names: Shared
	// (one quota for all of them), Bypass (pass uncounted) or Reject (400).
	// +optional
	// +default="Shared"
	IfMissing IfMissing `json:"ifMissing,omitempty"`
}

// IdentitySource is one place where a caller's name may be.
// +kubebuilder:validation:XValidation:rule="[has(self.header), has(self.bearerToken), has(self.jwtClaim), has(self.cookie), has(self.queryParameter), has(self.clientIP)].exists_one(set, set)",message="an identity source has exactly one of header, bearerToken, jwtClaim, cookie, queryParameter and clientIP: give each an entry of its own in sources"
type IdentitySource struct {
	// header takes a request header's value.
	// +optional
	Header *HeaderSource `json:"header,omitempty"`

	// bearerToken takes the SHA-256 of the Authorization header's bearer
	// token. The token itself is never stored or sent.
	// +optional
	BearerToken *BearerTokenSource `json:"bearerToken,omitempty"`

	// jwtClaim takes a claim of the Authorization header's bearer token, a JSON
	// Web Token. The token is read, not verified: use it where something before
	// the pod, or the application itself, refuses a forged one.
	// +optional
	JWTClaim *JWTClaimSource `json:"jwtClaim,omitempty"`

	// cookie takes a cookie's value.
	// +optional
	Cookie *CookieSource `json:"cookie,omitempty"`

	// queryParameter takes the value of a parameter of the URL's query.
	// +optional
	QueryParameter *QueryParameterSource `json:"queryParameter,omitempty"`

	// clientIP takes the address that the request came from.
	// +optional
	ClientIP *ClientIPSource `json:"clientIP,omitempty"`
}

// HeaderSource names a request header.
type HeaderSource struct {
	// name of the header, without case.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern="^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"
	Name string `json:"name,omitempty"`

	// strip removes the header before the request is forwarded.
	// +optional
	Strip *bool `json:"strip,omitempty"`
}

// BearerTokenSource has no settings.
type BearerTokenSource struct{}

// JWTClaimSource names a claim of a JSON Web Token.
type JWTClaimSource struct {
	// name of a claim at the token's top level, with case: a dot is a part of
	// the name. The claim is a string, an integer or a boolean.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
}

// CookieSource names a cookie.
type CookieSource struct {
	// name of the cookie, with case. Of several the first counts.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern="^[-!#$%&'*+.^_`|~0-9A-Za-z]+$"
	Name string `json:"name,omitempty"`
}

// QueryParameterSource names a parameter of the URL's query.
type QueryParameterSource struct {
	// name of the parameter, decoded and with case. Of several the first counts.
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name,omitempty"`
}

// ClientIPSource says where the caller's address is, and how much of it names
// the caller.
type ClientIPSource struct {
	// trustedHops is how many proxies before the pod append the address that
	// they were called from to X-Forwarded-For: the caller is that entry, counted
	// from the last. 0: the address that the connection came from.
	// +optional
	// +default=0
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	TrustedHops int32 `json:"trustedHops,omitempty"`

	// ipv6PrefixLength is how many bits of an IPv6 address name the caller. 64,
	// the default, is what one subscriber has: with more, a caller could take
	// another address for each request. 128: the whole address.
	// +optional
	// +default=64
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=128
	IPv6PrefixLength int32 `json:"ipv6PrefixLength,omitempty"`
}

// OnLimit says what becomes of a request that exceeds a limit.
// +kubebuilder:validation:XValidation:rule="self.action == 'Wait' || !has(self.maxWait)",message="maxWait needs action: Wait; set that, or remove maxWait",fieldPath=".maxWait"
// +kubebuilder:validation:XValidation:rule="self.action == 'Wait' || !has(self.maxWaiting)",message="maxWaiting needs action: Wait; set that, or remove maxWaiting",fieldPath=".maxWaiting"
type OnLimit struct {
	// action is Reject (429 at once) or Wait: hold the request until the
	// caller's next free slot, first come, first served.
	// +optional
	// +default="Reject"
	Action OnLimitAction `json:"action,omitempty"`

	// maxWait is how long a request is held, in whole seconds, 1s to 5m; then,
	// or at once when its slot would come later, it is answered 429. Only with
	// Wait; absent: 30s.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('5m')",message="maxWait must be from 1s to 5m"
	MaxWait *metav1.Duration `json:"maxWait,omitempty"`

	// maxWaiting is how many requests of one caller each sidecar holds; one
	// more is answered 429 at once. Only with Wait; absent: 100.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	MaxWaiting *int32 `json:"maxWaiting,omitempty"`
}

// Limit is a number of requests in any window of a length.
type Limit struct {
	// requests admitted in any one window.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Requests int32 `json:"requests,omitempty"`

	// window is the sliding window's length in whole seconds, 1s to 744h.
	// +required
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(h|m|s))+$`
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('1s') && duration(self) <= duration('744h')",message="window must be from 1s to 744h (31 days)"
	Window metav1.Duration `json:"window,omitzero"`
}

// Override replaces the limits for some callers.
// +kubebuilder:validation:XValidation:rule="has(self.limits) != (has(self.unlimited) && self.unlimited)",message="an override has either limits or unlimited: true"
type Override struct {
	// identities of the callers, as the sources yield them.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=256
	Identities []string `json:"identities,omitempty"`

	// limits that hold for them instead.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:XValidation:rule="self.all(a, self.exists_one(b, duration(b.window) == duration(a.window)))",message="two limits have the same window: keep the smaller one"
	Limits []Limit `json:"limits,omitempty"`

	// unlimited lets them pass uncounted.
	// +optional
	Unlimited *bool `json:"unlimited,omitempty"`
}

// Condition types of a RateLimitPolicy.
const (
	// ConditionAccepted is True when the policy is valid and in force among
	// the namespace's policies.
	ConditionAccepted = "Accepted"
	// ConditionProgrammed is True when every selected pod's sidecar has said
	// that it enforces observedGeneration.
	ConditionProgrammed = "Programmed"
	// ConditionReady is True when Accepted and Programmed are.
	ConditionReady = "Ready"
	// ConditionDegraded is True while sidecars have no answer from Redis, and do
	// as onStoreFailure says.
	ConditionDegraded = "Degraded"
)

// Reasons of the conditions. Their messages say what to change.
const (
	// ReasonAccepted: the policy is valid (Accepted=True).
	ReasonAccepted = "Accepted"
	// ReasonServiceConflict: an older policy of the namespace has the same
	// service (Accepted=False).
	ReasonServiceConflict = "ServiceConflict"
	// ReasonInvalidSelector: podSelector is not a valid selector (Accepted=False).
	ReasonInvalidSelector = "InvalidSelector"
	// ReasonInvalidMatch: a path's or a header's regular expression does not
	// compile (Accepted=False).
	ReasonInvalidMatch = "InvalidMatch"
	// ReasonTooManyHosts: older policies intercept as many hosts as one
	// authority of the namespace may sign for (Accepted=False).
	ReasonTooManyHosts = "TooManyHosts"

	// ReasonProgrammed: every selected pod enforces the policy (Programmed=True).
	ReasonProgrammed = "Programmed"
	// ReasonNoPods: the policy selects no pod yet (Programmed=True).
	ReasonNoPods = "NoPods"
	// ReasonPending: some sidecars have not acknowledged yet (Programmed=False).
	ReasonPending = "Pending"
	// ReasonSidecarMissing: some selected pods run without a sidecar (Programmed=False).
	ReasonSidecarMissing = "SidecarMissing"
	// ReasonRestartNeeded: some pods began before they could know an authority
	// that may sign for the hosts, and do not intercept (Programmed=False).
	ReasonRestartNeeded = "RestartNeeded"
	// ReasonSidecarRejected: a sidecar could not apply its Ruleset (Programmed=False).
	ReasonSidecarRejected = "SidecarRejected"
	// ReasonNotAccepted: the policy is not accepted, so nothing enforces it (Programmed=False).
	ReasonNotAccepted = "NotAccepted"

	// ReasonReady: the policy is enforced everywhere (Ready=True).
	ReasonReady = "Ready"

	// ReasonStoreAway: some sidecars have no answer from Redis (Degraded=True).
	ReasonStoreAway = "StoreAway"
	// ReasonStoreAnswers: no sidecar says that it has none (Degraded=False).
	ReasonStoreAnswers = "StoreAnswers"
)

// RateLimitPolicyStatus is what the cluster makes of a policy.
type RateLimitPolicyStatus struct {
	// observedGeneration is the spec's generation that this status speaks of.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// service is the quota's name in force: spec.service, or the policy's name.
	// +optional
	Service string `json:"service,omitempty"`

	// limit sums the limits up for people, for example "100/1m".
	// +optional
	Limit string `json:"limit,omitempty"`

	// pods counts selected pods and those whose sidecars enforce the policy.
	// +optional
	Pods *PodCounts `json:"pods,omitempty"`

	// grants are callers with more quota than the policy gives them, for a time.
	// The operator's usage API makes them, and they are taken out at their end.
	// +optional
	// +listType=map
	// +listMapKey=identity
	// +kubebuilder:validation:MaxItems=64
	Grants []Grant `json:"grants,omitempty"`

	// resets are callers whose windows the usage API emptied a moment ago.
	// +optional
	// +listType=map
	// +listMapKey=identity
	// +kubebuilder:validation:MaxItems=64
	Resets []Reset `json:"resets,omitempty"`

	// conditions are Accepted, Programmed, Ready and Degraded.
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=8
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// Bounds.
const (
	// MaxRequests is the largest limit.
	MaxRequests = 1_000_000_000
	MaxGrants   = 64
	MaxResets   = 64
)

// Grant gives one caller more quota until a time.
type Grant struct {
	// identity of the caller, as the policy's sources name it; empty: all unnamed
	// callers together.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Identity string `json:"identity"`
	// requests more, in each window of the policy's limits.
	// +required
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000000000
	Requests int32 `json:"requests"`
	// until when.
	// +required
	Until metav1.Time `json:"until"`
	// by is the user that granted it.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by,omitempty"`
	// reason that the user gave.
	// +optional
	// +kubebuilder:validation:MaxLength=200
	Reason string `json:"reason,omitempty"`
}

// Reset says that the windows of one caller were emptied.
type Reset struct {
	// identity of the caller; empty: all unnamed callers together.
	// +required
	// +kubebuilder:validation:MaxLength=1024
	Identity string `json:"identity"`
	// at when; it is forgotten half a minute later.
	// +required
	At metav1.MicroTime `json:"at"`
	// by is the user that did it.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	By string `json:"by,omitempty"`
}

// PodCounts counts pods.
type PodCounts struct {
	// selected pods that run or are about to.
	// +optional
	Selected int32 `json:"selected"`
	// enforcing is how many of them enforce this generation.
	// +optional
	Enforcing int32 `json:"enforcing"`
	// degraded is how many of them have no answer from Redis; above 16 rounded
	// up, by less than an eighth.
	// +optional
	Degraded int32 `json:"degraded,omitempty"`
	// summary is "enforcing/selected", for kubectl get.
	// +optional
	Summary string `json:"summary,omitempty"`
}

// RateLimitPolicy gives a service a quota for each caller, held over all
// selected pods together.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=rlpol,categories=weir
// +kubebuilder:printcolumn:name="Service",type=string,JSONPath=`.status.service`
// +kubebuilder:printcolumn:name="Direction",type=string,JSONPath=`.spec.direction`
// +kubebuilder:printcolumn:name="Limit",type=string,JSONPath=`.status.limit`
// +kubebuilder:printcolumn:name="Mode",type=string,JSONPath=`.spec.mode`
// +kubebuilder:printcolumn:name="Pods",type=string,JSONPath=`.status.pods.summary`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Reason",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
type RateLimitPolicy struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the object's.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitzero"`

	// spec is the quota that is wanted.
	// +required
	Spec RateLimitPolicySpec `json:"spec,omitzero"`
	// status is what the cluster makes of it.
	// +optional
	Status RateLimitPolicyStatus `json:"status,omitzero"`
}

// ServiceName is the quota's name: spec.service, or the policy's name.
func (p *RateLimitPolicy) ServiceName() string {
	if p.Spec.Service != "" {
		return p.Spec.Service
	}
	return p.Name
}

// RateLimitPolicyList is a list of RateLimitPolicy.
// +kubebuilder:object:root=true
type RateLimitPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitzero"`
	Items           []RateLimitPolicy `json:"items"`
}
