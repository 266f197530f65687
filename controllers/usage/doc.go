// Package usage answers people, and programs of theirs, what happens at policies
// and who asks most, what is left of a caller's quota and when more is free,
// empties a caller's windows, and grants a caller more for a time. openapi.json
// describes it.
//
// Who asks proves it with a token that the API server knows (TokenReview), or a
// client certificate of its authorities, and may what RBAC says about
// RateLimitPolicies and their subresources usage, resets and grants
// (SubjectAccessReview). Every change is an event of the policy
// and a line of the log, in which a caller has a pseudonym: names are for those
// who may read the policy's status.
//
// A grant is kept in the policy's status and reaches the sidecars with their
// rules, which hold it to its end by themselves. A reset empties the windows in
// Redis, and is told to the sidecars in the same way, so that they forget what
// they refused.
package usage
