// Package programming turns the RateLimitPolicies of a namespace and the labels
// of a pod into the Ruleset that the pod's sidecar enforces.
//
// It is pure: no client, no clock. The same policies, labels and settings yield
// the same Ruleset with the same version, whichever operator replica asks.
package programming
