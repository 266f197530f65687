// Package store looks after the Redis that all sidecars share. Where the user
// of the operator's URL may, it makes a user in Redis for each namespace, whose
// credential is the only one that the namespace's sidecars get: stolen, it
// reads and writes nothing of another namespace.
//
// A user is for one namespace and one period: at the next period sidecars get
// another, and the former one is removed when a whole period more has passed,
// which also ends its connections. Its name says all that its password is made
// of, beside a key that only the operator has; so every replica hands out the
// same without asking another, and makes a user that Redis has forgotten as it
// was.
//
// Redis without an aclfile forgets users when it restarts, and does not pass
// them to replicas: every replica of the operator looks every two seconds which
// each server has, and makes those that are missing.
package store
