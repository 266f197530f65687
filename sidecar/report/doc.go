// Package report says what happened at each policy, whichever pod is asked: the
// sidecars count, and add what they counted to Redis every two seconds, beside
// the logs of the limiter.
//
// # What is kept
//
// For each policy, under keys that begin with ratelimit:{namespace/service}: and
// so are one namespace's, and lie in one slot of a Redis Cluster:
//
//   - seconds:N, minutes:N are hashes of counters: requests admitted, limited, and
//     decided while Redis did not, in buckets of 2 s for two minutes and of 1 m
//     for an hour. Field "7l" is of the eighth bucket of the hash's period.
//   - callers:N, limited:N are sorted sets of a minute's callers, by the units that
//     they asked for, and by those that they were refused; for ten minutes, and of
//     the maxKept with the most.
//   - refusals is a list of the last maxRefusals refusals, for an hour.
//
// All expire. A request that no limit decided on (bypassed, or refused because
// nobody was named) is in none of them.
//
// # What it costs
//
// A request pays for a lock of its policy alone and a look at up to 64 hashes, and
// allocates nothing. A sidecar holds two intervals of a policy, each of at most 64
// callers (those who asked most, by Space-Saving: Metwally, Agrawal and El Abbadi,
// 2005) and four refusals, whatever is asked; an interval in which nothing happened
// is not sent. More than eight callers are told every ten seconds only, since two
// commands for each are what costs Redis most: 0.2 ms for 64 with refusals. Reports have a connection of their own, and what cannot be sent is
// dropped, and counted so: no request waits for them, and counters may be too
// small, never too large.
//
// Who may write a namespace's keys may write what they like into them: Read bounds
// what it takes from Redis, and ignores what is not as above.
package report
